"""Shows a folder of a Microsoft 365 mailbox to POP3: the maildrop of ``MAILDROP_PLUGIN=graph``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from legacy_email_proxy.contracts import Client, Context, Finding, Login

from ..threads import Threads
from .client import Graph
from .files import Kept
from .index import Index
from .listing import Listing
from .probe import probe_maildrop
from .session import GraphSession
from .settings import configured

__all__ = ("GraphMaildrop",)


class GraphMaildrop:
    """See :class:`~legacy_email_proxy.contracts.Maildrop`. The mailbox is the same for every client."""

    def __init__(self, context: Context) -> None:
        own_login = ""
        if context.settings["POP3_LOGIN"] == "backend":
            own_login = "POP3_LOGIN: Microsoft Graph knows no logins to ask; write any, or another MAILDROP_PLUGIN"
        self.options = configured(context, own_login)
        self._logger = context.logger
        self._context = context
        self._threads = Threads("STATE_DIR")
        self.graph = Graph(self.options)
        identity = (self.options.url, self.options.mailbox.lower(), self.options.folder)
        self._index = Index(lambda: context.state_dir, *identity)
        self._listing = Listing(self.graph, self._index, self._threads, self._logger)

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[GraphSession]:
        """See :meth:`~legacy_email_proxy.contracts.Maildrop.open`. No lock is taken: sessions may overlap."""
        await self._listing.refreshed()
        options = self.options
        since = "" if options.newest is None else f"{datetime.now(UTC) - options.newest:%Y-%m-%dT%H:%M:%SZ}"
        entries = await self._threads.run(
            lambda: self._index.entries(
                staying=options.deletion in ("flag", "keep"),
                since=since,
                newest=options.newest_messages,
                hide_after=options.hide_after,
            )
        )
        session = GraphSession(self.graph, self._index, self._threads, entries, self._kept, self._logger)
        try:
            yield session
        finally:
            await session.aclose()

    def _kept(self) -> Kept:
        return Kept(self._threads, lambda: self._context.state_dir)

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`~legacy_email_proxy.contracts.Maildrop.probe`."""
        return await probe_maildrop(self.graph, self._listing)

    async def aclose(self) -> None:
        """See :meth:`~legacy_email_proxy.contracts.Maildrop.aclose`."""
        await self._listing.aclose()
        await self.graph.aclose()
        self._threads.close()
