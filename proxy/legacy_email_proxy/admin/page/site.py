"""What all pages share: who may see them, what a browser may do with them, and what stands there if one fails.

Without a password whoever reaches the listener may use the page, which is then bound to the loopback. A web page of
somebody else can make the operator's browser send requests there, under a name of its own that leads to 127.0.0.1. So
the name in ``Host`` must be one of this machine, and what changes something needs a token which no other page can read.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from ... import log
from ...access import is_loopback
from ..password import AdminPassword
from .forms import Form, TooLarge, parsed, read_form
from .rendering import Templates
from .sources import NoHistory, Sources
from .texts import text
from .visitors import Sessions, Visitor, new_identifier, valid

__all__ = ("Endpoint", "FormEndpoint", "Site", "query_of", "visitor_of")

Endpoint = Callable[[Request], Awaitable[Response]]
FormEndpoint = Callable[[Request, Form], Awaitable[Response]]

LOCAL_USER = "local"
"""Whoever uses the page where no password is wanted."""

PROTECTION = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer of the page."""

_ERRORS = (400, 403, 404, 405, 413)
"""Statuses that have words of their own in the texts; the others have those of 500."""

_log = logging.getLogger("legacy_email_proxy.admin")


class Site:
    """``sections`` are the names of the pages in the navigation. ``streaming`` is called with each request whose answer
    may take longer than the listener lets others take.
    """

    def __init__(
        self,
        sources: Sources,
        password: AdminPassword,
        sections: Sequence[str],
        streaming: Callable[[Request], None] = lambda _: None,
    ) -> None:
        self.sources = sources
        self.password = password
        self.sessions = Sessions()
        self.templates = Templates()
        self._sections = sections
        self._streaming = streaming
        self.closing = asyncio.Event()
        """Answers that come bit by bit end now."""

    # Routes

    def get(self, path: str, endpoint: Endpoint, *, public: bool = False) -> Route:
        """A page that only shows something. ``public``: also to those who have not signed in."""

        async def shown(request: Request) -> Response:
            return await self._answer(request, endpoint, public=public)

        return Route(path, shown, methods=["GET"])

    def post(self, path: str, endpoint: FormEndpoint, *, public: bool = False) -> Route:
        """What changes something."""

        async def sent(request: Request) -> Response:
            form = await read_form(request)
            if not _is_token(form.exact("csrf"), visitor_of(request).csrf) or _is_foreign(request):
                raise HTTPException(403)
            return await endpoint(request, form)

        async def changed(request: Request) -> Response:
            return await self._answer(request, sent, public=public)

        return Route(path, changed, methods=["POST"])

    # Answers

    def render(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """The page made of this template. All templates know ``root``, ``section``, ``csrf``, ``visitor``, ``done``."""
        visitor = visitor_of(request)
        common = {
            "root": _root(request),
            "sections": self._sections if visitor.signed_in else (),
            "section": request.scope["path"].split("/")[1],
            "visitor": visitor,
            "signs_in": self.password.wanted is not None,
            "csrf": self._token(request),
            "done": _done(request),
        }
        response = HTMLResponse(self.templates.html(template, {**common, **values}), status)
        if (identifier := getattr(request.state, "new_cookie", None)) is not None:
            self.set_cookie(request, response, identifier)
        return response

    def redirect(self, request: Request, target: str, **values: object) -> Response:
        """To another page, by its path without a first slash. ``done=KEY`` and numbers: what that page shall say."""
        query = f"?{urlencode({key: str(value) for key, value in values.items()})}" if values else ""
        return RedirectResponse(f"{_root(request)}{target}{query}", 303)

    def stream(self, request: Request, pieces: AsyncGenerator[str | bytes, None], media_type: str) -> Response:
        """An answer that comes bit by bit. It ends when the reader leaves."""
        self._streaming(request)
        # Otherwise nginx would collect it until it is over.
        return StreamingResponse(
            _until(self.closing, pieces), media_type=media_type, headers={"X-Accel-Buffering": "no"}
        )

    async def failed(self, request: Request, error: Exception) -> Response:
        """A page that can not be shown. For the application, where no route fits."""
        return self._protected(self._error(request, getattr(error, "status_code", 500)))

    # How a request is answered

    async def _answer(self, request: Request, endpoint: Endpoint, *, public: bool) -> Response:
        response = self._refusal(request, public=public)
        if response is None:
            try:
                response = await endpoint(request)
            except HTTPException as error:
                response = self._error(request, error.status_code)
            except TooLarge:
                response = self._error(request, 413)
            except NoHistory as error:
                response = self.render(request, "no_history.html", 503 if error.why == "slow" else 200, why=error.why)
            except Exception as error:
                log.failure(_log, "a page failed", error, path=request.scope["path"])
                response = self._error(request, 500)
        return self._protected(response)

    def _refusal(self, request: Request, *, public: bool) -> Response | None:
        wanted = self.password.wanted
        if wanted is None and not _is_ours(request.headers.get("host", "")):
            visitor = Visitor("", _address(request), "")
            request.state.visitor = visitor
            return self.render(request, "error.html", 421, error="host", status_code=421)
        visitor = self._visitor(request)
        request.state.visitor = visitor
        if request.state.new_cookie is not None and request.headers.get("sec-fetch-site") == "cross-site":
            # After a link in a mail, or from the provider's sign-in, the browser keeps the cookie back. The page comes
            # again by itself, and then with the cookie. A new cookie would end the operator's session.
            request.state.new_cookie = None
            return self.render(request, "again.html") if request.method == "GET" else self._error(request, 403)
        if visitor.signed_in or public:
            return None
        if request.method == "POST":
            return self.redirect(request, "signin")
        wish = request.scope["path"].lstrip("/")
        query = request.scope["query_string"].decode("ascii", "replace")
        return self.redirect(request, "signin", next=f"{quote(wish)}?{query}" if query else quote(wish))

    def _visitor(self, request: Request) -> Visitor:
        wanted = self.password.wanted
        identifier = valid(request.cookies.get(_cookie(request)))
        user: str | None = LOCAL_USER
        if wanted is not None:
            user = None if identifier is None else self.sessions.user(identifier, wanted)
        request.state.new_cookie = None
        if identifier is None:
            identifier = request.state.new_cookie = new_identifier()
        csrf = self.sessions.csrf(identifier)
        return Visitor(user or "", _address(request), csrf, signed_in=user is not None)

    def _protected(self, response: Response) -> Response:
        for name, value in PROTECTION.items():
            response.headers.setdefault(name, value)
        return response

    def set_cookie(self, request: Request, response: Response, identifier: str) -> None:
        """Give the browser this cookie, and no other one."""
        # Whoever lies about the scheme only loses his own cookie.
        schemes = (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
        response.set_cookie(_cookie(request), identifier, httponly=True, samesite="strict", secure="https" in schemes)

    def cookie_of(self, request: Request) -> str | None:
        """The cookie that came with the request."""
        return valid(request.cookies.get(_cookie(request)))

    def _token(self, request: Request) -> Any:
        return self.templates.hidden("csrf", visitor_of(request).csrf)

    def _error(self, request: Request, status: int) -> Response:
        if not hasattr(request.state, "visitor"):
            request.state.visitor = Visitor("", _address(request), "")
        key = str(status if status in _ERRORS else 500)
        return self.render(request, "error.html", status, error=key, status_code=status)


async def _until(
    closing: asyncio.Event, pieces: AsyncGenerator[str | bytes, None]
) -> AsyncGenerator[str | bytes, None]:
    """The pieces, as long as the service does not stop."""
    stop = asyncio.ensure_future(closing.wait())
    coming: asyncio.Future[str | bytes] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(pieces))
            await asyncio.wait({coming, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return
            try:
                yield coming.result()
            except StopAsyncIteration:
                return
    finally:
        tasks = [task for task in (coming, stop) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await pieces.aclose()


def visitor_of(request: Request) -> Visitor:
    """Who asks."""
    visitor: Visitor = request.state.visitor
    return visitor


def query_of(request: Request) -> Form:
    """What stands behind the question mark of the address."""
    return parsed(request.scope["query_string"].decode("ascii", "replace"))


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _root(request: Request) -> str:
    """The way from this page to the first one. It also fits where a reverse proxy has the page below another path."""
    depth = request.scope.get("raw_path", request.scope["path"].encode()).partition(b"?")[0].count(b"/") - 1
    return "../" * depth or "./"


def _cookie(request: Request) -> str:
    """Its name. Browsers send a cookie to all ports of a host, so two proxies on one machine need two names."""
    server = request.scope.get("server")
    return f"legacy-email-proxy-{server[1] if server else 0}"


def _is_ours(host: str) -> bool:
    """Whether that is a name of this machine as it sees itself."""
    name = re.sub(r":[0-9]{1,5}\Z", "", host).lower().removeprefix("[").removesuffix("]")
    return is_loopback(name) or name.endswith(".localhost")


def _is_token(given: str, right: str) -> bool:
    return bool(right) and hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


def _is_foreign(request: Request) -> bool:
    """Whether the browser says that another site's page has sent the form."""
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def _done(request: Request) -> str:
    """What the page before has done. The query only names the words, so nobody can make the page say others."""
    query = query_of(request)
    key = f"done.{query.get('done')}"
    return text(key, count=query.whole("count") or 0) if key != "done." and text.has(key) else ""
