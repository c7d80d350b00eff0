"""Posts a form to an endpoint: verified TLS, one deadline for the whole exchange, a small answer, no redirects."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpcore2
import httpx2

from legacy_email_proxy.contracts import Disconnected, Failure, Unreachable, Unusable, Unverified

from ..clock import clock_offset
from ..dial import look_up

__all__ = ("ANSWER_OCTETS", "Answer", "Endpoints")

ANSWER_OCTETS = 65536
"""An answer with a token has a few KiB."""

_PATIENCE_SECONDS = 300.0
_ADDRESS_SECONDS = 3.0
"""How long one address of several may take to answer before the next one is tried."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and the JSON object in the answer, empty if there was none. Never log ``body``: it may hold a token.

    ``variable`` is the setting that holds the endpoint's address.
    """

    status: int
    body: Mapping[str, Any]
    host: str
    variable: str = "OAUTH2_TOKEN_URL"


class Endpoints:
    """Speaks to a provider's endpoints. A proxy is used where ``HTTPS_PROXY`` and ``NO_PROXY`` say so."""

    def __init__(self, tls: ssl.SSLContext, seconds: float = 20.0, patience: float = _PATIENCE_SECONDS) -> None:
        self._tls = tls
        self._seconds = seconds
        self._patience = patience
        self.clock_offset: float | None = None
        """By how many seconds our clock is ahead of an endpoint's, as its last answer had it."""

    async def post(
        self,
        url: str,
        form: Mapping[str, str],
        basic: tuple[str, str] | None = None,
        *,
        once: bool = False,
        variable: str = "OAUTH2_TOKEN_URL",
    ) -> Answer:
        """Raises :class:`Unreachable`, :class:`Unverified`, :class:`Unusable` or :class:`Disconnected`.

        ``once``: the form may hold a code or token that works only once, so that a lost answer can't be asked for
        again. The call then waits up to ``patience`` seconds.
        """
        host, look_at = urlsplit(url).hostname or url, f"{variable}, HTTPS_PROXY"
        seconds = self._patience if once else self._seconds
        try:
            with anyio.fail_after(seconds):
                status, octets = await self._exchange(url, form, basic)
        except httpx2.ConnectTimeout:
            raise Unreachable(f"no connection to {host} within {self._seconds:g} s", look_at=look_at) from None
        except TimeoutError:
            raise Unreachable(f"{host} did not answer within {seconds:g} s", look_at=look_at) from None
        except httpx2.TransportError as error:
            raise _failure(host, error, look_at) from None
        except httpx2.InvalidURL:
            raise Unusable(f"{host}: this is no address", look_at=variable) from None
        if 300 <= status < 400:
            detail = f"{host} answers with a redirect (status {status}), which is not followed"
            raise Unusable(detail, look_at=variable)
        return Answer(status, _parsed(octets), host, variable)

    async def _exchange(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None) -> tuple[int, bytes]:
        try:
            timeout = httpx2.Timeout(None, connect=self._seconds)
            client = httpx2.AsyncClient(verify=self._tls, timeout=timeout, follow_redirects=False)
            _resolve_apart(client)
        except (ValueError, ImportError, httpx2.InvalidURL) as error:
            detail = f"the proxy for HTTPS can not be used ({type(error).__name__})"
            raise Unusable(detail, look_at="HTTPS_PROXY") from None
        # A few compressed octets can unpack to gigabytes: ask for no compression, and never unpack.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with client, client.stream("POST", url, data=form, headers=headers, auth=basic) as response:
            self.clock_offset = clock_offset(response.headers.get("Date", ""))
            octets = bytearray()
            async for piece in response.aiter_raw():
                octets += piece
                if len(octets) > ANSWER_OCTETS:
                    host = urlsplit(url).hostname
                    raise Disconnected(f"{host} sends more than {ANSWER_OCTETS} octets, which is no answer")
            return response.status_code, bytes(octets)


class _Network(httpcore2.AnyIOBackend):
    """Looks names up as :mod:`..dial` does. httpx takes the event loop's few threads for that, and one name server that
    does not answer would take all of them, so that no account could renew its token.
    """

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            with anyio.fail_after(timeout):
                found = await look_up(host, port)
                addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
                for address in addresses[:-1]:
                    with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                        return await super().connect_tcp(address, port, _ADDRESS_SECONDS, local_address, socket_options)
                return await super().connect_tcp(addresses[-1], port, timeout, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError, IndexError) as error:
            raise httpcore2.ConnectError(f"the name {host} can not be resolved: {error}") from error


def _resolve_apart(client: httpx2.AsyncClient) -> None:
    # httpx has no option for it. Its transports are one for each proxy in the environment, and one without.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.AsyncHTTPTransport):
            transport._pool._network_backend = _Network()


def _failure(host: str, error: BaseException, look_at: str) -> Failure:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            detail = f"the certificate of {host} does not verify: {cause.verify_message}; nothing was sent"
            return Unverified(detail, look_at="OAUTH2_CA_FILE")
        if isinstance(cause, ssl.SSLError):
            return Unverified(f"{host} does not speak TLS with us: {cause.reason}", look_at=look_at)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (httpx2.ConnectError, httpx2.ProxyError)):
        return Unreachable(f"no connection to {host}: {error}", look_at=look_at)
    return Disconnected(f"the connection to {host} broke: {type(error).__name__}")


def _parsed(octets: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(octets)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
