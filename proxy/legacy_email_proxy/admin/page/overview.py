"""The overview: whether all is well, and what to do where it is not."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .site import Site

__all__ = ("NAME", "routes")

NAME = "overview"


def routes(site: Site) -> list[Route]:
    """The page itself."""
    pages = _Overview(site)
    return [site.get("/overview", pages.overview)]


class _Overview:
    def __init__(self, site: Site) -> None:
        self._site = site

    async def overview(self, request: Request) -> Response:
        report = await self._site.sources.readiness.report()
        return self._site.render(request, "overview.html", report=report)
