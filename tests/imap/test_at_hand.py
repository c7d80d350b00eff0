"""Which messages a session has at hand: those that were read ahead, in a row, and that nothing is odd about."""

from __future__ import annotations

import pytest

from fakes.imap import Mailbox, Message
from imap.support import CLIENT, pair, read, read_top
from imap.test_quirks import COURIER
from legacy_email_proxy.contracts import MessageUnavailable, ReadySession
from realservers.certificates import Certificates

HEADER = b"Subject: %d\r\n\r\n"
WHOLE = HEADER + b"body\r\n"
MAIL = [WHOLE % number for number in range(6)]


def at_hand(session: ReadySession, position: int, lines: int | None = None) -> bytes | None:
    return session.at_hand(session.entries[position].unique_id, lines)


async def test_the_next_one_is_at_hand_and_no_other(certificates: Certificates) -> None:
    async with pair(certificates.good, *MAIL) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert at_hand(session, 0) is None
            assert [await read(session, position) for position in (0, 1)] == MAIL[:2]
            commands = len(server.commands)
            assert at_hand(session, 1) is None, "it was taken already"
            assert at_hand(session, 3) is None, "it is not the next one"
            assert at_hand(session, 2, 3) is None, "the top of a message is read from the server"
            assert [at_hand(session, position) for position in (2, 3, 4, 5)] == MAIL[2:]
            assert len(server.commands) == commands
            assert session.at_hand("no such message", None) is None
            assert [await read(session, position) for position in (4, 3)] == [MAIL[4], MAIL[3]]
            assert at_hand(session, 2) == MAIL[2], "it goes down, too"
            assert [await read(session, position) for position in (1, 0)] == [MAIL[1], MAIL[0]]
            assert at_hand(session, -1) is None


async def test_headers_are_at_hand(certificates: Certificates) -> None:
    async with pair(certificates.good, *MAIL) as (maildrop, _), maildrop.open(CLIENT, None) as session:
        for position in (0, 1):
            assert await read_top(session, position, 0) == HEADER % position
        assert at_hand(session, 2, 0) == HEADER % 2


@pytest.mark.parametrize("lines", [None, 0])
async def test_a_substitute_is_never_at_hand(certificates: Certificates, lines: int | None) -> None:
    box = Mailbox({uid: Message(octets) for uid, octets in enumerate([*MAIL[:2], COURIER, MAIL[3]], start=1)})
    async with pair(certificates.good, mailbox=box) as (maildrop, server), maildrop.open(CLIENT, None) as session:
        for position in (0, 1):
            await (read(session, position) if lines is None else read_top(session, position, lines))
        asked = len(server.commands)
        assert at_hand(session, 2, lines) is None
        with pytest.raises(MessageUnavailable):
            await (read(session, 2) if lines is None else read_top(session, 2, lines))
        # What was prefetched is judged, and not fetched once more. A header alone can not be judged.
        assert len(server.commands) - asked == (0 if lines is None else 1)
        assert await read(session, 3) == MAIL[3]


async def test_where_it_must_be_noted_that_a_message_came_none_is_at_hand(certificates: Certificates) -> None:
    async with pair(certificates.good, *MAIL, POP3_HIDE_UNFETCHABLE_AFTER=2) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert [await read(session, position) for position in (0, 1)] == MAIL[:2]
            assert at_hand(session, 2) is None
            assert [await read(session, position) for position in (2, 3, 4, 5)] == MAIL[2:]
