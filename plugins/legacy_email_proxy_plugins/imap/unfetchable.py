"""Watches for messages that can not be had: each is named in the log, and one that never comes can be hidden, so that
it does not block a device for ever. None is deleted: the core deletes nothing that the client did not get.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from functools import partial

import anyio.to_thread

from legacy_email_proxy.contracts import Entry, Failure, MessageGone, MessageUnavailable

from .folder_state import Memory, Remembered
from .session import IMAPSession
from .settings import Options
from .substitute import could_be_substitute, is_substitute

__all__ = ("WatchedSession",)


class WatchedSession:
    """See :class:`~legacy_email_proxy.contracts.MaildropSession`; passes everything on to ``session``."""

    def __init__(self, session: IMAPSession, options: Options, memory: Memory, logger: logging.Logger) -> None:
        self._session = session
        self._options = options
        self._memory = memory
        self._logger = logger
        self._counted: set[str] = set()
        self._failed: set[int] | None = None

    @property
    def entries(self) -> Sequence[Entry]:
        """The messages as they were when the maildrop was opened."""
        return self._session.entries

    async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        """The whole message. Raises :class:`MessageUnavailable` also for what the server sent in its place."""
        try:
            # Not a generator of its own: that would cost each small message as much as finding it does.
            octets = await self._session.read_ahead(unique_id)
            if octets is not None:
                if self._is_substitute(unique_id, octets):
                    raise _substituted()
                yield octets
            else:
                async with aclosing(self._session.stream(unique_id)) as pieces:
                    first = True
                    async for piece in pieces:
                        if first and self._is_substitute(unique_id, piece):
                            # A substitute has one piece. Left before its end, it would cost the connection.
                            following = await anext(pieces, None)
                            if following is None:
                                raise _substituted()
                            yield piece
                            yield following
                        else:
                            yield piece
                        first = False
        except (MessageGone, MessageUnavailable) as failure:
            await self._note(unique_id, failure)
            raise
        if self._options.hide_after is not None:
            try:
                await self._note_success(unique_id)
            except Failure as failure:
                # The client has the message. Raised here, this would look to it like a message that broke off.
                self._logger.warning("can not remember that a message came", extra={"facts": {"cause": str(failure)}})

    async def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        """The header and at least the first ``lines`` lines of the body."""
        try:
            async with aclosing(self._session.top(unique_id, lines)) as pieces:
                first = True
                async for piece in pieces:
                    if first and could_be_substitute(piece):
                        break
                    first = False
                    yield piece
                else:
                    return
        except (MessageGone, MessageUnavailable) as failure:
            await self._note(unique_id, failure)
            raise
        # A header alone can't tell. Such a message is small, if it is what it seems to be.
        async with aclosing(self.retrieve(unique_id)) as pieces:
            async for piece in pieces:
                yield piece

    def _is_substitute(self, unique_id: str, first_piece: bytes) -> bool:
        return is_substitute(first_piece, partial(self._listed, unique_id))

    def _listed(self, unique_id: str) -> int:
        return next((entry.octets for entry in self.entries if entry.unique_id == unique_id), 0)

    async def _note(self, unique_id: str, failure: Failure) -> None:
        if unique_id in self._counted:
            return
        facts: dict[str, object] = {"unique_id": unique_id, "cause": str(failure)}
        if self._options.hide_after is not None:
            # "Gone" counts, too: some servers say so of a message that they list again next time.
            uid, uidvalidity = self._session.identity(unique_id)

            def count(remembered: Remembered) -> None:
                remembered.failures[uid] = remembered.failures.get(uid, 0) + 1
                facts["sessions"] = remembered.failures[uid]

            await anyio.to_thread.run_sync(self._memory.change, uidvalidity, count)
        elif isinstance(failure, MessageGone):
            return
        self._counted.add(unique_id)
        self._logger.warning("a message can not be had from the server; it is left where it is", extra={"facts": facts})

    async def _note_success(self, unique_id: str) -> None:
        """Only failures in one session after the other count: one that came in between was no fault of the message."""
        uid, uidvalidity = self._session.identity(unique_id)
        if self._failed is None:
            # Once in a session: for every message of a large folder it would take longer than to read them.
            known = await anyio.to_thread.run_sync(self._memory.recall, uidvalidity)
            self._failed = set(known.failures)
        if uid in self._failed or unique_id in self._counted:
            self._failed.discard(uid)
            self._counted.discard(unique_id)

            def forget(remembered: Remembered) -> None:
                remembered.failures.pop(uid, None)

            await anyio.to_thread.run_sync(self._memory.change, uidvalidity, forget)

    async def commit(self, deleted: Collection[str]) -> None:
        """Delete these messages."""
        if self._options.read_only:
            raise Failure("the maildrop is set to be read-only, so nothing was deleted", look_at="POP3_READ_ONLY")
        await self._session.commit(deleted)


def _substituted() -> MessageUnavailable:
    return MessageUnavailable("the server sent a substitute for the message, saying that it failed")
