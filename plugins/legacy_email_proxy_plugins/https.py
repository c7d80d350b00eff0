"""An HTTPS client for the endpoints of providers: verified TLS, no redirects, our own look-up of names.

Its failures are those of the contract, with the settings to look at. Nothing else of the project imports httpx.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import httpcore2
import httpx2

from legacy_email_proxy.contracts import Disconnected, Failure, Unreachable, Unusable, Unverified

from .dial import look_up

__all__ = ("client", "failures")

_ADDRESS_SECONDS = 3.0
"""How long one address of several may take to answer before the next one is tried."""


def client(
    tls: ssl.SSLContext, connect_seconds: float, *, silent_seconds: float | None = None, connections: int = 10
) -> httpx2.AsyncClient:
    """A client. A proxy is used where ``HTTPS_PROXY`` and ``NO_PROXY`` say so. Raises :class:`Unusable`.

    ``silent_seconds``: how long the server may send nothing, or take nothing of what it is sent.
    """
    try:
        made = httpx2.AsyncClient(
            verify=tls,
            timeout=httpx2.Timeout(silent_seconds, connect=connect_seconds, pool=None),
            limits=httpx2.Limits(max_connections=connections, keepalive_expiry=30),
            follow_redirects=False,
        )
        _resolve_apart(made)
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        detail = f"the proxy for HTTPS can not be used ({type(error).__name__})"
        raise Unusable(detail, look_at="HTTPS_PROXY") from None
    return made


@contextmanager
def failures(host: str, connect_seconds: float, look_at: str, ca_file: str) -> Iterator[None]:
    """Turns what a client raises into a failure. ``look_at`` and ``ca_file`` are the settings to look at."""
    try:
        yield
    except httpx2.ConnectTimeout:
        raise Unreachable(f"no connection to {host} within {connect_seconds:g} s", look_at=look_at) from None
    except httpx2.TransportError as error:
        raise _failure(host, error, look_at, ca_file) from None
    except httpx2.InvalidURL:
        raise Unusable(f"{host}: this is no address", look_at=look_at.partition(",")[0]) from None


class _Network(httpcore2.AnyIOBackend):
    """Looks names up as :mod:`.dial` does. httpx takes the event loop's few threads for that, and one name server that
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


def _resolve_apart(made: httpx2.AsyncClient) -> None:
    # httpx has no option for it. Its transports are one for each proxy in the environment, and one without.
    for transport in (made._transport, *made._mounts.values()):
        if isinstance(transport, httpx2.AsyncHTTPTransport):
            transport._pool._network_backend = _Network()


def _failure(host: str, error: BaseException, look_at: str, ca_file: str) -> Failure:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            detail = f"the certificate of {host} does not verify: {cause.verify_message}; nothing was sent"
            return Unverified(detail, look_at=ca_file)
        if isinstance(cause, ssl.SSLError):
            return Unverified(f"{host} does not speak TLS with us: {cause.reason}", look_at=look_at)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (httpx2.ConnectError, httpx2.ProxyError)):
        return Unreachable(f"no connection to {host}: {error}", look_at=look_at)
    if isinstance(error, httpx2.TimeoutException):
        return Disconnected(f"{host} fell silent")
    return Disconnected(f"the connection to {host} broke: {type(error).__name__}")
