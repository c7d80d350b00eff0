"""What ``check`` is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes.imap import Action, Cut, Drop, Hang, Mailbox
from imap.support import PASSWORD, USER, maildrop_for, pair
from legacy_email_proxy.contracts import Level
from realservers.certificates import Certificates

GOOD, WARNING, BAD = Level.GOOD, Level.WARNING, Level.BAD


async def test_all_is_well(certificates: Certificates) -> None:
    async with pair(certificates.good, b"one", capabilities=("AUTH=PLAIN", "UIDPLUS", "MOVE")) as (maildrop, server):
        findings = await maildrop.probe()
        await server.until(lambda server: server.open_connections == 0)
    assert [finding.level for finding in findings] == [GOOD] * 4
    assert [finding.text for finding in findings] == [
        f"reached 127.0.0.1:{server.port} over TLSv1.3, the certificate verifies",
        "logged in as alice",
        "the server offers UIDPLUS, MOVE",
        "folder INBOX holds 1 message",
    ]


async def test_odd_but_working(certificates: Certificates) -> None:
    mailbox = Mailbox(read_only=True)
    async with pair(certificates.good, mailbox=mailbox, capabilities=("AUTH=PLAIN",), encryption="none") as pairs:
        findings = await pairs[0].probe()
    assert [finding.level for finding in findings] == [GOOD, WARNING, GOOD, GOOD, WARNING, GOOD, WARNING]
    assert "folder INBOX holds 0 messages" in [finding.text for finding in findings]
    assert all(finding.advice for finding in findings if finding.level is not GOOD)


async def test_without_an_account_it_only_connects(certificates: Certificates) -> None:
    async with pair(
        certificates.good, POP3_LOGIN="backend", BACKEND_IMAP_USER=None, BACKEND_IMAP_PASS=None
    ) as (maildrop, server):  # fmt: skip
        findings = await maildrop.probe()
    assert [finding.level for finding in findings] == [GOOD, GOOD]
    assert server.commands == ["CAPABILITY"]
    assert maildrop._accounts._pools == {}


FAULTS: list[tuple[dict[str, Action], int, str, str]] = [
    ({"TLS": Drop()}, 0, "hung up during the TLS handshake, as servers do that have reached", "MAX_CONNECTIONS"),
    ({"TLS": Drop(b"* BYE [UNAVAILABLE] too many\r\n")}, 0, "patience", "MAX_CONNECTIONS"),
    ({"TLS": Drop(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hello\r\n")}, 0, "in the clear: * OK", "USE_STARTTLS=true"),
    ({"TLS": Drop(b"+OK hello\r\n")}, 0, "is a server for POP3 and not for IMAP: it says +OK hello", "IMAP_PORT"),
    ({"GREETING": Drop(b"what?\r\n")}, 0, "greet as an IMAP server", "BACKEND_IMAP_HOST"),
    ({"GREETING": Drop(b"+OK POP3 here\r\n")}, 0, "for POP3 and not for IMAP: it says +OK POP3", "IMAP_PORT"),
    ({"GREETING": Drop(b"-ERR go away\r\n")}, 0, "for POP3 and not for IMAP", "IMAP_PORT"),
    ({"GREETING": Drop(b"220 smtp\r\n")}, 0, "for SMTP and not for IMAP", "IMAP_PORT"),
    ({"GREETING": Drop(b"554 no\r\n")}, 0, "for SMTP and not for IMAP", "IMAP_PORT"),
    ({"GREETING": Drop(b"HTTP/1.1 400 Bad Request\r\n")}, 0, "for HTTP and not for IMAP", "IMAP_PORT"),
    ({"GREETING": Drop()}, 0, "reached their limit of connections", "MAX_CONNECTIONS"),
    ({"PLAIN": "NO [AUTHENTICATIONFAILED] wrong"}, 1, "refused the login", "app password"),
    ({"PLAIN": "NO [CONTACTADMIN] call us"}, 1, "support or administrator", "leave the password as it is"),
    ({"PLAIN": "NO [EXPIRED] too old"}, 1, "expired", "renew it"),
    ({"PLAIN": "NO [AUTHORIZATIONFAILED] no IMAP"}, 1, "the password is right", "switched on"),
    ({"PLAIN": "NO [SERVERBUG] Internal error, try again later"}, 1, "a fault of its own", "try again later"),
    ({"SELECT": "NO [SERVERBUG] Internal error occurred"}, 3, "refused to open", "try again later"),
    ({"PLAIN": "NO [UNAVAILABLE] later"}, 1, "patience", "MAX_CONNECTIONS"),
    ({"SELECT": "NO [NONEXISTENT] none"}, 3, "open folder", "BACKEND_IMAP_FOLDER"),
    ({"SELECT": Cut(5)}, 3, "could not open", ""),
]


@pytest.mark.parametrize(("script", "steps", "text", "advice"), FAULTS)
async def test_the_step_that_fails(
    certificates: Certificates, script: dict[str, Action], steps: int, text: str, advice: str
) -> None:
    async with pair(certificates.good, b"one", script=script) as (maildrop, _):  # type: ignore[arg-type]
        *before, last = await maildrop.probe()
    assert [finding.level for finding in before] == [GOOD] * steps
    assert last.level is BAD
    assert text in last.text
    assert advice in last.advice
    assert last.advice
    assert PASSWORD not in str(last)


async def test_a_port_with_tls_is_silent_to_who_comes_without(certificates: Certificates) -> None:
    async with pair(
        certificates.good, script={"GREETING": Hang()}, encryption="none", seconds={"connect": 0.2}
    ) as (maildrop, _):  # fmt: skip
        finding = (await maildrop.probe())[-1]
    assert finding.level is BAD
    assert "BACKEND_IMAP_USE_SSL" in finding.advice


@pytest.mark.parametrize("needing", [{"BACKEND_IMAP_DELETE": "keep"}, {"POP3_HIDE_UNFETCHABLE_AFTER": 3}])
async def test_a_state_folder_that_can_not_be_made(
    certificates: Certificates, tmp_path: Path, needing: dict[str, Any]
) -> None:
    (tmp_path / "file").touch()
    for further, level in ((needing, BAD), ({}, GOOD)):
        async with pair(certificates.good, b"one", STATE_DIR=tmp_path / "file" / "state", **further) as (maildrop, _):
            finding = (await maildrop.probe())[-1]
        assert finding.level is level
    async with pair(certificates.good, b"one", STATE_DIR=tmp_path / "file", **needing) as (maildrop, _):
        finding = (await maildrop.probe())[-1]
    assert "Not a directory" in finding.text or "File exists" in finding.text
    assert str(tmp_path) in finding.text
    assert "STATE_DIR" in finding.advice


@pytest.mark.parametrize(
    ("name", "advice"),
    [("expired", "clock"), ("wrong_host", "BACKEND_IMAP_HOST"), ("other_ca", "BACKEND_IMAP_CA_FILE")],
)
async def test_bad_certificates(certificates: Certificates, name: str, advice: str) -> None:
    async with pair(getattr(certificates, name), b"one") as (maildrop, _):
        (finding,) = await maildrop.probe()
    assert finding.level is BAD
    assert advice in finding.advice


async def test_probing_with_a_wrong_password_does_not_hammer(certificates: Certificates) -> None:
    async with pair(certificates.good, accounts={("x", "y"): Mailbox()}) as (maildrop, server):
        for _ in range(5):
            assert (await maildrop.probe())[-1].level is BAD
        assert server.times("PLAIN") == 1


async def test_nobody_there(certificates: Certificates) -> None:
    maildrop = maildrop_for(993, certificates.good.ca_file, BACKEND_IMAP_HOST="no-such-host.invalid")
    (finding,) = await maildrop.probe()
    await maildrop.aclose()
    assert finding.level is BAD
    assert "no-such-host.invalid" in finding.text
    assert USER not in finding.text
