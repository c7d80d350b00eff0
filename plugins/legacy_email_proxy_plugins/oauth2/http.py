"""One form to one endpoint: verified TLS, one deadline for the whole exchange, a small answer, no redirects."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2

from legacy_email_proxy.contracts import Disconnected, Failure, Unreachable, Unusable, Unverified

__all__ = ("ANSWER_OCTETS", "Answer", "Endpoints")

ANSWER_OCTETS = 65536
"""A token with all that stands around it has a few KiB."""

_LOOK_AT = "OAUTH2_TOKEN_URL, HTTPS_PROXY"


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and the JSON object that came with it; empty if what came was none. Never to be logged as a whole."""

    status: int
    body: Mapping[str, Any]
    host: str


class Endpoints:
    """Speaks to a provider's endpoints. A proxy is used where ``HTTPS_PROXY`` and ``NO_PROXY`` say so."""

    def __init__(self, tls: ssl.SSLContext, seconds: float = 20.0) -> None:
        self._tls = tls
        self._seconds = seconds

    async def post(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None) -> Answer:
        """Raises :class:`Unreachable`, :class:`Unverified`, :class:`Unusable` or :class:`Disconnected`."""
        host = urlsplit(url).hostname or url
        try:
            with anyio.fail_after(self._seconds):
                status, octets = await self._exchange(url, form, basic)
        except TimeoutError:
            raise Unreachable(f"{host} did not answer within {self._seconds:g} s", look_at=_LOOK_AT) from None
        except httpx2.TransportError as error:
            raise _failure(host, error) from None
        except httpx2.InvalidURL:
            raise Unusable(f"{host}: this is no address", look_at="OAUTH2_TOKEN_URL") from None
        if 300 <= status < 400:
            detail = f"{host} answers with a redirect (status {status}), which is not followed"
            raise Unusable(detail, look_at="OAUTH2_TOKEN_URL")
        return Answer(status, _parsed(octets), host)

    async def _exchange(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None) -> tuple[int, bytes]:
        try:
            client = httpx2.AsyncClient(verify=self._tls, timeout=None, follow_redirects=False)
        except (ValueError, ImportError, httpx2.InvalidURL) as error:
            detail = f"the proxy for HTTPS can not be used ({type(error).__name__})"
            raise Unusable(detail, look_at="HTTPS_PROXY") from None
        # A few octets can unpack to any number: so no compression, and what was not asked for isn't unpacked.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with client, client.stream("POST", url, data=form, headers=headers, auth=basic) as response:
            octets = bytearray()
            async for piece in response.aiter_raw():
                octets += piece
                if len(octets) > ANSWER_OCTETS:
                    host = urlsplit(url).hostname
                    raise Disconnected(f"{host} sends more than {ANSWER_OCTETS} octets, which is no answer")
            return response.status_code, bytes(octets)


def _failure(host: str, error: BaseException) -> Failure:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            detail = f"the certificate of {host} does not verify: {cause.verify_message}; nothing was sent"
            return Unverified(detail, look_at="OAUTH2_CA_FILE")
        if isinstance(cause, ssl.SSLError):
            return Unverified(f"{host} does not speak TLS with us: {cause.reason}", look_at=_LOOK_AT)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (httpx2.ConnectError, httpx2.ProxyError)):
        return Unreachable(f"no connection to {host}: {error}", look_at=_LOOK_AT)
    return Disconnected(f"the connection to {host} broke: {type(error).__name__}")


def _parsed(octets: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(octets)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
