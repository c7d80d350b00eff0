"""The devices: each with its last success and trouble, what to set on it, and its dialogue while it happens."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...access import canonical
from ...history.families import family_of
from ...history.queries import Entry, Filter, device, latest_devices, search
from .entries import shown
from .recipes import MAKERS, recipe
from .site import Site, query_of, visitor_of
from .sources import NoHistory
from .watching import Watching

__all__ = ("NAME", "routes")

NAME = "devices"

PAGE = 50
_LAST = 10


def routes(site: Site) -> list[Route]:
    """The list, one device, and its dialogue."""
    pages = _Devices(site)
    return [
        site.get("/devices", pages.all),
        site.get("/devices/{address}", pages.one),
        site.get("/devices/{address}/trace", pages.trace),
        site.get("/devices/{address}/trace/events", pages.events),
        site.get("/devices/{address}/trace/lines", pages.lines),
    ]


class _Devices:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._watching = Watching()

    async def all(self, request: Request) -> Response:
        query = query_of(request)
        if query.get("address"):
            found = canonical(query.get("address"))
            if found is not None:
                return self._site.redirect(request, f"devices/{found}")
        number = max(1, query.whole("page") or 1)
        rows: list[dict[str, Any]] = []
        history = ""
        try:
            rows = await self._site.sources.history(
                lambda connection: latest_devices(connection, PAGE + 1, (number - 1) * PAGE)
            )
        except NoHistory as missing:
            history = missing.why
        return self._site.render(
            request,
            "devices.html",
            devices=[{**row, "probably": family_of(row.get("helo", ""))} for row in rows[:PAGE]],
            history=history,
            number=number,
            more=len(rows) > PAGE,
            wrong=query.get("address"),
        )

    async def one(self, request: Request) -> Response:
        address, sources = _address(request), self._site.sources
        row: dict[str, Any] | None = None
        last: list[Entry] = []
        history = ""
        try:
            row, last = await sources.history(
                lambda connection: (
                    device(connection, address),
                    search(connection, Filter(client=address), limit=_LAST),
                )
            )
        except NoHistory as missing:
            history = missing.why
        probably = family_of(row.get("helo", "")) if row else ""
        wanted = query_of(request).get("maker")
        maker = wanted if wanted in MAKERS or wanted == "other" else probably or "other"
        return self._site.render(
            request,
            "device.html",
            address=address,
            device=row,
            probably=probably,
            entries=[shown(entry) for entry in last],
            history=history,
            makers=MAKERS,
            recipe=recipe(address, maker, sources.settings, sources.listening, tls=sources.composition.tls is not None),
        )

    async def trace(self, request: Request) -> Response:
        return self._site.render(request, "trace.html", address=_address(request), full=self._watching.full)

    async def events(self, request: Request) -> Response:
        pieces = self._watching.events(_address(request), visitor_of(request).by)
        return self._stream(request, pieces, "text/event-stream")

    async def lines(self, request: Request) -> Response:
        pieces = self._watching.plain(_address(request), visitor_of(request).by)
        return self._stream(request, pieces, "text/plain")

    def _stream(self, request: Request, pieces: Any, media_type: str) -> Response:
        if self._watching.full:
            return self._site.render(request, "trace.html", 503, address=_address(request), full=True)
        return self._site.stream(request, pieces, media_type)


def _address(request: Request) -> str:
    found = canonical(request.path_params["address"])
    if found is None:
        raise HTTPException(404)
    return str(found)
