"""The maildrop on a real Dovecot."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imap.support import CLIENT, login, maildrop_for, read, read_top
from legacy_email_proxy.contracts import Level, LoginRefused, MessageGone, Secret
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from realservers.accounts import Account
from realservers.dovecot import Dovecot

MESSAGES = [
    b"Subject: plain\r\n\r\nhello\r\n",
    b"Subject: no line end\r\n\r\nhello",
    b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n",
    b"Subject: 8 bit \xe4\xff\r\n\r\n\x80\x81\xfe\r\n",
    b"Subject: long line\r\n\r\n" + b"x" * 1_000_000 + b"\r\n",
    b"Subject: IMAP\r\n\r\n* 1 FETCH (UID 1 BODY[] {3}\r\nA1 OK done\r\n)\r\n",
    b"Subject: header only\r\n",
    b"\r\nbody only\r\n",
    b"Subject: large\r\n\r\n" + b"".join(b"line %d\r\n" % number for number in range(300_000)),
]


def maildrop_on(dovecot: Dovecot, account: Account, **given: Any) -> IMAPMaildrop:
    return maildrop_for(
        dovecot.imaps_port,
        dovecot.ca_file,
        BACKEND_IMAP_USER=account.name,
        BACKEND_IMAP_PASS=Secret(account.password),
        **given,
    )


@pytest.fixture
async def maildrop(dovecot: Dovecot, account: Account) -> AsyncIterator[IMAPMaildrop]:
    maildrop = maildrop_on(dovecot, account)
    yield maildrop
    await maildrop.aclose()


@pytest.mark.fault("C16")
async def test_sizes_and_octets(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop) -> None:
    dovecot.add_messages(account.name, MESSAGES)
    async with maildrop.open(CLIENT, None) as session:
        assert [entry.octets for entry in session.entries] == [len(message) for message in MESSAGES]
        assert len({entry.unique_id for entry in session.entries}) == len(MESSAGES)
        for position, message in enumerate(MESSAGES):
            assert await read(session, position) == message
    assert not any("\\Seen" in flags for flags in dovecot.flags(account.name))


@pytest.mark.fault("C16")
async def test_nul_octets(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop) -> None:
    dovecot.add_message(account.name, b"Subject: nul\r\n\r\na\x00b\r\n")
    async with maildrop.open(CLIENT, None) as session:
        got = await read(session, 0)
    # IMAP has no NUL in a literal (RFC 9051 §4.3); Dovecot sends 0x80 in its place.
    assert got in (b"Subject: nul\r\n\r\na\x00b\r\n", b"Subject: nul\r\n\r\na\x80b\r\n")
    assert len(got) == session.entries[0].octets


@pytest.mark.parametrize("lines", [0, 1, 3, 10_000])
async def test_top(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop, lines: int) -> None:
    dovecot.add_messages(account.name, MESSAGES)
    async with maildrop.open(CLIENT, None) as session:
        for position, message in enumerate(MESSAGES):
            top = await read_top(session, position, lines)
            header, blank, body = message.partition(b"\r\n\r\n")
            if message.startswith(b"\r\n"):
                header, blank, body = b"", b"\r\n", message[2:]
            wanted = header + blank + b"".join(body.splitlines(keepends=True)[:lines])
            assert top.startswith(wanted)
            assert message.startswith(top.removesuffix(b"\r\n"))


@pytest.mark.fault("C20")
async def test_deleting_exactly(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop) -> None:
    messages = [b"Subject: %d\r\n\r\nbody\r\n" % number for number in range(40)]
    dovecot.add_messages(account.name, messages)
    with dovecot.connect(account.name) as other:
        other.select()
        other.store("8", "+FLAGS", r"\Deleted")
        gone = set(random.Random(4).sample([number for number in range(40) if number != 7], 20))
        async with maildrop.open(CLIENT, None) as session:
            dovecot.add_message(account.name, b"Subject: new\r\n\r\n")
            await session.commit([session.entries[number].unique_id for number in gone])
        left = [message for number, message in enumerate(messages) if number not in gone]
        assert dovecot.messages(account.name) == [*left, b"Subject: new\r\n\r\n"]
    assert sum("\\Deleted" in flags for flags in dovecot.flags(account.name)) == 1, "the other client's mark"


async def test_a_message_that_another_client_removes(
    dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop
) -> None:
    dovecot.add_messages(account.name, MESSAGES[:3])
    async with maildrop.open(CLIENT, None) as session:
        with dovecot.connect(account.name) as other:
            other.select()
            other.store("2", "+FLAGS", r"\Deleted")
            other.expunge()
        with pytest.raises(MessageGone):
            await read(session, 1)
        assert await read(session, 2) == MESSAGES[2]
        await session.commit([session.entries[1].unique_id, session.entries[2].unique_id])
    assert dovecot.messages(account.name) == MESSAGES[:1]


@pytest.mark.fault("C6")
@pytest.mark.computes
async def test_ten_thousand_messages_open_quickly(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop) -> None:
    dovecot.add_messages(account.name, (b"Subject: %d\r\n\r\n" % number for number in range(10_000)))
    async with maildrop.open(CLIENT, None) as session:  # Dovecot makes its index of the new files.
        assert len(session.entries) == 10_000
    started = time.monotonic()
    async with maildrop.open(CLIENT, None) as session:
        assert len(session.entries) == 10_000
    assert time.monotonic() - started < 2


async def test_clients_own_login(dovecot: Dovecot, account: Account) -> None:
    dovecot.add_message(account.name, MESSAGES[0])
    maildrop = maildrop_for(
        dovecot.imaps_port, dovecot.ca_file, POP3_LOGIN="backend", BACKEND_IMAP_USER=None, BACKEND_IMAP_PASS=None
    )
    async with maildrop.open(CLIENT, login(account.name, account.password)) as session:
        assert await read(session, 0) == MESSAGES[0]
    with pytest.raises(LoginRefused):
        async with maildrop.open(CLIENT, login(account.name, "wrong")):
            pass
    await maildrop.aclose()


@pytest.mark.parametrize("password", ['quo"te\\ {5} %*', "pässwörd ", "日本語"])
async def test_odd_passwords(dovecot: Dovecot, password: str) -> None:
    account = dovecot.add_account(password=password)
    maildrop = maildrop_on(dovecot, account)
    async with maildrop.open(CLIENT, None) as session:
        assert list(session.entries) == []
    await maildrop.aclose()


async def test_starttls(dovecot: Dovecot, account: Account) -> None:
    dovecot.add_message(account.name, MESSAGES[0])
    maildrop = maildrop_for(
        dovecot.imap_port,
        dovecot.ca_file,
        "starttls",
        BACKEND_IMAP_HOST=dovecot.plain_host,
        BACKEND_IMAP_USER=account.name,
        BACKEND_IMAP_PASS=Secret(account.password),
    )
    async with maildrop.open(CLIENT, None) as session:
        assert await read(session, 0) == MESSAGES[0]
    await maildrop.aclose()


async def test_probe(dovecot: Dovecot, account: Account, maildrop: IMAPMaildrop) -> None:
    findings = await maildrop.probe()
    assert [finding.level for finding in findings] == [Level.GOOD] * 4
    assert "UIDPLUS" in findings[2].text
