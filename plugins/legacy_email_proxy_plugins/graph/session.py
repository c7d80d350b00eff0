"""One open maildrop: RETR, TOP, and what QUIT deletes."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing

import anyio

from legacy_email_proxy.contracts import Entry, Failure, MessageGone, MessageUnavailable

from ..threads import Threads
from .client import Graph
from .deletion import DELETIONS
from .download import Download
from .files import Kept
from .index import Index

__all__ = ("GraphSession",)

_KEPT_OCTETS = 32 * 1024 * 1024
_KEPT_MESSAGES = 20
"""How much of what was read is kept for RETR after TOP, in a session."""
_NOTED = 20
"""After so many deletions they are noted, so that a break does not make all of them be asked for again."""


class GraphSession:
    """See :class:`~legacy_email_proxy.contracts.MaildropSession`."""

    def __init__(
        self,
        graph: Graph,
        index: Index,
        threads: Threads,
        entries: Sequence[Entry],
        kept: Callable[[], Kept],
        logger: logging.Logger,
    ) -> None:
        self._graph = graph
        self._index = index
        self._threads = threads
        self._entries = entries
        self._kept = kept
        self._logger = logger
        self._downloads: dict[str, Download] = {}
        self._counted: set[str] = set()
        self._sizes: dict[str, int] = {}
        """The real sizes of messages that were read, for later sessions."""

    @property
    def entries(self) -> Sequence[Entry]:
        """The messages as they were when the maildrop was opened."""
        return self._entries

    async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        """The whole message. What was handed out whole is not kept: asked for again, it may be gone."""
        async with aclosing(self.top(unique_id, 0)) as pieces:
            async for piece in pieces:
                yield piece
        if (download := self._downloads.pop(unique_id, None)) is not None:
            await download.aclose()

    async def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        """The whole message too: the core stops reading when it has enough lines. It is kept for RETR."""
        identifier = await self._identifier(unique_id)
        octets = 0
        try:
            download = await self._download(unique_id, identifier)
            async with aclosing(download.pieces()) as pieces:
                async for piece in pieces:
                    octets += len(piece)
                    yield piece
        except (MessageGone, MessageUnavailable) as failure:
            await self._note(unique_id, identifier, failure)
            raise
        self._sizes[identifier] = octets

    async def commit(self, deleted: Collection[str]) -> None:
        """Do with these messages what ``GRAPH_DELETE`` says."""
        options = self._graph.options
        if options.read_only:
            raise Failure("the maildrop is set to be read-only, so nothing was deleted", look_at="POP3_READ_ONLY")
        identifiers = await self._threads.run(self._index.identifiers, list(deleted))
        # What the index does not have any more has left the folder, so it is not ours to delete.
        left = list(identifiers.values())
        stays = options.deletion in ("flag", "keep")
        failures: list[Failure] = []
        done: list[str] = []

        async def work() -> None:
            while left and not any(failure.about_us for failure in failures):
                identifier = left.pop()
                try:
                    await DELETIONS[options.deletion](self._graph, identifier)
                except Failure as failure:
                    failures.append(failure)
                else:
                    done.append(identifier)
                    if len(done) >= _NOTED:
                        await self._hide(done, stays=stays)

        try:
            async with anyio.create_task_group() as group:
                for _ in range(options.max_requests):
                    group.start_soon(work)
        finally:
            with anyio.CancelScope(shield=True):
                await self._hide(done, stays=stays)
        if failures:
            raise failures[0]

    async def _hide(self, done: list[str], *, stays: bool) -> None:
        noted, done[:] = list(done), []
        if noted:
            await self._threads.run(lambda: self._index.hide(noted, stays=stays))

    async def aclose(self) -> None:
        """Stop all downloads, and note what was learnt."""
        with anyio.CancelScope(shield=True):
            for download in self._downloads.values():
                await download.aclose()
            if self._sizes:
                try:
                    await self._threads.run(self._remember)
                except Failure as failure:
                    facts = {"cause": str(failure)}
                    self._logger.warning("can not remember that messages came", extra={"facts": facts})

    def _remember(self) -> None:
        self._index.set_octets(self._sizes.items(), exact=True)
        if self._graph.options.hide_after is not None:
            self._index.came(self._sizes)

    async def _identifier(self, unique_id: str) -> str:
        found = await self._threads.run(self._index.identifiers, [unique_id])
        if unique_id not in found:
            raise MessageGone("it left the folder since the session began")
        return found[unique_id]

    async def _download(self, unique_id: str, identifier: str) -> Download:
        known = self._downloads.get(unique_id)
        if known is not None and not known.failed:
            return known
        for other in list(self._downloads):
            octets = sum(each.octets for each in self._downloads.values())
            if other == unique_id or octets > _KEPT_OCTETS or len(self._downloads) >= _KEPT_MESSAGES:
                await self._downloads.pop(other).aclose()
        download = self._downloads[unique_id] = Download(self._graph, identifier, self._kept())
        return download

    async def _note(self, unique_id: str, identifier: str, failure: Failure) -> None:
        if unique_id in self._counted:
            return
        self._counted.add(unique_id)
        facts: dict[str, object] = {"unique_id": unique_id, "cause": str(failure)}
        if self._graph.options.hide_after is not None:
            facts["sessions"] = await self._threads.run(self._index.failed, identifier)
        elif isinstance(failure, MessageGone):
            return
        self._logger.warning("a message can not be had from the server; it is left where it is", extra={"facts": facts})
