"""Keeps the index of a folder up to date: all pages once, and from then on only what has changed (delta queries)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from legacy_email_proxy.contracts import Disconnected, Unusable

from ..threads import Threads
from .client import IMMUTABLE, Graph, quoted
from .deletion import CATEGORY
from .index import Index, Listed, Round
from .verdicts import GraphRefusal

__all__ = ("Listing",)

WELL_KNOWN = frozenset(
    (
        *("archive", "clutter", "conversationhistory", "deleteditems", "drafts", "inbox", "junkemail", "msgfolderroot"),
        *("outbox", "recoverableitemsdeletions", "scheduled", "searchfolders", "sentitems", "serverfailures"),
        "syncissues",
    )
)
"""Names that stand for a folder in any language (resources/mailFolder)."""
PAGE = 500
"""Messages of a page. A thousand is allowed, and reported to end in 504."""
_EACH = 50
"""So many sizes are asked for one by one; with more, by pages."""
_STALE = frozenset({"SyncStateNotFound", "SyncStateInvalid", "resyncRequired", "ErrorInvalidSyncStateData"})
_WITHOUT_DELTA_SECONDS = 3600.0
_SIZE = quote("singleValueExtendedProperties($filter=id eq 'Integer 0x0E08')", safe="()$=")
"""PidTagMessageSize. It is about the size of the MIME, which Graph makes only when it is asked for."""


class Listing:
    """Of one folder. Sessions that come together share one round of requests."""

    def __init__(self, graph: Graph, index: Index, threads: Threads, logger: logging.Logger) -> None:
        self._graph = graph
        self._index = index
        self._threads = threads
        self._logger = logger
        self._folder = ""
        self._task: asyncio.Task[None] | None = None
        self._began = 0.0
        self._delta_again = 0.0
        self._told: set[str] = set()
        self._expand = f"&$expand={_SIZE}"
        self._sizeless: set[str] = set()
        """Messages of which Graph has no size; it is not asked for again."""

    async def refreshed(self) -> None:
        """Return when the index has all that was in the folder when this was called.

        The round goes on when the caller is cancelled: the first one of a large folder takes longer than some clients
        wait, and the next session goes on from there.
        """
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        while True:
            if self._task is None or self._task.done():
                self._task, self._began = loop.create_task(self._refresh()), loop.time()
                self._task.add_done_callback(_look)
            task, began = self._task, self._began
            await asyncio.wait({task})
            if began >= arrived:
                return task.result()

    async def aclose(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def folder(self) -> str:
        """The folder's id, or its well-known name. Raises :class:`Unusable` if there is none of that name."""
        if not self._folder:
            self._folder = await self._found(self._graph.options.folder)
        return self._folder

    async def _found(self, name: str) -> str:
        if name.lower() in WELL_KNOWN:
            return name.lower()
        place = "/mailFolders"
        identifier = ""
        for each in filter(None, name.split("/")):
            wanted = quote("displayName eq '" + each.replace("'", "''") + "'", safe="")
            found = (await self._graph.ask("the folder", "GET", f"{place}?$filter={wanted}")).get("value") or ()
            if not found and not identifier and each.lower() in WELL_KNOWN:
                identifier = each.lower()
            elif not found:
                raise Unusable(f"there is no folder {each!r} in the mailbox", look_at="GRAPH_FOLDER")
            else:
                identifier = str(found[0]["id"])
            place = f"/mailFolders/{quoted(identifier)}/childFolders"
        return identifier

    async def _refresh(self) -> None:
        now = await self._threads.run(self._index.round)
        folder = await self.folder()
        try:
            if asyncio.get_running_loop().time() < self._delta_again:
                await self._by_pages(folder, now)
            else:
                await self._by_delta(folder, now)
        except GraphRefusal as refusal:
            if refusal.status == 404:
                self._folder = ""  # It may have another id now.
            if refusal.status == 410 or refusal.code in _STALE:
                self._logger.info("folder listed anew", extra={"facts": {"cause": str(refusal)}})
                await self._by_delta(folder, Round(now.number))
            elif refusal.status == 500:
                # One message that Exchange can not show spoils its whole page (graph-docs-contrib, issue 7758).
                self._delta_again = asyncio.get_running_loop().time() + _WITHOUT_DELTA_SECONDS
                await self._by_pages(folder, await self._threads.run(self._index.round))
            else:
                raise
        await self._sizes(folder)

    async def _by_delta(self, folder: str, now: Round) -> None:
        whole = not now.link or not now.complete
        if not now.link:
            now = Round(now.number + 1)
        select = "receivedDateTime,categories" if self._graph.options.deletion == "flag" else "receivedDateTime"
        path = f"/mailFolders/{quoted(folder)}/messages/delta?$select={select}"
        prefer = f"{IMMUTABLE}, odata.maxpagesize={PAGE}"
        link = now.link
        while True:
            try:
                page = await self._graph.ask("what has changed", "GET", link or path + self._expand, prefer=prefer)
            except GraphRefusal as refusal:
                if link or refusal.status != 400 or not self._expand:
                    raise
                # The documentation allows $expand here; if it is not taken, sizes are asked for separately.
                self._expand = ""
                continue
            messages = self._messages(page)
            following = page.get("@odata.nextLink")
            if not following and not page.get("@odata.deltaLink"):
                raise self._no_list()
            link = str(following or page.get("@odata.deltaLink") or "")
            # A list of changes that breaks off begins again from its beginning, which does no harm.
            complete = not following
            after = Round(now.number, link, complete) if whole or complete else now
            here = [each for each in messages if "@removed" not in each]
            gone = [str(each["id"]) for each in messages if "@removed" in each]
            if here or gone or after != now:
                await self._note(here, gone, after, whole=whole and complete)
            if complete:
                return

    async def _note(self, here: Sequence[Mapping[str, Any]], gone: Sequence[str], now: Round, *, whole: bool) -> None:
        marked = [str(each["id"]) for each in here if CATEGORY in (each.get("categories") or ())]
        await self._threads.run(self._apply, [_listed(each) for each in here], gone, marked, now, whole)

    def _apply(
        self, here: Sequence[Listed], gone: Sequence[str], marked: Sequence[str], now: Round, whole: bool
    ) -> None:
        self._index.apply(here, gone, now, whole=whole)
        if marked:
            self._index.hide(marked, stays=True)

    async def _by_pages(self, folder: str, now: Round) -> None:
        """All messages but those that Exchange can not show."""
        number = now.number + 1
        shown = await self._graph.ask("the folder", "GET", f"/mailFolders/{quoted(folder)}")
        total = shown.get("totalItemCount")
        if not isinstance(total, int):
            raise self._no_list()
        place = 0
        while place < total:
            here = await self._page(folder, place, PAGE)
            place += PAGE
            await self._note(here, (), Round(number), whole=place >= total)
        if not total:
            await self._note((), (), Round(number), whole=True)

    async def _page(self, folder: str, skip: int, top: int) -> list[Mapping[str, Any]]:
        query = f"$select=receivedDateTime,categories&$expand={_SIZE}&$orderby=receivedDateTime&$top={top}&$skip={skip}"
        try:
            page = await self._graph.ask("a page", "GET", f"/mailFolders/{quoted(folder)}/messages?{query}")
        except GraphRefusal as refusal:
            if refusal.status != 500:
                raise
            if top == 1:
                self._tell(f"{skip}", refusal)
                return []
            half = top // 2
            return await self._page(folder, skip, half) + await self._page(folder, skip + half, top - half)
        return self._messages(page)

    def _messages(self, page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        found = page.get("value")
        if not isinstance(found, list) or not all(isinstance(each, dict) and "id" in each for each in found):
            raise self._no_list()
        return found

    def _no_list(self) -> Disconnected:
        # What a list does not have is taken for gone, so it must not be one by chance.
        return Disconnected(f"{self._graph.options.host} does not answer with a list of messages")

    def _tell(self, place: str, refusal: GraphRefusal) -> None:
        if place not in self._told:
            self._told.add(place)
            facts = {"number": place, "cause": str(refusal)}
            self._logger.warning("message left out of the listing", extra={"facts": facts})

    async def _sizes(self, folder: str) -> None:
        """Ask for sizes that did not come with the listing."""
        missing = set(await self._threads.run(self._index.without_octets)) - self._sizeless
        if not missing:
            return
        found: list[tuple[str, int]] = []
        if len(missing) > _EACH:
            link = f"/mailFolders/{quoted(folder)}/messages?$select=id&$expand={_SIZE}&$top={PAGE}"
            while link:
                try:
                    page = await self._graph.ask("sizes", "GET", link)
                except GraphRefusal:
                    break
                listed = map(_listed, self._messages(page))
                found += [(each.identifier, each.octets) for each in listed if each.octets is not None]
                link = str(page.get("@odata.nextLink") or "")
        else:
            for identifier in missing:
                try:
                    shown = await self._graph.ask(
                        "a size", "GET", f"/messages/{quoted(identifier)}?$select=id&$expand={_SIZE}"
                    )
                except GraphRefusal:
                    continue
                if (octets := _octets(shown)) is not None:
                    found.append((identifier, octets))
        if found:
            await self._threads.run(lambda: self._index.set_octets(found, exact=False))
        if left := missing - {identifier for identifier, _ in found}:
            self._sizeless |= left
            self._logger.info("sizes not known", extra={"facts": {"messages": len(left)}})


def _look(task: asyncio.Task[None]) -> None:
    # So that a failure that nobody waits for any more is no "exception was never retrieved".
    if not task.cancelled():
        task.exception()


def _listed(shown: Mapping[str, Any]) -> Listed:
    return Listed(str(shown["id"]), str(shown.get("receivedDateTime") or ""), _octets(shown))


def _octets(shown: Mapping[str, Any]) -> int | None:
    for each in shown.get("singleValueExtendedProperties") or ():
        text = str(each.get("value"))
        if text.isdecimal():
            return int(text)
    return None
