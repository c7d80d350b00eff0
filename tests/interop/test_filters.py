"""What a device sends arrives at a real server with the header that the settings ask for."""

from __future__ import annotations

import re
import smtplib
import socket
from email import message_from_bytes

import pytest

from interop.proxy import backends, running
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import REFUSED_SENDER, Postfix

LONG = b"Z\xe4hler " + b"1234 " * 1000


def send(
    address: tuple[str, int], account: Account, message: bytes, reverse_path: str = "scanner@firm.example"
) -> None:
    with smtplib.SMTP(*address, local_hostname="scanner", timeout=50) as smtp:
        assert smtp.sendmail(reverse_path, [account.address], message, ["BODY=8BITMIME"]) == {}


def test_all_mail_comes_from_one_address(dovecot: Dovecot, postfix: Postfix, account: Account) -> None:
    variables = {"SMTP_SENDER": account.address, "SMTP_SENDER_REPLY_TO": "true", "SMTP_REMOVE_BCC": "true"}
    with running(backends(dovecot, postfix, account) | variables | {"SMTP_LONG_LINES": "encode"}) as proxy:
        rest = b"X-Raw: \xff  \t!\r\nBcc: x@firm.example\r\nSubject:  odd\r\n\t!\r\nContent-Type: text/plain\r\n"
        # The server refuses this sender, and must never see it.
        message = b"From: Scanner 3 <a@firm.example>\r\n" + rest + b"\r\n" + LONG + b"\r\n"
        send(proxy.smtp, account, message, REFUSED_SENDER)
        (stored,) = dovecot.wait_for_messages(account.name, 1)
        assert f"sender={account.address}" in proxy.wait_for("message relayed")[0]
    arrived = message_from_bytes(stored)
    assert arrived["Return-Path"] == f"<{account.address}>"
    assert arrived["From"] == f"Scanner 3 <{account.address}>"
    assert arrived["Reply-To"] == "a@firm.example"
    assert arrived["Date"]
    assert arrived["Message-ID"]
    assert "from scanner ([127.0.0.1])" in arrived.get_all("Received", [])[-1]
    assert rest.replace(b"Bcc: x@firm.example\r\n", b"") in stored
    assert "Bcc" not in arrived
    assert arrived.get_payload(decode=True) == LONG + b"\r\n"
    assert max(map(len, stored.split(b"\r\n"))) < 200


def test_text_without_a_header_is_read_as_text(dovecot: Dovecot, postfix: Postfix, account: Account) -> None:
    text = b"Zone 1: open\r\n\r\nZone 2: shut\r\n"
    with running(backends(dovecot, postfix, account)) as proxy:
        send(proxy.smtp, account, text)
        (stored,) = dovecot.wait_for_messages(account.name, 1)
    message = message_from_bytes(stored)
    assert message["From"] == "scanner@firm.example"
    assert message["Date"]
    assert message.get_payload(decode=True) == text


def send_octets(address: tuple[str, int], account: Account, octets: bytes) -> None:
    """As they are: smtplib would repair line ends."""
    with socket.create_connection(address, timeout=50) as connection, connection.makefile("rb") as replies:
        said = [
            b"HELO scanner",
            b"MAIL FROM:<scanner@firm.example>",
            b"RCPT TO:<%b>" % account.address.encode(),
            b"DATA",
        ]
        for command, code in [(b"", b"220"), *((line + b"\r\n", b"") for line in said), (octets + b".\r\n", b"250")]:
            connection.sendall(command)
            assert replies.readline().startswith(code)


MULTIPART = (
    b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
    b'--b\r\nContent-Disposition: attachment; filename="scan.pdf"\r\n\r\nPDF\r\n--b--\r\n'
)
SPOILT = {
    "mbox": b"From me@x Sun Nov 22 18:00:00 2026\r\nSubject: scan\r\n",
    "quoted mbox": b">From me@x\r\nSubject: scan\r\n",
    "byte order mark": b"\xef\xbb\xbfSubject: scan\r\n",
    "8-bit name": b"Subject: scan\r\nGr\xc3\xb6\xc3\x9fe: 1\r\n",
    "8-bit name first": b"Gr\xf6\xdfe: 1\r\nSubject: scan\r\n",
    "leading empty line": b"\r\nSubject: scan\r\n",
    "no blank": b"To: a@x,\r\nb@x\r\nSubject: scan\r\n",
}


@pytest.mark.long
@pytest.mark.parametrize("name", SPOILT)
def test_no_attachment_is_lost(name: str, dovecot: Dovecot, postfix: Postfix, account: Account) -> None:
    """Without the proxy Postfix makes text of all but the first two, as it does of each behind a line of ours."""
    with running(backends(dovecot, postfix, account)) as proxy:
        send_octets(proxy.smtp, account, SPOILT[name] + MULTIPART)
        (stored,) = dovecot.wait_for_messages(account.name, 1)
    message = message_from_bytes(stored)
    assert [part.get_filename() for part in message.walk()] == [None, "scan.pdf"]
    assert message["Subject"] == "scan"
    for field in ("From", "Date", "Message-ID"):
        assert len(message.get_all(field, [])) == 1
    assert stored.endswith(MULTIPART)


def test_line_ends_that_were_translated_twice(dovecot: Dovecot, postfix: Postfix, account: Account) -> None:
    sent = b"Subject: scan\r\n" + MULTIPART
    with running(backends(dovecot, postfix, account)) as proxy:
        send_octets(proxy.smtp, account, sent.replace(b"\r\n", b"\r\r\n"))
        (stored,) = dovecot.wait_for_messages(account.name, 1)
    assert stored.endswith(sent)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", stored)
