"""``check``: as JSON, on a terminal, and with a test message through the whole proxy to real servers."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from interop.proxy import backends, clean_environment, command, run, running
from legacy_email_proxy.alerts.memory import FILE_NAME, Memory, save
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import LATER_RECIPIENT, REFUSED_SENDER, UNKNOWN_RECIPIENT, Postfix
from realservers.processes import free_ports

NO_POP3 = {"MAILDROP_PLUGIN": "none"}


def checked(variables: Mapping[str, str], *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    """The findings, of a check that ends with ``status``."""
    done = run("check", "--json", *arguments, **variables)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["ok"] == (status == 0)
    findings: list[dict[str, Any]] = found["findings"]
    for each in findings:
        assert list(each) == ["ok", "level", "leg", "plugin", "account", "text", "advice"]
        assert each["ok"] == (each["level"] != "failed")
    return findings


def texts(findings: list[dict[str, Any]], leg: str) -> list[str]:
    return [each["text"] for each in findings if each["leg"] == leg]


@pytest.fixture
def variables(dovecot: Dovecot, postfix: Postfix, account: Account, tmp_path: Path) -> dict[str, str]:
    return backends(dovecot, postfix, account) | {"STATE_DIR": str(tmp_path / "state")}


def test_json_of_what_works(variables: dict[str, str], account: Account) -> None:
    found = checked(variables)
    assert {(each["leg"], each["plugin"]) for each in found} == {
        ("settings", ""), ("maildrop", "imap"), ("relay", "smtps"),
    }  # fmt: skip
    assert f"logged in as {account.name}" in texts(found, "maildrop")
    assert account.password not in str(found)


def test_json_of_mistakes() -> None:
    found = checked({"POP3_BIND_PORT": "x"} | NO_POP3, status=2)
    assert {each["leg"] for each in found} == {"settings"}
    assert len(found) == 2
    assert found[0]["text"].startswith("POP3_BIND_PORT: ")


def test_what_looks_wrong_is_a_warning(variables: dict[str, str]) -> None:
    given = variables | NO_POP3 | {"OAUTH2_CLIENT_ID": "x", "BACKEND_SMTP_HSOT": "x"}
    warnings = [each for each in checked(given) if each["level"] == "warning"]
    assert [each["text"].split(" ")[0] for each in warnings] == ["BACKEND_SMTP_HSOT", "OAUTH2_CLIENT_ID:"]
    assert all(each["advice"] for each in warnings)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--from", "a@b"], "--from: without --send"),
        (["--send", "scanner"], "--send: 'scanner' is no address"),
        (["--send", "a@b", "--from", "<a@b>"], "--from: '<a@b>' is no address"),
        (["--send", "a@b", "--client", "printer"], "--client: 'printer' is no address"),
        (["--send", "a@b", "--sender", "c@d"], "--send: it names the recipient"),
        (["--sender", "c@d"], "--client: not given"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], line: str) -> None:
    done = run("check", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"legacy-email-proxy: {line}")


def test_progress_is_for_a_terminal_only(variables: dict[str, str]) -> None:
    assert "trying" not in run("check", **variables, **NO_POP3).stderr
    ours, theirs = pty.openpty()
    environment = clean_environment(**variables, **NO_POP3)
    with subprocess.Popen(command("check"), env=environment, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:
            pass  # The other end is closed.
        assert process.stdout is not None
        printed = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, seen
    assert "… trying relay smtps".encode() in seen
    assert b"trying" not in printed
    # What is left on the line when it ends is nothing.
    assert seen.endswith(b"\r\x1b[K")


@pytest.mark.parametrize("spool", [False, True])
def test_a_test_message(variables: dict[str, str], account: Account, dovecot: Dovecot, *, spool: bool) -> None:
    given = variables | {"SMTP_SENDER": "office@example.test"} | ({"RELAY_PLUGIN": "spool"} if spool else {})
    found = checked(given, "--send", account.address)
    reads, says = texts(found, "send")
    assert reads.startswith(
        f"from <office@example.test> to <{account.address}>: the device reads 250 2.0.0 OK, the mess"
    )
    assert says.startswith("the spool has delivered it; the backend says: 250 " if spool else "the backend says: 250 ")
    assert "queued as" in says
    (message,) = dovecot.wait_for_messages(account.name, 1)
    assert b"Subject: Test message from legacy-email-proxy" in message
    assert b"From: office@example.test" in message
    # The real spool is not touched.
    assert not list(Path(variables["STATE_DIR"]).glob("spool*"))


REFUSALS = {
    "recipient": (UNKNOWN_RECIPIENT, "scan@example.test", "reads 550 5.1.1 ", "reads 250 "),
    "recipient, for now": (LATER_RECIPIENT, "scan@example.test", "reads 450 4.2.1 ", "reads 250 "),
    "sender": ("bob@example.test", REFUSED_SENDER, "reads 550 5.7.1 ", "reads 250 "),
}


@pytest.mark.parametrize("spool", [False, True])
@pytest.mark.parametrize("case", REFUSALS)
def test_a_test_message_that_is_refused(case: str, variables: dict[str, str], *, spool: bool) -> None:
    recipient, sender, at_once, later = REFUSALS[case]
    given = variables | NO_POP3 | ({"RELAY_PLUGIN": "spool"} if spool else {})
    found = checked(given, "--send", recipient, "--from", sender, status=1)
    sent = [each for each in found if each["leg"] == "send"]
    assert (later if spool else at_once) in sent[0]["text"]
    assert [each["level"] for each in sent] == (["ok", "failed"] if spool else ["failed"])
    assert at_once.removeprefix("reads ").strip() in sent[-1]["text"]
    assert "troubleshooting.md" in sent[-1]["advice"]
    if spool:
        assert ("tried again later" in sent[-1]["text"]) == ("for now" in case)


@pytest.mark.parametrize("spool", [False, True])
def test_a_test_message_without_a_backend(variables: dict[str, str], *, spool: bool) -> None:
    given = variables | NO_POP3 | {"BACKEND_SMTP_PORT": str(free_ports(1)[0])}
    alerts = Path(variables["STATE_DIR"], FILE_NAME)
    save(alerts, Memory((), {"192.168.1.40": 1.0}, 2.0))
    before = alerts.read_bytes()
    found = checked(given | ({"RELAY_PLUGIN": "spool"} if spool else {}), "--send", "bob@example.test", status=1)
    last = found[-1]
    assert (last["leg"], last["level"]) == ("send", "failed")
    assert "does not answer" in last["text"]
    assert ("the spool: message not delivered" if spool else "the device reads 451 4.4.1") in last["text"]
    # That is the real service's.
    assert alerts.read_bytes() == before


def test_a_test_message_as_a_client(
    variables: dict[str, str], dovecot: Dovecot, account: Account, postfix: Postfix, tmp_path: Path
) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(
        f'[accounts.a]\nBACKEND_SMTP_USER = "{account.name}"\nBACKEND_SMTP_PASS = "{account.password}"\n'
        '[[rules]]\nnetwork = "192.168.1.40"\naccount = "a"\n'
    )
    given = variables | NO_POP3 | {"ACCOUNTS_FILE": str(file)}
    refused = checked(given, "--send", account.address, status=1)[-1]
    assert "550 5.7.1 There is no account here for this mail" in refused["text"]
    found = checked(given, "--send", account.address, "--client", "192.168.1.40")
    assert texts(found, "send")[-1].startswith("the backend says: 250 ")
    assert {each["account"] for each in found if each["leg"] == "relay"} == {"a"}


def test_nothing_is_sent_while_the_leg_is_closed(variables: dict[str, str]) -> None:
    found = checked(variables | {"RELAY_PLUGIN": "none"}, "--send", "bob@example.test", status=1)
    assert texts(found, "send") == ["not sent: the SMTP listener is closed"]


def test_a_test_message_beside_the_service(variables: dict[str, str], account: Account) -> None:
    given = variables | NO_POP3 | {"RELAY_PLUGIN": "spool"}
    with running(given) as proxy:
        found = checked(given, "--send", account.address)
        assert texts(found, "send")[-1].startswith("the spool has delivered it; the backend says: 250 ")
        # The service had no part in it.
        assert not proxy.lines(" message ")
        assert not [name.name for name in Path(given["STATE_DIR"]).iterdir() if name.name.startswith("check-")]


def test_a_test_message_to_an_address_with_other_letters(variables: dict[str, str]) -> None:
    given = variables | NO_POP3
    found = checked(given, "--send", "b\u00fcro@example.test", "--from", "scan@example.test")
    reads, says = texts(found, "send")
    assert "to <b\u00fcro@example.test>: the device reads 250 " in reads
    assert says.startswith("the backend says: 250 ")
