"""The promises of :class:`legacy_email_proxy.contracts.Maildrop`, each a test."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import anyio
import pytest

from ..contracts import Finding, Login, Maildrop, MaildropBusy, MaildropSession, MessageGone, at_hand_of
from .bench import CLIENT, CONTENTS, LARGE, Suite, bounded

__all__ = ("MaildropSuite",)

Fill: TypeAlias = Callable[[Sequence[bytes]], Awaitable[None]]
Look: TypeAlias = Callable[[], Awaitable[Sequence[bytes]]]
Remove: TypeAlias = Callable[[bytes], Awaitable[None]]

_LEGAL = re.compile(r"[\x21-\x7e]{1,70}")
_FIVE = [b"Subject: %d\r\nX-Filler: %s\r\n\r\nbody of %d\r\n" % (n, b"x" * n, n) for n in range(1, 6)]


async def _whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def _message(session: MaildropSession, unique_id: str) -> bytes:
    """The whole message, asked for as POP3 does it."""
    octets = at_hand_of(session)(unique_id, None)
    return await _whole(session.retrieve(unique_id)) if octets is None else octets


async def _top(session: MaildropSession, unique_id: str, lines: int) -> bytes:
    octets = at_hand_of(session)(unique_id, lines)
    return await _whole(session.top(unique_id, lines)) if octets is None else octets


@pytest.mark.anyio
class MaildropSuite(Suite):
    """Subclass it as ``TestMyMaildrop`` and write three fixtures, or four.

    ``maildrop`` gives the maildrop, made in the event loop (``async def``), over an empty mailbox, and closes it after
    the test. ``fill`` gives an async function that puts messages into that mailbox, and ``held`` one that returns all
    messages in it; neither may use the maildrop. ``remove`` gives an async function that removes the message with this
    content, as another mail program would; without it, the tests that need it are skipped.
    """

    login: Login | None = None
    """What the client gave, for a maildrop that asks for it."""

    @pytest.fixture
    def maildrop(self) -> Any:
        """The maildrop to test, empty."""
        raise NotImplementedError("write a fixture `maildrop`")

    @pytest.fixture
    def fill(self) -> Any:
        """An async function that puts messages into the mailbox."""
        raise NotImplementedError("write a fixture `fill`")

    @pytest.fixture
    def held(self) -> Any:
        """An async function that returns the messages in the mailbox, in any order."""
        raise NotImplementedError("write a fixture `held`")

    @pytest.fixture
    def remove(self) -> Any:
        """An async function that removes one message from the mailbox without the maildrop."""
        pytest.skip("no fixture `remove`")

    def expected(self, content: bytes) -> bytes:
        """What the maildrop gives for this message: override it where the mailbox can't hold every octet as it is."""
        return content

    # Helpers.

    def _open(self, maildrop: Maildrop) -> AbstractAsyncContextManager[MaildropSession]:
        return maildrop.open(CLIENT, self.login)

    async def _contents(self, session: MaildropSession) -> dict[str, bytes]:
        return {entry.unique_id: await _message(session, entry.unique_id) for entry in session.entries}

    async def _unique_id(self, session: MaildropSession, content: bytes) -> str:
        """Of the message with this content."""
        contents = await self._contents(session)
        return next(unique_id for unique_id, found in contents.items() if found == self.expected(content))

    async def _still_holds(self, held: Look, messages: Sequence[bytes]) -> None:
        assert sorted(await held()) == sorted(self.expected(message) for message in messages)

    # Entries.

    @bounded
    async def test_empty_mailbox(self, maildrop: Maildrop) -> None:
        async with self._open(maildrop) as session:
            assert list(session.entries) == []

    @bounded
    async def test_unique_ids_are_legal_and_unique(self, maildrop: Maildrop, fill: Fill) -> None:
        # Two of them are the same message, octet for octet.
        await fill([*_FIVE, _FIVE[0]])
        async with self._open(maildrop) as session:
            unique_ids = [entry.unique_id for entry in session.entries]
        assert len(unique_ids) == len(set(unique_ids)) == 6
        assert [each for each in unique_ids if not _LEGAL.fullmatch(each)] == []

    @bounded
    async def test_octets_add_up(self, maildrop: Maildrop, fill: Fill) -> None:
        await fill(_FIVE)
        async with self._open(maildrop) as session:
            contents = await self._contents(session)
            assert {entry.unique_id: entry.octets for entry in session.entries} == {
                unique_id: len(content) for unique_id, content in contents.items()
            }

    @bounded
    async def test_two_sessions_see_the_same(self, maildrop: Maildrop, fill: Fill) -> None:
        await fill(_FIVE)
        async with self._open(maildrop) as session:
            entries, contents = list(session.entries), await self._contents(session)
        async with self._open(maildrop) as session:
            assert list(session.entries) == entries
            assert await self._contents(session) == contents

    @bounded
    async def test_entries_are_fixed_while_open(self, maildrop: Maildrop, fill: Fill) -> None:
        await fill(_FIVE[:3])
        async with self._open(maildrop) as session:
            entries = list(session.entries)
            await fill(_FIVE[3:])
            await self._contents(session)
            assert list(session.entries) == entries
        async with self._open(maildrop) as session:
            assert {*entries} < {*session.entries}
            assert len(session.entries) == 5

    # Retrieving.

    @pytest.mark.parametrize("name", CONTENTS)
    @bounded
    async def test_message_is_given_octet_for_octet_and_again(self, maildrop: Maildrop, fill: Fill, name: str) -> None:
        await fill([_FIVE[0], CONTENTS[name], _FIVE[1]])
        async with self._open(maildrop) as session:
            first = await self._contents(session)
            assert sorted(first.values()) == sorted(map(self.expected, (_FIVE[0], CONTENTS[name], _FIVE[1])))
            assert await self._contents(session) == first

    @bounded
    async def test_large_message_comes_in_pieces(self, maildrop: Maildrop, fill: Fill) -> None:
        await fill([LARGE])
        async with self._open(maildrop) as session:
            pieces = [piece async for piece in session.retrieve(session.entries[0].unique_id)]
        assert b"".join(pieces) == self.expected(LARGE)
        assert max(map(len, pieces)) < len(LARGE) / 2, "a large message must not stand in memory whole"

    @bounded
    async def test_stopping_early_harms_nothing(self, maildrop: Maildrop, fill: Fill) -> None:
        await fill([LARGE, *_FIVE])
        async with self._open(maildrop) as session:
            contents = await self._contents(session)
            for unique_id in contents:
                pieces = session.retrieve(unique_id)
                await anext(pieces)
                await pieces.aclose()
            assert await self._contents(session) == contents

    @bounded
    async def test_an_iterator_that_never_began_is_closed(self, maildrop: Maildrop, fill: Fill) -> None:
        await fill(_FIVE)
        async with self._open(maildrop) as session:
            pieces = session.retrieve(session.entries[0].unique_id)
            await pieces.aclose()
            assert len(await self._contents(session)) == 5

    @pytest.mark.parametrize("lines", [0, 1, 3, 100_000])
    @bounded
    async def test_top_gives_the_header_and_enough_lines(self, maildrop: Maildrop, fill: Fill, lines: int) -> None:
        many = b"Subject: many\r\nX: y\r\n\r\n" + b"".join(b"line %d\r\n" % n for n in range(1000))
        messages = [many, *(CONTENTS[name] for name in ("header only", "dots", "no final CRLF")), LARGE]
        await fill(messages)
        async with self._open(maildrop) as session:
            for unique_id, whole in (await self._contents(session)).items():
                header, blank_line, body = whole.partition(b"\r\n\r\n")
                wanted = header + blank_line + b"".join(body.splitlines(keepends=True)[:lines])
                given = await _top(session, unique_id, lines)
                assert given.startswith(wanted)
                assert whole.startswith(given)

    @bounded
    async def test_sessions_at_once_do_not_mix(self, maildrop: Maildrop, fill: Fill) -> None:
        await fill([*_FIVE, LARGE])
        found: list[dict[str, bytes]] = []

        async def read(first: int) -> None:
            async with self._open(maildrop) as session:
                order = [*session.entries[first:], *session.entries[:first]]
                found.append({entry.unique_id: await _message(session, entry.unique_id) for entry in order})

        try:
            async with self._open(maildrop), self._open(maildrop):
                pass
        except MaildropBusy:
            pytest.skip("one session at a time")
        async with anyio.create_task_group() as tasks:
            for first in range(4):
                tasks.start_soon(read, first)
        assert len(found) == 4
        assert all(each == found[0] for each in found)

    @bounded
    async def test_cancelled_while_retrieving(self, maildrop: Maildrop, fill: Fill, held: Look) -> None:
        await fill([LARGE, *_FIVE])

        async def read() -> None:
            async with self._open(maildrop) as session:
                async for _ in session.retrieve(await self._unique_id(session, LARGE)):
                    tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
        async with self._open(maildrop) as session:
            assert len(await self._contents(session)) == 6
        await self._still_holds(held, [LARGE, *_FIVE])

    # Messages that another program removes.

    @bounded
    async def test_a_removed_message_is_gone_alone(self, maildrop: Maildrop, fill: Fill, remove: Remove) -> None:
        await fill(_FIVE)
        async with self._open(maildrop) as session:
            entries, contents = list(session.entries), await self._contents(session)
            gone = await self._unique_id(session, _FIVE[2])
            await remove(_FIVE[2])
            for look in (session.retrieve(gone), session.top(gone, 1)):
                with pytest.raises(MessageGone):
                    await anext(look)
            assert list(session.entries) == entries
            for unique_id in contents.keys() - {gone}:
                assert await _whole(session.retrieve(unique_id)) == contents[unique_id]
        async with self._open(maildrop) as session:
            assert list(session.entries) == [entry for entry in entries if entry.unique_id != gone]

    @bounded
    async def test_commit_of_a_removed_message_removes_the_others(
        self, maildrop: Maildrop, fill: Fill, held: Look, remove: Remove
    ) -> None:
        await fill(_FIVE)
        async with self._open(maildrop) as session:
            deleted = {await self._unique_id(session, _FIVE[n]) for n in (1, 2)}
            gone = await self._unique_id(session, _FIVE[1])
            await remove(_FIVE[1])
            with pytest.raises(MessageGone):
                await anext(session.retrieve(gone))
            # The core leaves out what the client asked for and did not get; commit removes all that it is given.
            await session.commit(deleted)
        await self._still_holds(held, [_FIVE[0], *_FIVE[3:]])

    # Removing.

    @bounded
    async def test_leaving_without_commit_keeps_all(self, maildrop: Maildrop, fill: Fill, held: Look) -> None:
        await fill(_FIVE)
        async with self._open(maildrop) as session:
            await self._contents(session)
        with pytest.raises(ZeroDivisionError):
            async with self._open(maildrop):
                raise ZeroDivisionError
        with anyio.CancelScope() as scope:
            async with self._open(maildrop):
                scope.cancel()
                await anyio.sleep_forever()
        await self._still_holds(held, _FIVE)

    @pytest.mark.parametrize("numbers", [[0], [4], [1, 3], [0, 1, 2, 3, 4]], ids=str)
    @bounded
    async def test_commit_removes_exactly_these(
        self, maildrop: Maildrop, fill: Fill, held: Look, numbers: list[int]
    ) -> None:
        await fill(_FIVE)
        async with self._open(maildrop) as session:
            entries = list(session.entries)
            deleted = {await self._unique_id(session, _FIVE[n]) for n in numbers}
            await session.commit(deleted)
        await self._still_holds(held, [message for n, message in enumerate(_FIVE) if n not in numbers])
        async with self._open(maildrop) as session:
            assert list(session.entries) == [entry for entry in entries if entry.unique_id not in deleted]

    @bounded
    async def test_commit_leaves_what_came_meanwhile(self, maildrop: Maildrop, fill: Fill, held: Look) -> None:
        await fill(_FIVE[:3])
        async with self._open(maildrop) as session:
            await fill(_FIVE[3:])
            await session.commit([entry.unique_id for entry in session.entries])
        await self._still_holds(held, _FIVE[3:])

    @bounded
    async def test_commit_of_what_another_session_removed(self, maildrop: Maildrop, fill: Fill, held: Look) -> None:
        await fill(_FIVE)
        async with self._open(maildrop) as session:
            deleted = {await self._unique_id(session, message) for message in _FIVE[:2]}
            try:
                async with self._open(maildrop) as other:
                    await other.commit(deleted)
            except MaildropBusy:
                pytest.skip("one session at a time")
            await session.commit(deleted)
        await self._still_holds(held, _FIVE[2:])

    # Around the session.

    @bounded
    async def test_probe_gives_findings_and_changes_nothing(self, maildrop: Maildrop, fill: Fill, held: Look) -> None:
        await fill(_FIVE)
        assert all(isinstance(finding, Finding) for finding in await maildrop.probe())
        await self._still_holds(held, _FIVE)
