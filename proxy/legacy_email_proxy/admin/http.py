"""The admin listener: ``/livez``, ``/readyz`` and ``/metrics`` over HTTP, for load balancers and for Prometheus.

It runs in the service's own event loop, so it answers only while that does. It is imported only where
``ADMIN_BIND_PORT`` is set, because its libraries take memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from .. import log
from ..access import canonical, within
from ..contracts import Login, LoginRefused, LoginsLimited, Secret
from ..guessing import LoginLimit
from ..reloading import Current
from .metrics import CONTENT_TYPE, Metrics
from .outcomes import Outcomes
from .readiness import Readiness

__all__ = ("MOST_CONNECTIONS", "AdminServer")

MOST_CONNECTIONS = 32
REQUEST_SECONDS = 30.0
"""A connection without a request, or with half of one, is closed after this time."""
_ANSWER_SECONDS = 60.0
"""A client that has not read its answer by then is cut off."""
_KEEP_ALIVE_SECONDS = 5
_REQUEST_OCTETS = 16_384
_LEAVING_SECONDS = 2

_ASK = {"WWW-Authenticate": 'Basic realm="legacy-email-proxy", charset="UTF-8"'}

_log = logging.getLogger("legacy_email_proxy.admin")


class AdminServer:
    """Serves from :meth:`start` to :meth:`aclose`, also while the service drains: then ``/readyz`` says so."""

    def __init__(self, current: Current, readiness: Readiness, outcomes: Outcomes) -> None:
        self._current = current
        self._readiness = readiness
        self._metrics = Metrics(outcomes)
        # Of its own, so that wrong passwords here never slow down a device's login.
        self._logins = LoginLimit()
        self._server = _Server(_config(self.app))
        self._task: asyncio.Task[None] | None = None

    @property
    def app(self) -> Starlette:
        """The ASGI application."""
        paths = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._exposed}
        return Starlette(routes=[Route(path, endpoint) for path, endpoint in paths.items()])

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Answer on these listening sockets, which are closed at the end."""
        self._metrics.start()
        self._task = asyncio.create_task(self._serve(list(sockets)))

    async def _serve(self, sockets: list[socket.socket]) -> None:
        try:
            await self._server.serve(sockets)
        except Exception as error:
            # The mail goes on without it.
            log.failure(_log, "the admin listener has failed", error)
        finally:
            # uvicorn 0.40, told to end before it has begun, leaves its listeners open.
            for opened in (*getattr(self._server, "servers", ()), *sockets):
                opened.close()

    async def aclose(self) -> None:
        """Close the listener; answers that are under way have a moment."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
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
        wanted: Secret | None = self._current.composition.settings["ADMIN_PASSWORD"]
        if not wanted:
            return None
        login = _login(request.headers.get("authorization", ""))
        if login is None:
            return PlainTextResponse("the password is needed\n", 401, _ASK)
        try:
            async with self._logins.attempt("admin", _client(request), login):
                if not hmac.compare_digest(login.password.fingerprint(), wanted.fingerprint()):
                    raise LoginRefused("wrong password", look_at="ADMIN_PASSWORD")
        except LoginRefused as refused:
            log.event(_log, logging.INFO, "admin login failed", client=_client(request), cause=str(refused))
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


# The HTTP server


class _Protocol(H11Protocol):
    """One connection. uvicorn itself would let any number of clients wait for ever with half a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._timers = (
            self.loop.call_later(REQUEST_SECONDS, self._finish),
            self.loop.call_later(_ANSWER_SECONDS, transport.abort),
        )

    def _finish(self) -> None:
        if not self.transport.is_closing():
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the service."""
        yield


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        # What a client does wrong is no line of our log.
        log_level="error",
        access_log=False,
        # Otherwise a header could name another address than the client's own.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LEAVING_SECONDS,
        h11_max_incomplete_event_size=_REQUEST_OCTETS,
    )
