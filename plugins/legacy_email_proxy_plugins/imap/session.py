"""One open maildrop: RETR, TOP and QUIT, each as an exchange over any free connection of the account.

A message passes from the exchange's worker thread to the event loop through a pipe of limited length. So only a few
pieces of it are in memory, whatever its size.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from functools import partial

from legacy_email_proxy.contracts import (
    Disconnected,
    Entry,
    MessageGone,
    MessageUnavailable,
    Overloaded,
    timed,
    took,
)

from ..places import Holder
from .connection import Connection
from .listing import Index
from .pool import Pool
from .prefetch import ReadAhead
from .responses import TopCounter
from .transport import PIECE_OCTETS

__all__ = ("IMAPSession", "Pipe")

Remover = Callable[[Connection, int, Collection[int]], None]
"""Deletes the messages with these UIDs from the folder with this UIDVALIDITY, which has just been selected."""

WINDOW_OCTETS = 65_536

_PIPE_PIECES = 4
_WHOLE = "BODY.PEEK[]"


class IMAPSession:
    """See :class:`~legacy_email_proxy.contracts.MaildropSession`. Between its calls it has no connection."""

    def __init__(self, pool: Pool, index: Index, remover: Remover, logger: logging.Logger, address: str = "") -> None:
        self._exchange = partial(pool.exchange, address=address)
        self._remover = remover
        self._index = index
        self._messages = ReadAhead(pool, index, _WHOLE, _same_folder, logger, address)
        self._headers = ReadAhead(pool, index, "BODY.PEEK[HEADER]", _same_folder, logger, address)

    @property
    def entries(self) -> Sequence[Entry]:
        """The messages as they were when the maildrop was opened."""
        return self._index

    def at_hand(self, unique_id: str, lines: int | None, is_odd: Callable[[bytes], bool]) -> bytes | None:
        """The whole message, or its header for no ``lines``, if the session goes on to it, and it was prefetched and
        is not odd.
        """
        if lines is None:
            return self._messages.at_hand(unique_id, is_odd)
        return self._headers.at_hand(unique_id, is_odd) if lines == 0 else None

    async def read_ahead(self, unique_id: str) -> bytes | None:
        """The whole message if it was prefetched or can be fetched with others; else ``None``."""
        return await self._messages.get(self._uid(unique_id))

    async def stream(self, unique_id: str, item: str = _WHOLE) -> AsyncGenerator[bytes, None]:
        """The whole message, or its header; the last piece comes only after the server's OK."""
        uid = self._uid(unique_id)
        listed = self._index.sizes[uid]
        pipe = Pipe()
        job = partial(_fetch, self._index.uidvalidity, uid, listed, item, pipe.put)
        # In a task, because the exchange goes on while the pieces are taken.
        exchange = asyncio.create_task(
            self._exchange(
                job,
                untouched=lambda: pipe.untouched,
                # What fits into the pipe needs the connection no longer than the server does. 0: the size is unknown.
                reader=pipe if item == _WHOLE and not 0 < listed <= _PIPE_PIECES * PIECE_OCTETS else None,
            )
        )
        exchange.add_done_callback(partial(_end, pipe))
        began: float | None = time.perf_counter()
        try:
            async for piece in pipe:
                if began is not None:
                    # The rest comes as fast as the client reads.
                    took("pop3", "fetch", time.perf_counter() - began)
                    began = None
                yield piece
            if pipe.untouched and listed:
                raise _empty(uid, listed)
        finally:
            # If the reader stopped before the end, the exchange is cancelled, which closes its connection.
            pipe.close()
            exchange.cancel()

    async def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        """The header and at least the first ``lines`` lines of the body, read in windows."""
        uid = self._uid(unique_id)
        if lines <= 0:
            header = await self._headers.get(uid)
            if header is not None:
                yield header
                return
            last, length = b"", 0
            async with aclosing(self.stream(unique_id, self._headers.item)) as pieces:
                async for piece in pieces:
                    length += len(piece)
                    if last:
                        yield last
                    last = piece
            # The last piece has the blank line, at which the caller stops reading. It is handed on only after the
            # exchange has ended: otherwise each header would cost a connection and a new login.
            self._headers.saw_header(length)
            if last:
                yield last
            return
        counter, offset, listed = TopCounter(lines), 0, self._index.sizes[uid]
        octets = b""
        while True:
            # The size in the listing may be too large. Then the last answer was shorter than what was asked for.
            may_be_over = offset > 0 and (len(octets) < WINDOW_OCTETS or 0 < listed <= offset)
            try:
                octets = await self._read(uid, f"BODY.PEEK[]<{offset}.{WINDOW_OCTETS}>")
            except MessageUnavailable:
                if may_be_over:
                    return  # Some servers answer NIL for a part behind the end of the message.
                raise
            if len(octets) > WINDOW_OCTETS:
                # Exchange sends some messages whole although only a part was asked for.
                if offset:
                    raise Disconnected("the server sent more than the part that was asked for")
                if counter.is_enough(octets):
                    yield octets
                    return
                break
            if octets:
                yield octets
            elif listed and not offset:
                raise _empty(uid, listed)
            offset += len(octets)
            # A server may send less than was asked for. That is the end of the message only if nothing came, or if all
            # of the listed size has come.
            if not octets or (len(octets) < WINDOW_OCTETS and offset >= listed) or counter.is_enough(octets):
                return
        counter = TopCounter(lines)
        async with aclosing(self.stream(unique_id)) as pieces:
            async for piece in pieces:
                yield piece
                if counter.is_enough(piece):
                    return

    async def _read(self, uid: int, item: str) -> bytes:
        """One part of a message, in memory. If the server sends more than was asked for, only its beginning."""

        def read(connection: Connection) -> bytes:
            held = bytearray()

            def hold(piece: bytes) -> None:
                if len(held) <= WINDOW_OCTETS:
                    held.extend(piece)

            _fetch(self._index.uidvalidity, uid, self._index.sizes[uid], item, hold, connection)
            return bytes(held)

        return await self._exchange(read)

    async def commit(self, deleted: Collection[str]) -> None:
        """Delete exactly these messages, in the way that the settings say."""
        uids = [self._uid(unique_id) for unique_id in deleted]
        with timed("pop3", "delete"):
            await self._exchange(partial(_remove, self._remover, self._index.uidvalidity, uids))

    def identity(self, unique_id: str) -> tuple[int, int]:
        """UID and UIDVALIDITY. Raises :class:`MessageGone`."""
        return self._uid(unique_id), self._index.uidvalidity

    def _uid(self, unique_id: str) -> int:
        try:
            return self._index.uid(unique_id)
        except KeyError:
            raise MessageGone(f"this maildrop has no message {unique_id!r}") from None


def _empty(uid: int, listed: int) -> MessageUnavailable:
    # The client would take nothing for the whole message, and delete the real one.
    return MessageUnavailable(f"the server sent nothing for UID {uid}, which has {listed} octets in its listing")


def _end(pipe: Pipe, exchange: asyncio.Task[None]) -> None:
    if exchange.cancelled():
        pipe.end(Disconnected("the message was given up"))
    else:
        pipe.end(exchange.exception())


def _same_folder(connection: Connection, uidvalidity: int) -> None:
    mailbox = connection.mailbox or connection.select()
    if mailbox.uidvalidity != uidvalidity:
        # The UIDs of the session may name other messages now.
        raise Disconnected(f"the folder's UIDVALIDITY changed from {uidvalidity} to {mailbox.uidvalidity}")


def _fetch(
    uidvalidity: int, uid: int, listed: int, item: str, sink: Callable[[bytes], None], connection: Connection
) -> None:
    kept = connection.mailbox is not None
    _same_folder(connection, uidvalidity)
    try:
        connection.fetch(uid, item, sink, listed)
    except MessageGone:
        if not kept:
            raise
        # A kept connection may not know yet of a message that is newer than its SELECT. A new SELECT shows it.
        connection.select()
        _same_folder(connection, uidvalidity)
        connection.fetch(uid, item, sink, listed)


def _remove(remover: Remover, uidvalidity: int, uids: Collection[int], connection: Connection) -> None:
    # A new SELECT: since the last use of this connection the folder may have got another UIDVALIDITY.
    connection.select()
    _same_folder(connection, uidvalidity)
    remover(connection, uidvalidity, uids)


class Pipe(Holder):
    """Passes pieces of a message from a worker thread, which calls :meth:`put`, to one task, which iterates.

    It must be made in the event loop. After :meth:`end` the iteration gives the pieces that were put before, and then
    ends or raises the failure.

    It is also the :class:`~..places.Holder` of the place at the server. We wait for the client while the pipe is full.
    """

    # A client that is slower would keep its place for an hour with a message of 60 MB.
    fair_octets_per_second = 16_384

    def __init__(self, depth: int = _PIPE_PIECES) -> None:
        super().__init__()
        self._depth = depth
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._closed = False
        self._failure: BaseException | None = None
        self.untouched = True
        """Whether nothing has been put yet: then another connection may still be tried."""

    def put(self, piece: bytes) -> None:
        """Add a piece; waits while the pipe is full. Raises :class:`Disconnected` after :meth:`close`."""
        with self._changed:
            while len(self._pieces) >= self._depth and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Disconnected("the reader of this message has gone")
            self._pieces.append(piece)
            if len(self._pieces) >= self._depth:
                self.wait_for_client()
            self.untouched = False
        self._loop.call_soon_threadsafe(self._arrived.set)

    def end(self, failure: BaseException | None = None) -> None:
        """No more pieces will come. To be called in the event loop; only the first call counts."""
        if self._ended:
            return
        self._ended = True
        self._failure = failure
        self._arrived.set()

    def close(self) -> None:
        """No more pieces will be taken. A thread that waits in :meth:`put` gets an exception. For any thread."""
        with self._changed:
            self._closed = True
            self._pieces.clear()
            self.client_went_on()
            self._changed.notify_all()

    def give_up(self, reason: str) -> None:
        """End the exchange, so that another client gets its place. The iteration raises :class:`Overloaded`: the client
        must not take this for the end of its message.
        """
        self.end(Overloaded(reason, look_at="BACKEND_IMAP_MAX_CONNECTIONS"))
        self.close()

    def __aiter__(self) -> Pipe:
        return self

    async def __anext__(self) -> bytes:
        while True:
            with self._changed:
                if self._pieces:
                    piece = self._pieces.popleft()
                    self.octets += len(piece)
                    self.client_went_on()
                    self._changed.notify_all()
                    return piece
                self._arrived.clear()
            if self._ended:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            await self._arrived.wait()
