"""What a device sends arrives at a real server with the header that the settings ask for."""

from __future__ import annotations

import smtplib
from email import message_from_bytes

from interop.proxy import backends, running
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import REFUSED_SENDER, Postfix

LONG = b"Z\xe4hler " + b"1234 " * 1000


def send(
    address: tuple[str, int], account: Account, message: bytes, reverse_path: str = "scanner@firm.example"
) -> None:
    with smtplib.SMTP(*address, local_hostname="scanner", timeout=20) as smtp:
        assert smtp.sendmail(reverse_path, [account.address], message, ["BODY=8BITMIME"]) == {}


def test_all_mail_comes_from_one_address(dovecot: Dovecot, postfix: Postfix, account: Account) -> None:
    variables = {"SMTP_SENDER": account.address, "SMTP_SENDER_REPLY_TO": "true", "SMTP_REMOVE_BCC": "true"}
    with running(backends(dovecot, postfix, account) | variables | {"SMTP_LONG_LINES": "encode"}) as proxy:
        rest = b"X-Raw: \xff  \t!\r\nBcc: x@firm.example\r\nSubject:  odd\r\n\t!\r\nContent-Type: text/plain\r\n"
        # The server refuses this sender, and must never see it.
        message = b"From: Scanner 3 <a@firm.example>\r\n" + rest + b"\r\n" + LONG + b"\r\n"
        send(proxy.smtp, account, message, REFUSED_SENDER)
        (stored,) = dovecot.wait_for_messages(account.name, 1)
        assert f"sender={account.address}" in proxy.wait_for("smtp message relayed")[0]
    arrived = message_from_bytes(stored)
    assert arrived["Return-Path"] == f"<{account.address}>"
    assert arrived["From"] == f"Scanner 3 <{account.address}>"
    assert arrived["Reply-To"] == "a@firm.example"
    assert arrived["Date"]
    assert arrived["Message-ID"]
    assert "from scanner ([127.0.0.1])" in arrived.get_all("Received", [])[-1]
    assert rest.replace(b"Bcc: x@firm.example\r\n", b"") in stored
    assert b"Bcc" not in stored
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
