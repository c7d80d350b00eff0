"""Bodies in PostgreSQL: rows of 256 KiB in the table ``piece``.

They are no large objects of PostgreSQL: a copy of the tables would not include those.
Each row is committed when it is written, without a sync. So no transaction stays open while a slow device sends. The
commit of the message's record syncs everything that was written before, and checks that all rows are there.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from legacy_email_proxy.contracts import Failure

from ..threads import Threads, given_up
from .postgres_connection import PostgresConnection
from .store import Unreadable

__all__ = ("PostgresBodies",)


class _Body:
    """A body that is being written. One thread at a time works on it, also if nobody waits for that thread."""

    def __init__(self, pool: _ConnectionPool, owner: str) -> None:
        self.name = secrets.token_hex(16)
        self._pool = pool
        self._instance = owner
        self._turn = threading.Lock()
        self._count = 0
        self.discarded = False

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append ``pieces``. They are on disk when the record is, as its commit syncs everything before it."""
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
        """Remove the rows. If a thread is writing them, that thread removes them at its end, and this does not wait.
        Rows that can not be removed now are removed later (``PostgresStore._sweep``).
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
    """Connections for the threads that read and write bodies: at most one for each thread."""

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
    """The table ``piece``. The rows of a body are deleted in the statement that deletes its record."""

    write_octets = 256 * 1024
    """Small, because the driver keeps several copies of a row in memory."""

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
        coming = self._threads.begin(self._piece, name, number)
        try:
            while left > 0:
                piece = await coming
                if piece is None:
                    raise Unreadable(f"its body {name!a} ends {left} octets early")
                left, number = left - len(piece), number + 1
                if left < 0:
                    raise Unreadable(f"its body {name!a} has {-left} octets too many")
                if left:
                    # It comes while the relay sends this one.
                    coming = self._threads.begin(self._piece, name, number)
                yield piece
        finally:
            await given_up(coming)

    def _piece(self, name: str, number: int) -> bytes | None:
        with self._pool.connection() as connection:
            # As octets: in the text format they would come as hexadecimal digits, twice as many.
            found = connection.execute(
                "SELECT octets FROM piece WHERE body = ? AND number = ?", (name, number), binary=True
            ).fetchone()
        return None if found is None else bytes(found[0])

    def remove(self, names: Collection[str]) -> None:
        """See :meth:`.incoming.Bodies.remove`. The rows were deleted together with the record."""

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()
