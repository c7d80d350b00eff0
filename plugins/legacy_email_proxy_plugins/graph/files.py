"""Octets on disk in a file without a name: a message, or an attachment, that is never in memory as a whole.

A small one is not written at all. The file is gone when it is closed, also after a crash.
"""

from __future__ import annotations

import base64
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

import anyio

from ..threads import Threads

__all__ = ("PIECE_OCTETS", "Kept", "base64_length", "base64_of")

PIECE_OCTETS = 3 * 2**16
"""A multiple of three, so that base64 needs no padding in between."""
_IN_MEMORY = 2**20

T = TypeVar("T")


class Kept:
    """The octets of one message. ``folder`` is called in a thread, as it may make the folder."""

    def __init__(self, threads: Threads, folder: Callable[[], Path]) -> None:
        self._threads = threads
        self._folder = folder
        self._file: IO[bytes] | None = None
        # A download is read while it is written.
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._waiting_octets = 0
        self.octets = 0

    @property
    def written(self) -> int:
        """How many octets can be read."""
        return self.octets - self._waiting_octets

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with anyio.CancelScope(shield=True):
                await self._threads.run(self._file.close)

    async def write(self, piece: bytes) -> None:
        """Append."""
        self._waiting.append(piece)
        self._waiting_octets += len(piece)
        self.octets += len(piece)
        if self._waiting_octets >= PIECE_OCTETS:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits, so that it can be read."""
        pieces, self._waiting = self._waiting, []
        await self.run(lambda file: file.writelines(pieces), at=None)
        self._waiting_octets -= sum(map(len, pieces))

    async def run(self, work: Callable[[IO[bytes]], T], *, at: int | None = 0) -> T:
        """Do something with the file in a thread; ``at``: the position to begin at, ``None`` for its end."""
        return await self._threads.run(self._run, work, at)

    def _run(self, work: Callable[[IO[bytes]], T], at: int | None) -> T:
        with self._lock:
            return self._locked(work, at)

    def _locked(self, work: Callable[[IO[bytes]], T], at: int | None) -> T:
        if self._file is None:
            folder = self._folder()
            self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(folder))  # noqa: SIM115 (closed by aclose)
        self._file.seek(0 if at is None else at, 2 if at is None else 0)
        return work(self._file)

    async def clear(self) -> None:
        """Begin anew."""
        self._waiting, self._waiting_octets, self.octets = [], 0, 0
        await self.run(lambda file: file.truncate(0))

    async def read(self, start: int, octets: int) -> bytes:
        """Up to so many octets from ``start``."""
        return await self.run(lambda file: file.read(octets), at=start)

    async def pieces(self, start: int = 0) -> AsyncIterator[bytes]:
        """All from ``start``."""
        while piece := await self.read(start, PIECE_OCTETS):
            yield piece
            start += len(piece)


def base64_length(octets: int) -> int:
    """How long so many octets are in base64."""
    return (octets + 2) // 3 * 4


async def base64_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces as one base64 text without line ends."""
    left = b""
    async for piece in pieces:
        whole = left + piece
        end = len(whole) - len(whole) % 3
        left = whole[end:]
        if end:
            yield base64.b64encode(whole[:end])
    if left:
        yield base64.b64encode(left)
