"""A real Dovecot with a second client at work in the folder, and the ways of deleting on a server that has all."""

from __future__ import annotations

import imaplib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imap.support import CLIENT, read, read_top
from imap.test_against_dovecot import maildrop_on
from legacy_email_proxy.contracts import Disconnected, Level, MessageGone
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from realservers.accounts import Account
from realservers.dovecot import Dovecot

MESSAGES = [b"Subject: %d\r\n\r\nbody of %d\r\n" % (number, number) for number in range(1, 6)]


@pytest.fixture
async def maildrop(dovecot: Dovecot, account: Account) -> AsyncIterator[IMAPMaildrop]:
    dovecot.add_messages(account.name, MESSAGES)
    maildrop = maildrop_on(dovecot, account)
    yield maildrop
    await maildrop.aclose()


def expunge(other: imaplib.IMAP4_SSL, numbers: str) -> None:
    other.select()
    other.store(numbers, "+FLAGS", r"\Deleted")
    other.expunge()


async def numbers(maildrop: IMAPMaildrop) -> list[int]:
    """Which of the messages are shown."""
    async with maildrop.open(CLIENT, None) as session:
        shown = [await read(session, position) for position in range(len(session.entries))]
    return [MESSAGES.index(message) + 1 for message in shown]


@pytest.mark.fault("C9")
async def test_another_client_expunges(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop) -> None:
    async with maildrop.open(CLIENT, None) as session:
        assert await read(session, 0) == MESSAGES[0]
        with dovecot.connect(account.name) as other:
            expunge(other, "2,4")
        for _ in range(2):
            for gone in (1, 3):
                with pytest.raises(MessageGone):
                    await read(session, gone)
                with pytest.raises(MessageGone):
                    await read_top(session, gone, 0)
                with pytest.raises(MessageGone):
                    await read_top(session, gone, 5)
        for left in (0, 2, 4):
            assert await read(session, left) == MESSAGES[left], "numbers never shift"
        await session.commit([session.entries[position].unique_id for position in (1, 2)])
    assert dovecot.messages(account.name) == [MESSAGES[0], MESSAGES[4]]


@pytest.mark.fault("C11")
async def test_another_client_appends(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop) -> None:
    new = b"Subject: new\r\n\r\nlater\r\n"
    async with maildrop.open(CLIENT, None) as session:
        with dovecot.connect(account.name) as other:
            other.append("INBOX", "", "", new)
        assert len(session.entries) == 5
        assert [await read(session, position) for position in range(5)] == MESSAGES
        await session.commit([entry.unique_id for entry in session.entries])
    assert dovecot.messages(account.name) == [new]
    async with maildrop.open(CLIENT, None) as session:
        assert await read(session, 0) == new


@pytest.mark.fault("C7")
async def test_a_folder_that_is_made_anew(dovecot: Dovecot, account: Account) -> None:
    """Its UIDs begin at 1 again, under another UIDVALIDITY."""
    with dovecot.connect(account.name) as other:
        other.create("Work")
        for message in MESSAGES:
            other.append("Work", "", "", message)
        maildrop = maildrop_on(dovecot, account, BACKEND_IMAP_FOLDER="Work")
        async with maildrop.open(CLIENT, None) as session:
            before = [entry.unique_id for entry in session.entries]
            assert await read(session, 0) == MESSAGES[0]
            # UIDVALIDITY is a time in seconds there, so the folder takes one that certainly is another.
            other.delete("Work")
            other.create("Other")
            other.rename("Other", "Work")
            for message in reversed(MESSAGES):
                other.append("Work", "", "", message)
            for attempt in (read(session, 0), read_top(session, 0, 0), session.commit(before[:2])):
                with pytest.raises(Disconnected):
                    await attempt
        assert dovecot.messages(account.name, "Work") == MESSAGES[::-1], "never a deletion by a stale UID"
        async with maildrop.open(CLIENT, None) as session:
            assert not {entry.unique_id for entry in session.entries} & set(before)
            assert await read(session, 0) == MESSAGES[4]
        await maildrop.aclose()


async def test_a_restarted_connection_goes_on(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop) -> None:
    async with maildrop.open(CLIENT, None) as session:
        assert await read(session, 0) == MESSAGES[0]
        (pool,) = maildrop._accounts._pools.values()
        for _, connection in pool._idle:
            socket.socket.shutdown(connection._wire.socket, socket.SHUT_RDWR)
        assert await read(session, 1) == MESSAGES[1]


POLICIES: list[tuple[dict[str, Any], list[bytes], list[bytes], list[set[str]]]] = [
    ({"BACKEND_IMAP_DELETE": "expunge"}, MESSAGES[2:4], [], [{"\\Deleted"}, set()]),
    ({"BACKEND_IMAP_DELETE": "trash"}, MESSAGES[2:4], [MESSAGES[0], MESSAGES[1], MESSAGES[4]], [{"\\Deleted"}, set()]),
    (
        {"BACKEND_IMAP_DELETE": "flag"}, MESSAGES, [],
        [{"\\Deleted", "$Pop3Deleted"}] * 2 + [{"\\Deleted"}, set(), {"\\Deleted", "$Pop3Deleted"}],
    ),
    ({"BACKEND_IMAP_DELETE": "keep"}, MESSAGES, [], [{"$Pop3Deleted"}] * 2 + [{"\\Deleted"}, set(), {"$Pop3Deleted"}]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "left", "trash", "flags"), POLICIES)
async def test_ways_of_deleting(
    dovecot: Dovecot,
    account: Account,
    given: dict[str, Any],
    left: list[bytes],
    trash: list[bytes],
    flags: list[set[str]],
) -> None:
    dovecot.add_messages(account.name, MESSAGES)
    with dovecot.connect(account.name) as other:
        other.select()
        other.store("3", "+FLAGS", r"\Deleted")
    maildrop = maildrop_on(dovecot, account, **given)
    async with maildrop.open(CLIENT, None) as session:
        await session.commit([session.entries[position].unique_id for position in (0, 1, 4)])
    assert await numbers(maildrop) == [3, 4], "a foreign mark hides nothing"
    assert dovecot.messages(account.name) == left
    assert [found - {"\\Recent"} for found in dovecot.flags(account.name)] == flags
    assert dovecot.messages(account.name, "Trash") == trash
    assert {finding.level for finding in await maildrop.probe()} == {Level.GOOD}
    # Another proxy for the same mailbox, with a state folder of its own.
    again = maildrop_on(dovecot, account, **given)
    assert await numbers(again) == [3, 4]
    await again.aclose()
    await maildrop.aclose()


@pytest.mark.parametrize("name", ["Gelöschte Objekte", "下書き & mehr", 'mit "Anführung" \\'])
async def test_a_folder_with_any_characters(dovecot: Dovecot, account: Account, name: str) -> None:
    from imapclient.imap_utf7 import encode

    quoted = '"' + encode(name).decode().replace("\\", "\\\\").replace('"', '\\"') + '"'
    with dovecot.connect(account.name) as other:
        assert other.create(quoted)[0] == "OK"
        other.append(quoted, "", "", MESSAGES[0])
    maildrop = maildrop_on(dovecot, account, BACKEND_IMAP_FOLDER=name)
    async with maildrop.open(CLIENT, None) as session:
        assert await read(session, 0) == MESSAGES[0]
        await session.commit([session.entries[0].unique_id])
    async with maildrop.open(CLIENT, None) as session:
        assert list(session.entries) == []
    await maildrop.aclose()


async def test_only_the_newest(dovecot: Dovecot, account: Account) -> None:
    with dovecot.connect(account.name) as other:
        for message, date in zip(MESSAGES, ("01-Jan-2001", "02-Feb-2002", "", "", "03-Mar-2003"), strict=True):
            other.append("INBOX", "", f'"{date} 10:00:00 +0100"' if date else "", message)
    for given, expected in (
        ({"POP3_NEWEST_DAYS": 30}, [3, 4]),
        ({"POP3_NEWEST_MESSAGES": 2}, [4, 5]),
        ({"POP3_NEWEST_DAYS": 30, "POP3_NEWEST_MESSAGES": 1}, [4]),
    ):
        maildrop = maildrop_on(dovecot, account, **given)
        assert await numbers(maildrop) == expected
        await maildrop.aclose()


async def test_unique_ids_are_dovecots_own(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop) -> None:
    """A client that comes from Dovecot's POP3 server downloads nothing twice."""
    import poplib

    pop3 = poplib.POP3("127.0.0.1", dovecot.pop3_port, timeout=50)
    pop3.user(account.name)
    pop3.pass_(account.password)
    theirs = [line.split()[1].decode() for line in pop3.uidl()[1]]
    pop3.quit()
    async with maildrop.open(CLIENT, None) as session:
        assert [entry.unique_id for entry in session.entries] == theirs
