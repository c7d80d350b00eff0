"""Maildrops that break one promise each. `test_suites` runs them: every class here but the good one must fail.

A class names, in `breaks`, the tests that must tell of its fault. Only those are run, and all of them on the good one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

import anyio
import pytest

from contracts.memory import MemoryMaildrop, MemorySession
from legacy_email_proxy.contracts import Client, Entry, Finding, Login, MaildropSession
from legacy_email_proxy.testing import MaildropSuite


class Maildrops(MaildropSuite):
    seconds = 0.5
    breaks: ClassVar[tuple[str, ...]] = ()
    maildrops: ClassVar[type[MemoryMaildrop]] = MemoryMaildrop
    sessions: ClassVar[type[MemorySession]] = MemorySession

    @pytest.fixture
    async def maildrop(self) -> MemoryMaildrop:
        maildrop = self.maildrops()
        maildrop.sessions = self.sessions
        return maildrop

    @pytest.fixture
    def fill(self, maildrop: MemoryMaildrop) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        async def put(messages: Sequence[bytes]) -> None:
            maildrop.add(messages)

        return put

    @pytest.fixture
    def held(self, maildrop: MemoryMaildrop) -> Callable[[], Awaitable[Sequence[bytes]]]:
        async def look() -> Sequence[bytes]:
            return list(maildrop.messages.values())

        return look

    @pytest.fixture
    def remove(self, maildrop: MemoryMaildrop) -> Callable[[bytes], Awaitable[None]]:
        async def remove(content: bytes) -> None:
            number = next(n for n, message in maildrop.messages.items() if message == content)
            del maildrop.messages[number]

        return remove


class TestGoodMaildrop(Maildrops):
    seconds = 10.0


class TestNeverEmpty(Maildrops):
    breaks = ("test_empty_mailbox",)

    class sessions(MemorySession):
        def list(self) -> Sequence[Entry]:
            return super().list() or [Entry("nothing", 0)]


class TestNumbersForUniqueIds(Maildrops):
    breaks = ("test_commit_removes_exactly_these", "test_a_removed_message_is_gone_alone")

    class sessions(MemorySession):
        def unique_id(self, number: int, message: bytes) -> str:
            return str(list(self.maildrop.messages).index(number))


class TestHashesForUniqueIds(Maildrops):
    breaks = ("test_unique_ids_are_legal_and_unique",)

    class sessions(MemorySession):
        def unique_id(self, number: int, message: bytes) -> str:
            return str(hash(message))


class TestSpacesInUniqueIds(Maildrops):
    breaks = ("test_unique_ids_are_legal_and_unique",)

    class sessions(MemorySession):
        def unique_id(self, number: int, message: bytes) -> str:
            return f"message {number}"


class TestLongUniqueIds(Maildrops):
    breaks = ("test_unique_ids_are_legal_and_unique",)

    class sessions(MemorySession):
        def unique_id(self, number: int, message: bytes) -> str:
            return f"{number:071}"


class TestUniqueIdsOfTheSession(Maildrops):
    breaks = ("test_two_sessions_see_the_same",)

    class sessions(MemorySession):
        def unique_id(self, number: int, message: bytes) -> str:
            return f"{id(self)}.{number}"


class TestCountsWithoutCR(Maildrops):
    breaks = ("test_octets_add_up",)

    class sessions(MemorySession):
        def list(self) -> Sequence[Entry]:
            return [Entry(uid, octets - 1) for uid, octets in super().list()]


class TestLiveEntries(Maildrops):
    breaks = ("test_entries_are_fixed_while_open",)

    class sessions(MemorySession):
        entries = property(MemorySession.list, lambda *_: None)


class TestReadOnce(Maildrops):
    breaks = ("test_message_is_given_octet_for_octet_and_again",)

    class sessions(MemorySession):
        def __init__(self, maildrop: MemoryMaildrop) -> None:
            super().__init__(maildrop)
            self.read: set[str] = set()

        async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
            if unique_id not in self.read:
                async for piece in super().retrieve(unique_id):
                    yield piece
            self.read.add(unique_id)


class TestWholeInMemory(Maildrops):
    breaks = ("test_large_message_comes_in_pieces",)

    class sessions(MemorySession):
        async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
            yield b"".join([piece async for piece in super(type(self), self).retrieve(unique_id)])


class TestSharedPosition(Maildrops):
    breaks = ("test_stopping_early_harms_nothing",)

    class sessions(MemorySession):
        rest: ClassVar[dict[str, int]] = {}

        async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
            start = self.rest.pop(unique_id, 0)
            sent = 0
            async for piece in super().retrieve(unique_id):
                sent += len(piece)
                self.rest[unique_id] = sent
                if sent > start:
                    yield piece
            self.rest.pop(unique_id, None)


class TestTopOfTheHeaderAlone(Maildrops):
    breaks = ("test_top_gives_the_header_and_enough_lines",)

    class sessions(MemorySession):
        async def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
            whole = b"".join([piece async for piece in self.retrieve(unique_id)])
            header, blank_line, _ = whole.partition(b"\r\n\r\n")
            yield header + blank_line


class TestTopWithoutTheHeader(Maildrops):
    breaks = ("test_top_gives_the_header_and_enough_lines",)

    class sessions(MemorySession):
        async def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
            whole = b"".join([piece async for piece in self.retrieve(unique_id)])
            yield whole.partition(b"\r\n\r\n")[2]


class TestHalfAtHand(Maildrops):
    breaks = ("test_message_is_given_octet_for_octet_and_again",)

    class sessions(MemorySession):
        def at_hand(self, unique_id: str, lines: int | None) -> bytes | None:
            number = self.number(unique_id)
            message = b"" if number is None else self.maildrop.messages[number]
            return message[: len(message) // 2] if message and lines is None else None


class TestTopOfTheHeaderAtHand(Maildrops):
    breaks = ("test_top_gives_the_header_and_enough_lines",)

    class sessions(MemorySession):
        def at_hand(self, unique_id: str, lines: int | None) -> bytes | None:
            if lines is None or (number := self.number(unique_id)) is None:
                return None
            header, blank_line, _ = self.maildrop.messages[number].partition(b"\r\n\r\n")
            return header + blank_line


class TestGoneIsEmpty(Maildrops):
    breaks = ("test_a_removed_message_is_gone_alone",)

    class sessions(MemorySession):
        async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
            if self.number(unique_id) is not None:
                async for piece in super().retrieve(unique_id):
                    yield piece


class TestCommitAfterRemovalFails(Maildrops):
    breaks = ("test_commit_of_a_removed_message_removes_the_others", "test_commit_of_what_another_session_removed")

    class sessions(MemorySession):
        async def commit(self, deleted: Collection[str]) -> None:
            for unique_id in deleted:
                del self.maildrop.messages[self.number(unique_id) or 0]


class TestRemovesWhenLeft(Maildrops):
    breaks = ("test_leaving_without_commit_keeps_all",)

    class maildrops(MemoryMaildrop):
        @asynccontextmanager
        async def open(self, client: Client, login: Login | None) -> AsyncIterator[MaildropSession]:
            session = MemorySession(self)
            try:
                yield session
            finally:
                await session.commit([entry.unique_id for entry in session.entries[:1]])


class TestRemovesAll(Maildrops):
    breaks = ("test_commit_removes_exactly_these", "test_commit_leaves_what_came_meanwhile")

    class sessions(MemorySession):
        async def commit(self, deleted: Collection[str]) -> None:
            self.maildrop.messages.clear()


class TestRemovesNothing(Maildrops):
    breaks = ("test_commit_removes_exactly_these",)

    class sessions(MemorySession):
        async def commit(self, deleted: Collection[str]) -> None:
            pass


class TestRemovesAtTheNextSession(Maildrops):
    breaks = ("test_commit_removes_exactly_these",)
    marked: ClassVar[list[str]] = []

    class sessions(MemorySession):
        async def commit(self, deleted: Collection[str]) -> None:
            self.maildrop.count += 1
            self.maildrop.messages[self.maildrop.count] = b"reminder: " + " ".join(deleted).encode()


class TestMixesSessions(Maildrops):
    breaks = ("test_sessions_at_once_do_not_mix",)
    last: ClassVar[list[str]] = []

    class sessions(MemorySession):
        async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
            TestMixesSessions.last[:] = [unique_id]
            await anyio.lowlevel.checkpoint()
            async for piece in super().retrieve(TestMixesSessions.last[0]):
                yield piece


class TestProbeOfTheMaildropRaises(Maildrops):
    breaks = ("test_probe_gives_findings_and_changes_nothing",)

    class maildrops(MemoryMaildrop):
        async def probe(self) -> Sequence[Finding]:
            raise OSError


class TestProbeRemoves(Maildrops):
    breaks = ("test_probe_gives_findings_and_changes_nothing",)

    class maildrops(MemoryMaildrop):
        async def probe(self) -> Sequence[Finding]:
            self.messages.popitem()
            return ()


class TestClosedByACancelledReader(Maildrops):
    breaks = ("test_cancelled_while_retrieving",)

    class sessions(MemorySession):
        async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
            try:
                async for piece in super().retrieve(unique_id):
                    yield piece
            except anyio.get_cancelled_exc_class():
                self.maildrop.messages.clear()
                raise
