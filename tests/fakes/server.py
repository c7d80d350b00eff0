"""What every fake server is: it listens on a free port, acts by a script, and tells when something happened.

A script names steps: `(step, n)` is the n-th time of a step on this server, counted over all connections; a bare step
is every time. What the script does not name is answered as a well-behaved server does.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NoReturn, Self, TypeVar

from fakes.stream import Gone, Stream

__all__ = ("Connection", "DialogueServer", "Drop", "Encryption", "FakeServer", "Hang", "Reset", "Session", "Step")

Encryption = Literal["implicit", "starttls", "none"]
Step = str | tuple[str, int]
A = TypeVar("A")
C = TypeVar("C", bound="Connection")
T = TypeVar("T", bound=Stream)


@dataclass(frozen=True)
class Drop:
    """Say `last` and close the connection."""

    last: bytes = b""


@dataclass(frozen=True)
class Reset:
    """Say `last` and close with a TCP reset."""

    last: bytes = b""


@dataclass(frozen=True)
class Hang:
    """Say `last`, then nothing, until the peer or the test is gone."""

    last: bytes = b""


class FakeServer(Generic[A]):
    """Listens on a free port of 127.0.0.1, or on `port`, in its `async with` block. `A` is what a script gives."""

    def __init__(self, tls: ssl.SSLContext | None, script: Mapping[Step, A] | None) -> None:
        self.tls = tls
        self.script: dict[Step, A] = dict(script or {})
        self.port = 0
        self._times: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[object]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> asyncio.Server:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = await self.listen()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        if failures := [end for end in ends if isinstance(end, Exception)]:
            raise failures[0]  # a mistake of the script or of this server, which no client would show

    def start(self, serving: Coroutine[Any, Any, object], close: Callable[[], None]) -> None:
        """Serve one connection, and then `close` it; how it failed is told at the end of the block.

        A task that is cancelled before its first step never runs, so it could not close the connection itself. `close`
        holds the stream writer where there is one: Python tells of one that is freed before it was closed.
        """
        task = asyncio.get_running_loop().create_task(serving)
        task.add_done_callback(lambda _: close())
        self._tasks.add(task)

    def disconnect_all(self) -> None:
        """Close every connection, as a server does that is restarted."""
        for task in self._tasks:
            task.cancel()

    def times(self, step: str) -> int:
        """How often this step has come."""
        return self._times[step]

    def act(self, step: str) -> A | None:
        """What the script has for this time of the step."""
        self._times[step] += 1
        return self.script.get((step, self._times[step]), self.script.get(step))

    async def until(self, condition: Callable[[Self], object], seconds: float = 10.0) -> None:
        """Wait until it holds; TimeoutError if it does not in time. Looked at whenever something has happened here."""
        async with asyncio.timeout(seconds):
            async with self._changed:
                await self._changed.wait_for(lambda: bool(condition(self)))

    async def notice(self) -> None:
        """Something happened; wake whoever waits for it."""
        async with self._changed:
            self._changed.notify_all()


@dataclass
class Connection:
    """One connection as the server saw it. `octets` is all that came, inside TLS where there was TLS."""

    number: int
    octets: bytearray = field(default_factory=bytearray)
    commands: list[str] = field(default_factory=list)
    tls: bool = False
    handshake_failed: bool = False
    user: str | None = None
    password: str | None = None
    ended: bool = False


class DialogueServer(FakeServer[A], Generic[A, C]):
    """A fake of a protocol of commands and answers, over TCP or TLS. `C` is what it keeps of a connection."""

    connections: list[C]

    @property
    def octets(self) -> bytes:
        """All that came, over all connections."""
        return b"".join(bytes(connection.octets) for connection in self.connections)

    @property
    def open_connections(self) -> int:
        return sum(not connection.ended for connection in self.connections)

    async def start_tls(self, connection: C, stream: Stream) -> None:
        assert self.tls is not None, "the test forgot to give a certificate"
        try:
            await stream.start_tls(self.tls)
        except Gone:
            connection.handshake_failed = True
            raise
        connection.tls = True

    async def serve(self, connection: C, stream: Stream, dialogue: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Hold the dialogue until one side is gone."""
        self.connections.append(connection)
        await self.notice()
        try:
            await dialogue()
        except Gone:
            pass
        finally:
            stream.drop()
            connection.ended = True
            await self.notice()


class Session(Generic[C, T]):
    """The server's half of one dialogue: what has come and was not read yet, and the actions that every fake knows."""

    line_end = b"\r\n"

    def __init__(self, connection: C, stream: T, *, keep: bool = True) -> None:
        self._connection = connection
        self._stream = stream
        self._keep = keep
        self._buffer = bytearray()

    async def _send(self, octets: bytes) -> None:
        raise NotImplementedError

    async def _receive(self) -> None:
        """Wait for octets, into the buffer."""
        octets = await self._stream.read()
        if self._keep:
            self._connection.octets += octets
        self._buffer += octets

    async def _line(self) -> bytes:
        """One line, without its end."""
        while (end := self._buffer.find(self.line_end)) < 0:
            await self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + len(self.line_end)]
        return line

    async def _given(self, action: Any, line: str) -> Any:
        """The action that a callable of the script gives for this line."""
        while callable(action):
            result = action(self._connection, line)
            action = await result if inspect.isawaitable(result) else result
        return action

    async def _leave(self, action: Drop | Reset | Hang) -> NoReturn:
        if action.last:
            await self._send(action.last)
        if isinstance(action, Reset):
            self._stream.reset()
        if isinstance(action, Hang):
            await self._stream.gone()
        raise Gone
