"""Watches for messages that can not be had: each is named in the log, none is deleted, and one that never comes can be
hidden, so that it does not block a device for ever.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from functools import partial

import anyio.to_thread

from legacy_email_proxy.contracts import Entry, Failure, MessageUnavailable

from .memory import Memory, Remembered
from .options import Options
from .session import IMAPSession
from .substitute import has_the_subject, is_substitute

__all__ = ("WatchedSession",)


class WatchedSession:
    """See :class:`~legacy_email_proxy.contracts.MaildropSession`; passes everything on to ``session``."""

    def __init__(self, session: IMAPSession, options: Options, memory: Memory, logger: logging.Logger) -> None:
        self._session = session
        self._options = options
        self._memory = memory
        self._logger = logger
        self._counted: set[str] = set()
        self._missing: set[str] = set()

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
                self._refuse_substitute(unique_id, octets)
                yield octets
            else:
                async with aclosing(self._session.stream(unique_id)) as pieces:
                    first = True
                    async for piece in pieces:
                        if first:
                            self._refuse_substitute(unique_id, piece)
                        first = False
                        yield piece
        except MessageUnavailable as failure:
            await self._note(unique_id, failure)
            raise
        self._missing.discard(unique_id)

    async def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        """The header and at least the first ``lines`` lines of the body."""
        try:
            async with aclosing(self._session.top(unique_id, lines)) as pieces:
                first = True
                async for piece in pieces:
                    if first and has_the_subject(piece):
                        # A header alone can't tell. Such a message is small, if it is what it seems to be.
                        async with aclosing(self.retrieve(unique_id)) as whole:
                            await anext(whole, b"")
                    first = False
                    yield piece
        except MessageUnavailable as failure:
            await self._note(unique_id, failure)
            raise

    def _refuse_substitute(self, unique_id: str, first_piece: bytes) -> None:
        if is_substitute(first_piece, partial(self._listed, unique_id)):
            raise MessageUnavailable("the server sent a substitute for the message, saying that it failed")

    def _listed(self, unique_id: str) -> int:
        return next((entry.octets for entry in self.entries if entry.unique_id == unique_id), 0)

    async def _note(self, unique_id: str, failure: MessageUnavailable) -> None:
        self._missing.add(unique_id)
        if unique_id in self._counted:
            return
        self._counted.add(unique_id)
        facts: dict[str, object] = {"unique_id": unique_id, "cause": str(failure)}
        if self._options.hide_after is not None:
            uid, uidvalidity = self._session.identity(unique_id)

            def count(remembered: Remembered) -> None:
                remembered.failures[uid] = remembered.failures.get(uid, 0) + 1
                facts["sessions"] = remembered.failures[uid]

            await anyio.to_thread.run_sync(self._memory.change, uidvalidity, count)
        self._logger.warning("a message can not be had from the server; it is left where it is", extra={"facts": facts})

    async def commit(self, deleted: Collection[str]) -> None:
        """Delete these messages, apart from any that the client asked for in this session and did not get."""
        if self._options.read_only:
            raise Failure("the maildrop is set to be read-only, so nothing was deleted", look_at="POP3_READ_ONLY")
        had = [unique_id for unique_id in deleted if unique_id not in self._missing]
        if had:
            await self._session.commit(had)
        if len(had) < len(deleted):
            # Some devices delete without looking at how RETR ended. This would be the only copy.
            raise Failure(f"{len(deleted) - len(had)} messages were not deleted, because the client could not get them")
