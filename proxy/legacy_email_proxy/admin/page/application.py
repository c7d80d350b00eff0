"""The page's routes: each section's, the sign-in, and the files that belong to all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..password import AdminPassword
from . import accounts, devices, messages, overview, settings, signing_in, spool
from .site import Site
from .sources import Sources

__all__ = ("SECTIONS", "Page")

SECTIONS = (overview, devices, messages, spool, accounts, settings)
"""In the order of the navigation."""

_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Page:
    """The operator's page, as routes of the admin listener."""

    def __init__(
        self, sources: Sources, password: AdminPassword, streaming: Callable[[Request], None] = lambda _: None
    ) -> None:
        self._site = Site(sources, password, [section.NAME for section in SECTIONS], streaming)
        self._files = {path.name: path.read_bytes() for path in _STATIC.iterdir() if path.suffix in _TYPES}

    @property
    def routes(self) -> list[Route]:
        """All of them."""
        return [
            self._site.get("/", self._home),
            self._site.get("/static/{name}", self._static, public=True),
            *signing_in.routes(self._site),
            *(route for section in SECTIONS for route in section.routes(self._site)),
        ]

    def prepare(self) -> None:
        """Do what takes time before the first request; in a thread."""
        self._site.templates.prepare()

    def close(self) -> None:
        """End what comes bit by bit."""
        self._site.closing.set()

    async def failed(self, request: Request, error: Exception) -> Response:
        """The answer where no route fits."""
        return await self._site.failed(request, error)

    async def _home(self, request: Request) -> Response:
        return self._site.redirect(request, "overview")

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404)
        return Response(self._files[name], media_type=_TYPES[Path(name).suffix])
