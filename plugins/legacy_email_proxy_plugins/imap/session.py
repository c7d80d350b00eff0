"""One open maildrop: a fixed index, and exchanges over whatever connection of the account is free."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial

from legacy_email_proxy.contracts import Disconnected, Entry, MessageGone

from .ahead import ReadAhead
from .connection import Connection
from .index import Index
from .pool import Pool
from .stream import Pipe
from .top import TopCounter

__all__ = ("IMAPSession",)

Remover = Callable[[Connection, int, Collection[int]], None]
"""Deletes the messages with these UIDs from the folder with this UIDVALIDITY, which has just been selected."""

WINDOW_OCTETS = 65_536


class IMAPSession:
    """See :class:`~legacy_email_proxy.contracts.MaildropSession`. It holds no connection between its calls."""

    def __init__(self, pool: Pool, index: Index, remover: Remover, logger: logging.Logger) -> None:
        self._pool = pool
        self._remover = remover
        self._index = index
        self._logger = logger
        self._messages = ReadAhead(pool, index, "BODY.PEEK[]", _same_folder, logger)
        self._headers = ReadAhead(pool, index, "BODY.PEEK[HEADER]", _same_folder, logger)

    @property
    def entries(self) -> Sequence[Entry]:
        """The messages as they were when the maildrop was opened."""
        return self._index

    async def retrieve(self, unique_id: str) -> AsyncIterator[bytes]:
        """The whole message; the last piece comes only after the server's OK."""
        uid = self._uid(unique_id)
        octets = await self._messages.get(uid)
        if octets is not None:
            yield octets
            return
        pipe = Pipe()
        job = partial(_fetch, self._index.uidvalidity, uid, "BODY.PEEK[]", pipe.put)
        # A task of its own, because the exchange goes on while its pieces are taken.
        exchange = asyncio.create_task(self._pool.exchange(job, untouched=lambda: pipe.untouched))
        exchange.add_done_callback(partial(_end, pipe))
        try:
            async for piece in pipe:
                yield piece
        finally:
            # Wherever the reader stopped, the exchange is over or is given up, and the connection with it.
            pipe.close()
            exchange.cancel()

    async def top(self, unique_id: str, lines: int) -> AsyncIterator[bytes]:
        """The header and at least the first ``lines`` lines of the body, read in windows."""
        uid = self._uid(unique_id)
        if lines <= 0:
            octets = await self._headers.get(uid)
            if octets is not None:
                yield octets
                return
            for piece in await self._read(uid, "BODY.PEEK[HEADER]"):
                yield piece
            return
        counter, offset = TopCounter(lines), 0
        while True:
            octets = b"".join(await self._read(uid, f"BODY.PEEK[]<{offset}.{WINDOW_OCTETS}>"))
            if octets:
                yield octets
            offset += len(octets)
            if len(octets) < WINDOW_OCTETS or counter.is_enough(octets):
                return

    async def _read(self, uid: int, item: str) -> list[bytes]:
        def read(connection: Connection) -> list[bytes]:
            pieces: list[bytes] = []
            _fetch(self._index.uidvalidity, uid, item, pieces.append, connection)
            return pieces

        return await self._pool.exchange(read)

    async def commit(self, deleted: Collection[str]) -> None:
        """Remove exactly these messages, as the settings say."""
        uids = [self._uid(unique_id) for unique_id in deleted]
        await self._pool.exchange(partial(_remove, self._remover, self._index.uidvalidity, uids))

    def identity(self, unique_id: str) -> tuple[int, int]:
        """UID and UIDVALIDITY. Raises :class:`MessageGone`."""
        return self._uid(unique_id), self._index.uidvalidity

    def _uid(self, unique_id: str) -> int:
        try:
            return self._index.uid(unique_id)
        except KeyError:
            raise MessageGone(f"this maildrop has no message {unique_id!r}") from None


def _end(pipe: Pipe, exchange: asyncio.Task[None]) -> None:
    if exchange.cancelled():
        pipe.end(Disconnected("the message was given up"))
    else:
        pipe.end(exchange.exception())


def _same_folder(connection: Connection, uidvalidity: int) -> None:
    mailbox = connection.mailbox or connection.select()
    if mailbox.uidvalidity != uidvalidity:
        # The UIDs of the session may be other messages now.
        raise Disconnected(f"the folder's UIDVALIDITY changed from {uidvalidity} to {mailbox.uidvalidity}")


def _fetch(uidvalidity: int, uid: int, item: str, sink: Callable[[bytes], None], connection: Connection) -> None:
    _same_folder(connection, uidvalidity)
    connection.fetch(uid, item, sink)


def _remove(remover: Remover, uidvalidity: int, uids: Collection[int], connection: Connection) -> None:
    # What SELECT said when this connection was last used isn't enough to delete by.
    connection.select()
    _same_folder(connection, uidvalidity)
    remover(connection, uidvalidity, uids)
