"""README's way from nothing to a scan that has arrived, with a real provider's server in the place of its example."""

from __future__ import annotations

import re
import smtplib
from pathlib import Path

from interop.proxy import run, running
from pages import README, blocks
from realservers.accounts import Account
from realservers.postfix import Postfix

MESSAGE = "From: scan@firm.example\r\nSubject: a scan\r\n\r\none page\r\n"


def facts(line: str) -> list[str]:
    return re.findall(r" ([a-z]+)=", line)


def test_a_device_that_only_sends(postfix: Postfix, account: Account, tmp_path: Path) -> None:
    (env,) = [block for block in blocks("env") if block.page == README]
    told = dict(line.split("=", 1) for line in env.text.splitlines() if not line.startswith("#"))
    password = tmp_path / "mail-password"
    password.write_text(account.password + "\n")
    ours = {
        "BACKEND_SMTP_HOST": "localhost",
        "BACKEND_SMTP_PORT": str(postfix.smtps_port),
        "BACKEND_SMTP_USER": account.name,
        "BACKEND_SMTP_PASS_FILE": str(password),
    }
    # Whoever fills it in changes these and nothing else.
    assert told.keys() - ours.keys() == {"MAILDROP_PLUGIN"}
    variables = told | ours | {"BACKEND_SMTP_CA_FILE": str(postfix.ca_file), "STATE_DIR": str(tmp_path)}

    checked = run("check", **variables)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert [line for line in checked.stdout.splitlines() if not line.startswith("ok ")] == []

    with running(variables) as proxy:
        with smtplib.SMTP(*proxy.smtp, local_hostname="scanner", timeout=30) as device:
            device.sendmail("scan@firm.example", [account.address], MESSAGE)
        (relayed,) = proxy.wait_for("message relayed")
    (shown,) = [block.text for block in blocks("text") if block.page == README]
    # There they are broken to fit the page.
    lines = re.sub(r"\n +", " ", shown).splitlines()
    assert [facts(line) for line in lines] == [facts(relayed)]
    assert 'backend="250 2.0.0 Ok: queued as ' in lines[0]
    assert re.search('backend="250 2.0.0 Ok: .*queued as ', relayed)
