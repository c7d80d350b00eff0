"""A small firm's week in a minute: what an operator reads afterwards answers "did that scan go out, and what is wrong
with the other scanner?" without a packet dump.
"""

from __future__ import annotations

import http.client
import json
import poplib
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from interop.proxy import Proxy, backends, run, running
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix

SCANNER, WRONG, ERP = "127.0.0.11", "127.0.0.12", "127.0.0.13"


@pytest.fixture
def postfix(dovecot: Dovecot, certificates: Certificates) -> Iterator[Postfix]:
    """One that this test may stop."""
    with Postfix.start(certificates.good, dovecot) as postfix:
        yield postfix


@pytest.fixture
def proxy(tmp_path: Path, dovecot: Dovecot, postfix: Postfix, account: Account) -> Iterator[Proxy]:
    variables = backends(dovecot, postfix, account) | {
        "STATE_DIR": str(tmp_path / "state"), "RELAY_PLUGIN": "spool", "SPOOL_RETRY_SECONDS": "1",
        "SMTP_MAX_OCTETS": "200000", "ADMIN_BIND_PORT": "0",
    }  # fmt: skip
    with running(variables) as proxy:
        yield proxy


class POP3From(poplib.POP3):
    """A client with an address of its own, which poplib has no way to give."""

    def __init__(self, address: str, place: tuple[str, int]) -> None:
        self._address = address
        super().__init__(*place, timeout=50)

    def _create_socket(self, timeout: float) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout, (self._address, 0))


def device(proxy: Proxy, address: str, name: str) -> smtplib.SMTP:
    smtp = smtplib.SMTP(timeout=50, local_hostname=name, source_address=(address, 0))
    smtp.connect(*proxy.smtp)
    return smtp


def scan(proxy: Proxy, address: str, recipient: str, octets: int = 1000) -> None:
    with device(proxy, address, "SCANNER-1") as smtp:
        smtp.sendmail("scan@firm.example", [recipient], b"Subject: a scan\r\n\r\n" + b"x" * octets + b"\r\n")


def six_mistakes(proxy: Proxy, account: Account) -> None:
    """What a person at a device sets wrong, one after the other."""
    with suppress(OSError), socket.create_connection(proxy.smtp, 50, (WRONG, 0)) as plain:
        context = ssl.create_default_context()
        context.wrap_socket(plain, server_hostname="localhost")
    with device(proxy, WRONG, "BRW001122334455") as smtp:
        smtp.ehlo()
        assert smtp.docmd("AUTH", "PLAIN AGEAaHVudGVyMg==")[0] == 502
        assert smtp.docmd("STARTTLS")[0] == 502
        assert smtp.docmd("MAIL", "FROM:<our scanner>")[0] == 553
        assert smtp.mail("scan@firm.example")[0] == 250
        assert smtp.docmd("RCPT", "TO:<ann at firm.example>")[0] == 553
        smtp.rset()
        assert smtp.docmd("MAIL", "FROM:<scan@firm.example> SIZE=300000")[0] == 552


def told(tmp_path: Path, command: str, *arguments: str) -> list[dict[str, Any]]:
    done = run(command, "--json", *arguments, STATE_DIR=str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def asked(proxy: Proxy, path: str) -> tuple[int, str]:
    """What the admin listener says."""
    host, port = proxy._address("admin")
    with closing(http.client.HTTPConnection(host, port, timeout=50)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_week_of_a_small_firm(
    tmp_path: Path, proxy: Proxy, postfix: Postfix, dovecot: Dovecot, account: Account
) -> None:
    for _ in range(3):
        scan(proxy, SCANNER, account.address)
    proxy.wait_for("message delivered", 3)
    scan(proxy, SCANNER, "nobody@example.test")
    proxy.wait_for("recipients refused")
    six_mistakes(proxy, account)
    proxy.wait_for("smtp session ended", 6)
    with closing(POP3From(ERP, proxy.pop3)) as erp:
        erp.user("erp")
        erp.pass_("x")
        erp.retr(1)
        erp.dele(1)
        erp.quit()
    proxy.wait_for("pop3 session ended")
    status, said = asked(proxy, "/readyz")
    assert status == 200, said
    # The provider is down: the device does not notice, the operator does.
    postfix.stop()
    scan(proxy, SCANNER, account.address)
    proxy.wait_for("delivery paused")
    status, said = asked(proxy, "/readyz")
    assert status == 503, said
    assert "Connection refused" in said
    figures = asked(proxy, "/metrics")[1]
    for figure in (
        'messages_total{leg="smtp",verdict="delivered"} 3.0', 'refusals_total{leg="smtp",reply="553"} 2.0',
        'wrong_protocol_total{leg="smtp",protocol="TLS"} 1.0', 'spool_messages{state="dead"} 1.0',
        'messages_total{leg="pop3",verdict="deleted"} 1.0',
    ):  # fmt: skip
        assert f"legacy_email_proxy_{figure}\n" in figures

    history = told(tmp_path, "history")
    messages = [each for each in history if each["kind"] == "message" and each["client"] == SCANNER]
    assert [each["state"] for each in messages] == ["delivered"] * 3 + ["failed", "delayed"]
    # Did that scan go out? What did the provider say?
    assert all("queued as" in each["backend"] for each in messages[:3])
    assert messages[3]["recipients"][0]["said"].startswith("550 5.1.1 <nobody@example.test>")
    assert "Connection refused" in messages[4]["cause"]
    assert [each["recipients"] for each in told(tmp_path, "history", "--recipient", "nobody@example.test")] == [
        messages[3]["recipients"]
    ]
    assert all(each["trouble"] for each in told(tmp_path, "history", "--failed"))
    # What shall I change on the device?
    advice = [each["advice"] for each in told(tmp_path, "history", "--client", WRONG)]
    assert [each.partition(":")[0] for each in advice] == [
        "it speaks TLS", "it wants to log in", "it wants TLS", "its sender address is no e-mail address",
        "a recipient is no e-mail address",
        "lower the scan's resolution, or raise SMTP_MAX_OCTETS if the provider takes more",
    ]  # fmt: skip
    devices = {each["client"]: each for each in told(tmp_path, "devices")}
    assert devices[SCANNER]["messages"] == 5
    assert devices[SCANNER]["success"] < devices[SCANNER]["trouble"]
    assert (devices[WRONG].get("success"), devices[WRONG]["probably"]) == (None, "Brother")
    assert (devices[ERP]["retrieved"], devices[ERP]["deleted"], "trouble" in devices[ERP]) == (1, 1, False)
    text = proxy.log + json.dumps(history)
    assert account.password not in text
    assert "hunter2" not in text
    assert "a scan" not in json.dumps(history)
