"""A mail program with windows through the proxy: it reads each message once, deletes at the server, and sends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interop.desktop import ADDRESS, Desktop, screen
from interop.proxy import Proxy
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.processes import short_folder

pytestmark = pytest.mark.long

HEADER = b"Subject: %d\r\nFrom: a@example.test\r\nMessage-ID: <%d@example.test>\r\n\r\n"
MESSAGES = [
    HEADER % (1, 1) + b".\r\n..two dots\r\n.dot\r\nna\xefve gr\xfc\xdfe \xe2\x82\xac\r\n\r\n.\r\n",
    HEADER % (2, 2) + b"cut off before the last line's end:\r\n.",
    HEADER % (3, 3) + b"".join(b"%06d %s\r\n" % (number, b"x\xe4." * 20) for number in range(30_000)),
]


@pytest.fixture
def desktop(proxy: Proxy) -> Iterator[Desktop]:
    """A fresh installation with the proxy as its server for both directions."""
    with screen() as display, short_folder("desktop-") as home:
        desktop = Desktop(home, display, proxy.pop3, proxy.smtp)
        desktop.prepare()
        yield desktop


def sessions(proxy: Proxy) -> list[str]:
    """What became of each POP3 session."""
    return [line.partition(" retrieved=")[2] for line in proxy.lines("pop3 session ended")]


def test_it_takes_each_message_once_and_then_removes_them(
    desktop: Desktop, proxy: Proxy, dovecot: Dovecot, account: Account
) -> None:
    dovecot.add_messages(account.name, MESSAGES)
    # As programs on Unix keep them, and POP3 has no way to show that the last line's end is missing.
    stored = [message.removesuffix(b"\r\n").replace(b"\r\n", b"\n") + b"\n" for message in MESSAGES]

    desktop.receive(lambda: len(desktop.inbox) == len(desktop.unique_ids) == len(MESSAGES))
    assert desktop.inbox == stored
    assert dovecot.messages(account.name) == MESSAGES

    desktop.receive(lambda: len(sessions(proxy)) == 2)
    assert desktop.inbox == stored
    assert dovecot.messages(account.name) == MESSAGES

    desktop.receive(lambda: len(sessions(proxy)) == 3, remove=True)
    assert desktop.inbox == stored
    assert dovecot.messages(account.name) == []

    counts = [(line.split(" ")[0], "deleted=3 " in line, "verdict=quit" in line) for line in sessions(proxy)]
    assert counts == [("3", False, True), ("0", False, True), ("0", True, True)]


def test_it_sends(desktop: Desktop, dovecot: Dovecot, account: Account) -> None:
    message = f"From: {ADDRESS}\nTo: {account.address}\nSubject: put off\n\nhello\n.starts with a dot\n.\n"
    desktop.send(account.address, message)
    (arrived,) = dovecot.wait_for_messages(account.name, 1)
    assert arrived.endswith(message.replace("\n", "\r\n").encode())
    assert f"Return-Path: <{ADDRESS}>".encode() in arrived
