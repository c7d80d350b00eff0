"""Bodies in PostgreSQL: rows of 256 KiB each, written as they come in and read as they go out.

Rows, and no large objects: those belong to a role and not to a table, and are forgotten by whoever copies the tables.
Each row is committed without a sync, so that no transaction stays open while a slow device sends. The commit of the
message's record syncs all that was written before it, and checks that every row is there.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from legacy_email_proxy.contracts import Failure

from ..threads import Threads
from .postgres_connection import PostgresConnection
from .store import Unreadable

__all__ = ("PostgresBodies",)


class _Body:
    """One that is being written. One thread at a time works on it, whoever has given up waiting for that."""

    def __init__(self, pool: _ConnectionPool, owner: str) -> None:
        self.name = secrets.token_hex(16)
        self._pool = pool
        self._instance = owner
        self._turn = threading.Lock()
        self._count = 0
        self.discarded = False

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append ``pieces``. They are on disk only when the record is: its commit syncs all that came before it."""
        octets = b"".join(pieces)
        with self._alone(), self._pool.connection() as connection:
            if octets and not self.discarded:
                self._count += 1
                connection.execute(
                    "INSERT INTO piece (body, number, octets, owner) VALUES (?, ?, ?, ?)",
                    (self.name, self._count - 1, octets, self._instance),
                )

    finish = write

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        finally:
            if self.discarded:
                self.discard()

    def discard(self) -> None:
        """Remove it. A thread that works on it does that at its end, and this does not wait for it. When it can't be
        removed now, it is found later.
        """
        self.discarded = True
        if self._turn.acquire(blocking=False):
            try:
                with suppress(Failure), self._pool.connection() as connection:
                    if self._count:
                        connection.execute("DELETE FROM piece WHERE body = ?", (self.name,))
            finally:
                self._turn.release()


class _ConnectionPool:
    """As many connections as there are threads at work, at most."""

    def __init__(self, connect: Callable[[], PostgresConnection]) -> None:
        self._connect = connect
        self._idle: list[PostgresConnection] = []
        self._closed = False
        self._turn = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[PostgresConnection]:
        with self._turn:
            connection = self._idle.pop() if self._idle else self._connect()
        try:
            yield connection
        finally:
            with self._turn:
                if self._closed:
                    connection.close()
                else:
                    self._idle.append(connection)

    def close(self) -> None:
        with self._turn:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class PostgresBodies:
    """The table ``piece``. The rows of a message that is done go with its record."""

    write_octets = 256 * 1024
    """The driver has several copies of a row in memory."""

    def __init__(self, connect: Callable[[], PostgresConnection], threads: Threads, owner: str) -> None:
        self._pool = _ConnectionPool(connect)
        self._threads = threads
        self._instance = owner

    def create(self) -> _Body:
        """See :meth:`.incoming.Bodies.create`."""
        return _Body(self._pool, self._instance)

    async def read(self, name: str, octets: int) -> AsyncGenerator[bytes, None]:
        """See :meth:`.incoming.Bodies.read`."""
        left, number = octets, 0
        while left > 0:
            piece = await self._threads.run(self._piece, name, number)
            if piece is None:
                raise Unreadable(f"its body {name!a} ends {left} octets early")
            left, number = left - len(piece), number + 1
            if left < 0:
                raise Unreadable(f"its body {name!a} has {-left} octets too many")
            yield piece

    def _piece(self, name: str, number: int) -> bytes | None:
        with self._pool.connection() as connection:
            found = connection.execute(
                "SELECT octets FROM piece WHERE body = ? AND number = ?", (name, number)
            ).fetchone()
        return None if found is None else bytes(found[0])

    def remove(self, names: Collection[str]) -> None:
        """See :meth:`.incoming.Bodies.remove`. Nothing is left to do."""

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.close()
