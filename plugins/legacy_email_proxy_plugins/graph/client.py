"""Requests to Microsoft Graph for one mailbox: the token, pauses, retries, and errors as failures of the contract."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import anyio

from legacy_email_proxy.contracts import (
    Account,
    BearerToken,
    CredentialsRefused,
    Disconnected,
    Failure,
    Overloaded,
    Password,
    Unusable,
)

from .. import https
from ..redaction import without_secrets
from .pacing import Pace, pace_of
from .settings import Options
from .verdicts import GraphRefusal

__all__ = ("IMMUTABLE", "Body", "Graph", "quoted")

IMMUTABLE = 'IdType="ImmutableId"'
"""With this preference an id stays the same when a message is moved (outlook-immutable-id)."""
ANSWER_OCTETS = 8 * 1024 * 1024
"""A page of a thousand messages has less than one MiB."""

_CONNECT_SECONDS = 20.0
_SILENT_SECONDS = 120.0
_WHOLE_SECONDS = 900.0
"""For a request with what is sent. A download may take longer, as long as something comes."""
_TRIES = 4
_SHOWN_CHARACTERS = 300
_UNCERTAIN = "the message may have been delivered: Microsoft did not answer"

_THROTTLED = frozenset({429, 503})
_PASSING = frozenset({500, 502, 504})


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent with a request; ``pieces`` begins it anew for each try."""

    type: str
    length: int
    pieces: Callable[[], AsyncIterator[bytes]]

    @classmethod
    def of_json(cls, value: object) -> Body:
        """A small one."""
        octets = json.dumps(value).encode()

        async def pieces() -> AsyncIterator[bytes]:
            yield octets

        return cls("application/json", len(octets), pieces)


def quoted(identifier: str) -> str:
    """An id or address as one part of a path."""
    return quote(identifier, safe="@")


class Graph:
    """Asks for one mailbox; used in one event loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._account = Account("graph", options.mailbox)
        self._client: Any = None
        self._pace: Pace | None = None

    @property
    def pace(self) -> Pace:
        """Shared by all that ask for this mailbox."""
        if self._pace is None:
            self._pace = pace_of(self.options.url, self.options.mailbox, self.options.max_requests)
        return self._pace

    async def ask(
        self,
        step: str,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        good: Collection[int] = (200,),
        prefer: str = IMMUTABLE,
        safe: bool | None = None,
        sends: bool = False,
    ) -> Mapping[str, Any]:
        """The JSON of the answer, empty if it has none. ``step`` names the request in the log.

        ``path`` is below the mailbox, or an address that Graph gave. ``safe``: doing it twice does no harm, which is so
        of GET. ``sends``: it gives the message away, so a lost answer is told as that.

        Raises :class:`GraphRefusal` for what Graph does not do, and other failures.
        """
        safe = method in ("GET", "DELETE") if safe is None else safe
        refused_once = False
        for tries_left in reversed(range(_TRIES)):
            secret = await self._secret()
            large = body is not None and body.length > 1_000_000
            status = 0
            try:
                async with (
                    self.pace.turn(large=large),
                    self._exchange(step, method, self._url(path), secret, body, prefer, sends=sends) as response,
                ):
                    status = response.status_code
                    octets = await _limited(response, self.options.host)
            except Disconnected:
                if sends and status in good:
                    return {}  # Accepted, and what else would have come does not matter.
                if safe and tries_left:
                    continue
                raise
            if status in good:
                found = _parsed(octets)
                if method == "GET" and not found:
                    # A page of a firewall, for example. Taken for an empty folder it would hide all mail.
                    raise Disconnected(f"{self.options.host} does not answer like Microsoft Graph ({step})")
                self.pace.throttle.went_well()
                return found
            refusal = self._refusal(step, status, octets, secret)
            if status == 401:
                if refused_once or not await self._another(secret):
                    raise CredentialsRefused(refusal.detail, look_at="GRAPH_CREDENTIALS, OAUTH2_GRANT")
                refused_once = True
            elif status in _THROTTLED or (status == 504 and safe):
                self._told(response, refusal, worth_it=bool(tries_left))
            elif sends and status in _PASSING:
                raise Disconnected(f"{refusal.detail}; {_UNCERTAIN} with a verdict")
            elif not (safe and status in _PASSING and tries_left):
                raise refusal
        raise refusal

    @asynccontextmanager
    async def download(self, step: str, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The octets of the answer as they come. Raises as :meth:`ask` does."""
        refused_once = False
        for tries_left in reversed(range(_TRIES)):
            secret = await self._secret()
            async with (
                self.pace.turn(large=True),
                self._exchange(step, "GET", self._url(path), secret, None, IMMUTABLE, whole=None) as response,
            ):
                if response.status_code == 200:
                    self.pace.throttle.went_well()
                    yield response.aiter_raw(65536)
                    return
                octets = await _limited(response, self.options.host)
            refusal = self._refusal(step, response.status_code, octets, secret)
            if refusal.status == 401:
                if refused_once or not await self._another(secret):
                    raise CredentialsRefused(refusal.detail, look_at="GRAPH_CREDENTIALS, OAUTH2_GRANT")
                refused_once = True
            elif refusal.status in _THROTTLED or refusal.status == 504:
                self._told(response, refusal, worth_it=bool(tries_left))
            elif not (refusal.status in _PASSING and tries_left):
                raise refusal
        raise refusal

    async def put_range(self, url: str, octets: bytes, first: int, total: int) -> Mapping[str, Any] | None:
        """Send a part of a file to the address of an upload session; ``None`` after the last part.

        The address lets in whoever has it: it gets no token, and is never shown.
        """
        headers = {"Content-Range": f"bytes {first}-{first + len(octets) - 1}/{total}"}
        headers["Content-Type"] = "application/octet-stream"
        status, answer = await self._at_session("PUT", url, octets, headers)
        return None if status == 201 else answer

    async def next_range(self, url: str) -> Mapping[str, Any]:
        """Where an upload session goes on after a break."""
        return (await self._at_session("GET", url, b"", {}))[1]

    async def _at_session(
        self, method: str, url: str, octets: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, Any]]:
        host = urlsplit(url).hostname or ""
        if urlsplit(url).scheme != "https" or not host:
            raise Disconnected("Microsoft gave an address for the upload that is not https")
        step = "the upload of an attachment"
        async with self.pace.turn(large=bool(octets)):
            with https.failures(host, _CONNECT_SECONDS, "GRAPH_URL, HTTPS_PROXY", "GRAPH_CA_FILE"):
                async with self._http.stream(method, url, content=octets, headers={**_PLAIN, **headers}) as response:
                    answer = await _limited(response, host)
        if response.status_code in (200, 201):
            return response.status_code, _parsed(answer)
        refusal = self._refusal(step, response.status_code, answer, None)
        if refusal.status in _THROTTLED or refusal.status == 504:
            self._told(response, refusal, worth_it=True)
            raise Disconnected(refusal.detail)
        raise refusal

    async def secret(self) -> Password | BearerToken:
        """The token that requests are made with now."""
        return await self.options.credentials.secret(self._account)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()

    # One request.

    async def _secret(self) -> BearerToken:
        secret = await self.secret()
        if not isinstance(secret, BearerToken):
            raise Unusable("Microsoft Graph takes tokens only", look_at="GRAPH_CREDENTIALS")
        return secret

    async def _another(self, secret: BearerToken) -> bool:
        return await self.options.credentials.refused(self._account, secret)

    @property
    def _http(self) -> Any:
        if self._client is None:
            self._client = https.client(
                self.options.tls,
                _CONNECT_SECONDS,
                silent_seconds=_SILENT_SECONDS,
                connections=self.options.max_requests + 2,
            )
        return self._client

    def _url(self, path: str) -> str:
        if not path.startswith("https://"):
            return f"{self.options.url}/users/{quoted(self.options.mailbox)}{path}"
        # An address that Graph gave, such as that of the next page. The token goes to no other server.
        ours, given = urlsplit(self.options.url), urlsplit(path)
        if (ours.scheme, ours.netloc.lower()) != (given.scheme, given.netloc.lower()):
            raise Disconnected(f"{ours.hostname} names a page on another server ({given.hostname}), which is not asked")
        return path

    @asynccontextmanager
    async def _exchange(
        self,
        step: str,
        method: str,
        url: str,
        secret: BearerToken,
        body: Body | None,
        prefer: str,
        *,
        sends: bool = False,
        whole: float | None = _WHOLE_SECONDS,
    ) -> AsyncIterator[Any]:
        headers = {**_PLAIN, "Authorization": f"Bearer {secret.reveal()}", "Prefer": prefer}
        written = body is None
        if body is not None:
            headers |= {"Content-Type": body.type, "Content-Length": str(body.length)}
        elif method != "GET":
            headers["Content-Length"] = "0"

        async def content() -> AsyncIterator[bytes]:
            nonlocal written
            assert body is not None  # noqa: S101 (for the type checker)
            async for piece in body.pieces():
                yield piece
            written = True

        try:
            with (
                https.failures(self.options.host, _CONNECT_SECONDS, "GRAPH_URL, HTTPS_PROXY", "GRAPH_CA_FILE"),
                anyio.fail_after(whole),
            ):
                given = None if body is None else content()
                async with self._http.stream(method, url, content=given, headers=headers) as response:
                    yield response
        except (Disconnected, TimeoutError) as error:
            detail = error.detail if isinstance(error, Failure) else f"no end after {whole} s"
            uncertain = f"; {_UNCERTAIN} {step}" if sends and written else ""
            raise Disconnected(f"{detail} ({step}){uncertain}") from None

    def _refusal(self, step: str, status: int, octets: bytes, secret: BearerToken | None) -> GraphRefusal:
        error = _parsed(octets).get("error")
        error = error if isinstance(error, dict) else {}
        given = [secret.reveal()] if secret is not None else []
        code, message = (
            " ".join(without_secrets(str(error.get(name) or ""), given).split())[:_SHOWN_CHARACTERS]
            for name in ("code", "message")
        )
        return GraphRefusal(step, status, code or "without a code", message or "(no text)")

    def _told(self, response: Any, refusal: GraphRefusal, *, worth_it: bool) -> None:
        """Microsoft asks for a pause. Raises :class:`Overloaded` unless it is worth waiting here."""
        seconds = _retry_after(response.headers.get("retry-after", ""))
        if not self.pace.throttle.told(seconds, throttled=True) or not worth_it:
            raise Overloaded(f"{refusal.detail}; it is left alone for {self.pace.throttle.left:.0f} s")


_PLAIN = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "legacy-email-proxy"}
"""A few compressed octets can unpack to gigabytes, so no compression is asked for."""


def _retry_after(text: str) -> float:
    """The seconds that the header names (RFC 9110 §10.2.3), 0 without one."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


async def _limited(response: Any, host: str) -> bytes:
    octets = bytearray()
    async for piece in response.aiter_raw():
        octets += piece
        if len(octets) > ANSWER_OCTETS:
            raise Disconnected(f"{host} sends more than {ANSWER_OCTETS} octets, which is no answer")
    return bytes(octets)


def _parsed(octets: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(octets) if octets else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
