"""A maildrop in memory that fails where a test wants it to, and a driver that plays a session without I/O."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from legacy_email_proxy.contracts import Client, Entry, Failure, Finding, Login
from legacy_email_proxy.pop3.options import Options
from legacy_email_proxy.pop3.requests import Close, Commit, NeedData, Open, Reply, Retrieve, StartTLS, Verdict
from legacy_email_proxy.pop3.session import Session

OPTIONS = Options("test")


@dataclass
class MemoryMaildrop:
    """``messages`` is the mailbox. ``fail`` maps a step to what it raises: ``open`` (a list, one for each try),
    ``leave``, ``commit``, ``retrieve <uid>`` before the first piece, ``break <uid>`` after it, ``close <uid>``."""

    messages: dict[str, bytes] = field(default_factory=dict)
    fail: dict[str, BaseException] = field(default_factory=dict)
    fail_open: list[BaseException] = field(default_factory=list)
    piece_octets: int = 7
    logins: list[Login | None] = field(default_factory=list)
    commits: list[tuple[str, ...]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    entered: int = 0
    left: int = 0
    iterators: int = 0
    closed: int = 0

    def raising(self, step: str) -> None:
        self.steps.append(step)
        if step in self.fail:
            raise self.fail[step]

    def entries(self) -> tuple[Entry, ...]:
        return tuple(Entry(uid, len(content)) for uid, content in self.messages.items())

    def pieces(self, uid: str) -> Iterator[bytes]:
        self.raising(f"retrieve {uid}")
        content = self.messages[uid]
        for start in range(0, len(content), self.piece_octets):
            yield content[start : start + self.piece_octets]
            self.raising(f"break {uid}")

    def remove(self, deleted: Collection[str]) -> None:
        self.raising("commit")
        self.commits.append(tuple(deleted))
        for uid in deleted:
            del self.messages[uid]

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[MemorySession]:
        self.logins.append(login)
        if self.fail_open:
            raise self.fail_open.pop(0)
        self.entered += 1
        try:
            yield MemorySession(self, self.entries())
        finally:
            self.left += 1
            self.raising("leave")

    async def probe(self) -> Sequence[Finding]:
        return ()

    async def aclose(self) -> None:
        pass


@dataclass
class MemorySession:
    maildrop: MemoryMaildrop
    entries: Sequence[Entry]

    async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        self.maildrop.iterators += 1
        try:
            for piece in self.maildrop.pieces(unique_id):
                yield piece
        finally:
            self.maildrop.closed += 1
            self.maildrop.raising(f"close {unique_id}")

    def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        return self.retrieve(unique_id)

    async def commit(self, deleted: Collection[str]) -> None:
        self.maildrop.remove(deleted)


class ReadyMaildrop(MemoryMaildrop):
    """It has the messages ``ready`` at hand, or fails at ``failing``."""

    def __init__(
        self,
        failure: Exception | None = None,
        messages: Mapping[str, bytes] | None = None,
        *,
        ready: Collection[str] = ("a",),
        failing: Collection[str] = ("a", "b"),
    ) -> None:
        super().__init__(dict(messages or {"a": b"S: 1\r\n\r\n.one\ntwo\r\n", "b": b"S: 2\r\n\r\n2\r\n"}))
        self.failure, self.ready, self.failing = failure, ready, failing
        self.asked: list[tuple[str, int | None]] = []

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[MemorySession]:
        async with super().open(client, login):
            yield ReadySession(self, self.entries())


class ReadySession(MemorySession):
    def at_hand(self, unique_id: str, lines: int | None) -> bytes | None:
        assert isinstance(self.maildrop, ReadyMaildrop)
        self.maildrop.asked.append((unique_id, lines))
        if self.maildrop.failure is not None and unique_id in self.maildrop.failing:
            raise self.maildrop.failure
        return self.maildrop.messages[unique_id] if unique_id in self.maildrop.ready else None


@dataclass
class Play:
    """Drives a session by hand. ``out`` is all that it said; ``closed`` is set when it wants to be closed."""

    maildrop: MemoryMaildrop
    session: Session = field(default_factory=lambda: Session(OPTIONS))
    out: bytearray = field(default_factory=bytearray)
    closed: Close | None = None
    opens: list[Open] = field(default_factory=list)
    on_wait: Callable[[Session], None] = lambda session: None

    def feed(self, data: bytes) -> bytes:
        """Give it octets, ``b""`` for the end, and return what it says to that."""
        before = len(self.out)
        if self.closed is None:
            self.session.receive_data(data)
            self._run()
        return bytes(self.out[before:])

    def greet(self) -> bytes:
        self._run()
        return bytes(self.out)

    def log_in(self) -> bytes:
        self.greet()
        return self.feed(b"USER u\r\nPASS p\r\n")

    def _run(self) -> None:
        while True:
            event = self.session.next_event()
            match event:
                case NeedData():
                    return self.on_wait(self.session)
                case Reply(octets):
                    self.out += octets
                case StartTLS(octets):
                    self.out += octets
                    self.session.tls_started()
                case Open():
                    self._open(event)
                case Retrieve():
                    self._retrieve(event)
                case Commit():
                    self._commit(event)
                case Close():
                    self.closed = event
                    return None

    def _open(self, request: Open) -> None:
        self.opens.append(request)
        if self.maildrop.fail_open:
            self.session.open_failed(self.maildrop.fail_open.pop(0))
        else:
            self.session.opened(self.maildrop.entries())

    def _retrieve(self, request: Retrieve) -> None:
        try:
            for piece in self.maildrop.pieces(request.unique_id):
                self.out += self.session.message_piece(piece)
                if self.session.enough:
                    break
            self.out += self.session.message_end()
        except Failure as failure:
            self.session.message_failed(failure)

    def _commit(self, request: Commit) -> None:
        try:
            self.maildrop.remove(request.unique_ids)
        except Failure as failure:
            self.session.commit_failed(failure)
        else:
            self.session.committed()

    @property
    def verdict(self) -> Verdict | None:
        return self.closed.verdict if self.closed else None
