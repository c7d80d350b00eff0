"""The admin listener: ``/livez``, ``/readyz`` and ``/metrics`` for programs, and the operator's page for people.

Where devices are shown a certificate, addresses that other machines reach speak TLS with it; the loopback speaks plain
HTTP. It runs in the service's own event loop, so it answers only while that does. It is imported only where
``ADMIN_BIND_PORT`` is set, because its libraries take memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .. import log
from ..access import canonical, is_loopback, within
from ..contracts import Login, LoginRefused, LoginsLimited, Secret
from ..reloading import Current
from ..tls import empty_context
from .connections import HTTPServer
from .measuring import Measuring
from .metrics import CONTENT_TYPE, Metrics
from .outcomes import Outcomes
from .page.application import Page
from .page.sources import Sources
from .password import AdminPassword
from .readiness import Readiness

__all__ = ("AdminServer",)

_ASK = {"WWW-Authenticate": 'Basic realm="legacy-email-proxy", charset="UTF-8"'}

_log = logging.getLogger("legacy_email_proxy.admin")


class AdminServer:
    """Serves from :meth:`start` to :meth:`aclose`, also while the service drains: then ``/readyz`` says so."""

    def __init__(
        self,
        current: Current,
        readiness: Readiness,
        outcomes: Outcomes,
        *,
        troubles: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
        advice: Mapping[str, str] | None = None,
        listening: Mapping[str, Sequence[tuple[str, int]]] | None = None,
        reload: Callable[[], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        self._current = current
        self._readiness = readiness
        self._metrics = Metrics(outcomes)
        self._password = AdminPassword(current)
        self._sources = Sources(current, readiness, outcomes, troubles, advice or {}, listening or {}, reload)
        self._page = Page(self._sources, self._password, self._lasts)
        self._measuring = Measuring(lambda: current.composition)
        self._server: HTTPServer | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def app(self) -> Starlette:
        """The ASGI application."""
        paths = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/readyz/service": self._serves,
            "/metrics": self._exposed,
        }
        routes = [*(Route(path, endpoint) for path, endpoint in paths.items()), *self._page.routes]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._page.failed})

    def prepare(self) -> None:
        """What takes time before the first request; in a thread."""
        self._page.prepare()

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Answer on these listening sockets, which are closed at the end."""
        self._metrics.start()
        self._measuring.start()
        context = self._context()
        listeners = [(sock, context if self._speaks_tls(sock) else None) for sock in sockets]
        self._server = HTTPServer(self.app, listeners)
        self._serving = asyncio.create_task(self._serve(self._server, sockets))

    def _speaks_tls(self, sock: socket.socket) -> bool:
        return self._current.composition.tls is not None and not is_loopback(sock.getsockname()[0])

    def _context(self) -> ssl.SSLContext:
        """A context that takes the certificate of the moment for each handshake: a reload may bring a new one."""
        context = empty_context()

        def choose(handshake: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            handshake.context = self._current.tls()

        context.sni_callback = choose
        return context

    async def _serve(self, server: HTTPServer, sockets: Sequence[socket.socket]) -> None:
        try:
            await asyncio.to_thread(self.prepare)
            await server.serve()
        except Exception as error:
            # The mail goes on without it.
            log.failure(_log, "the admin listener has failed", error)
        finally:
            # The server closes only what it has accepted on.
            for sock in sockets:
                sock.close()

    def _lasts(self, request: Request) -> None:
        """The answer to this request may take long."""
        if self._server is not None:
            self._server.lasts(request.scope["client"])

    async def aclose(self) -> None:
        """Close the listener; answers that are under way have a moment."""
        self._page.close()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
        await self._sources.sign_ins.aclose()
        await self._measuring.aclose()
        self._metrics.close()

    # Requests

    async def _livez(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        refusal = await self._refusal(request)
        if refusal is not None and "authorization" in request.headers:
            return refusal
        report = await self._readiness.report()
        status = 200 if report.ready else 503
        if refusal is not None:
            # A load balancer without the password learns this much and no reasons, which name servers and addresses.
            return PlainTextResponse(f"{report.lines()[0]}\n", status)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(report.plain(), status)
        return PlainTextResponse("".join(f"{line}\n" for line in report.lines()), status)

    async def _serves(self, request: Request) -> Response:
        """For a balancer: a backend that is away is the same behind every proxy, and no reason to send nobody."""
        if self._readiness.stopping:
            return PlainTextResponse("stopping\n", 503)
        return PlainTextResponse("ok\n")

    async def _exposed(self, request: Request) -> Response:
        settings = self._current.composition.settings
        client = canonical(_client(request))
        if client is None or not within(client, settings["ADMIN_METRICS_NETWORKS"] or ()):
            refusal = await self._refusal(request)
            if refusal is not None:
                return refusal
        return Response(await self._metrics.exposed(self._current.composition), media_type=CONTENT_TYPE)

    async def _refusal(self, request: Request) -> Response | None:
        """``None`` for a request with the right password, or where none is wanted."""
        if self._password.wanted is None:
            return None
        login = _login(request.headers.get("authorization", ""))
        if login is None:
            return PlainTextResponse("the password is needed\n", 401, _ASK)
        try:
            await self._password.prove(login, _client(request))
        except LoginRefused:
            return PlainTextResponse("wrong password\n", 401, _ASK)
        except LoginsLimited:
            return PlainTextResponse("too many failed logins, try again later\n", 429, {"Retry-After": "60"})
        return None


def _client(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _login(header: str) -> Login | None:
    """User and password of HTTP Basic (RFC 7617); ``None`` where there are none."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(rest.strip(), validate=True).decode("utf-8", "replace").partition(":")
    except (binascii.Error, ValueError):
        return None
    return Login(user, Secret(password)) if colon else None
