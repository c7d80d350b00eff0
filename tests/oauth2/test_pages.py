"""The env files of the providers' pages log in at real mail servers, and `check` then says what the pages show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from anyio.to_thread import run_sync

from fakes.oauth2 import FakeAuthorizationServer
from interop.proxy import run
from oauth2.support import SECRET, server_tls
from oauth2.test_grants import RSA_KEY, pem
from oauth2.test_real_servers import mail_servers
from pages import Block, blocks
from realservers.certificates import Certificates

GRANTS = {"microsoft365.md": "client_credentials", "google.md": "jwt_bearer"}
"""Those that need nobody's consent."""

ENV_FILES = [
    block
    for block in blocks("env")
    if block.page.name in GRANTS
    and block.text.startswith("# mail-proxy.env\n")
    and f"OAUTH2_GRANT={GRANTS[block.page.name]}\n" in block.text
    and "PROVIDER=microsoft365-graph\n" not in block.text  # tests/graph has that one
]


def general(line: str) -> str:
    """The line without what differs from server to server."""
    line = re.sub(r"(reached) .+? port \d+", r"\1 …", line)
    line = re.sub(r"logged in as \S+", "logged in as …", line)
    return re.sub(r"good for \d+ s.*", "good for … s", line)


def test_each_page_has_one() -> None:
    assert {block.page.name for block in ENV_FILES} == set(GRANTS)


@pytest.mark.parametrize("block", ENV_FILES, ids=str)
async def test_check_says_what_the_page_shows(block: Block, certificates: Certificates, tmp_path: Path) -> None:
    told = dict(line.split("=", 1) for line in block.text.splitlines()[1:])
    jwt_bearer = told["OAUTH2_GRANT"] == "jwt_bearer"
    secret, key = (None, RSA_KEY.public_key()) if jwt_bearer else (SECRET, None)
    async with (
        FakeAuthorizationServer(tls=server_tls(certificates.good), client_secret=secret, service_key=key) as tokens,
        mail_servers(certificates.good, tokens, "plain xoauth2") as (dovecot, postfix),
    ):
        account = dovecot.add_account()
        tokens.user = account.name
        ca_file = str(certificates.good.ca_file)
        used = told | {"OAUTH2_TOKEN_URL": tokens.url("token"), "STATE_DIR": str(tmp_path / "state")}
        used |= {f"{place}_CA_FILE": ca_file for place in ("OAUTH2", "BACKEND_IMAP", "BACKEND_SMTP")}
        used |= {name: account.name for name in told if name.endswith("_USER")}
        starttls = told["PROVIDER"] == "microsoft365"
        used |= {"BACKEND_SMTP_HOST": "localhost", "BACKEND_IMAP_HOST": "localhost"}
        used["BACKEND_SMTP_PORT"] = str(postfix.submission_port if starttls else postfix.smtps_port)
        used["BACKEND_IMAP_PORT"] = str(dovecot.imaps_port)
        if jwt_bearer:
            robot = {"client_email": tokens.client_id, "private_key": pem(RSA_KEY), "private_key_id": "1"}
            used["OAUTH2_SERVICE_ACCOUNT_FILE"] = str(tmp_path / "service-account.json")
            (tmp_path / "service-account.json").write_text(json.dumps(robot))
        else:
            used["OAUTH2_CLIENT_ID"] = tokens.client_id
            used["OAUTH2_CLIENT_SECRET_FILE"] = str(tmp_path / "client-secret")
            (tmp_path / "client-secret").write_text(SECRET)
        checked = await run_sync(lambda: run("check", **used))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    said = [general(line) for line in checked.stdout.splitlines()]
    (shown,) = [each.text for each in blocks("text") if each.page == block.page]
    expected = [general(line) for line in shown.splitlines()]
    if "MAILDROP_PLUGIN" not in told:
        expected = [line for line in expected if "maildrop none" not in line]
        assert [line for line in said if line.startswith("ok       maildrop imap: logged in as")] != []
    assert [line for line in said if line in expected] == expected, checked.stdout
