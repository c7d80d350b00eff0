"""An HTTPS client for the endpoints of providers: verified TLS, no redirects, our own look-up of names.

Its failures are those of the contract, with the settings to look at. No other plugin imports httpx.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import anyio
import httpcore2
import httpx2
from anyio.abc import SocketStream
from anyio.lowlevel import checkpoint_if_cancelled
from httpcore2._async.http_proxy import AsyncTunnelHTTPConnection
from httpcore2._backends.anyio import AnyIOStream

from legacy_email_proxy.contracts import Disconnected, Failure, Unreachable, Unusable, Unverified

from .dial import connect, look_up

__all__ = ("client", "failures")


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
        _adapt(made)
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
    """Looks names up, and tries their addresses, as :mod:`.dial` does. httpx takes the event loop's few threads to look
    a name up, and one name server that does not answer would take all of them, so that no account could renew its
    token. And what it connects with leaves the connection open if the caller gives up just then.
    """

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        # The address and the options are for clients that ask for them. Ours does not.
        try:
            with anyio.fail_after(timeout):
                return await _opened(host, port)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} port {port}: {error}") from error


async def _opened(host: str, port: int) -> _Stream:
    try:
        found = await look_up(host, port)
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"the name {host} can not be resolved: {error}") from error
    if not found:
        raise httpcore2.ConnectError(f"the name {host} can not be resolved: it has no address")
    connected = await connect(found)
    try:
        return _Stream(await SocketStream.from_socket(connected))
    except BaseException as error:
        connected.close()
        if isinstance(error, ValueError):  # anyio's, for a connection that has ended already
            raise OSError("it closed the connection at once") from None
        raise


class _Stream(AnyIOStream):
    """Is closed also if the caller gives up during the handshake. httpx closes it only if the handshake fails."""

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        try:
            secured = await super().start_tls(ssl_context, server_hostname, timeout)
            # A scope that ended in the handshake's last step would be told only later, where httpx closes nothing.
            await checkpoint_if_cancelled()
        except BaseException:
            await self.aclose()
            raise
        # Behind a proxy that is asked by TLS there is a second handshake.
        return _Stream(cast(AnyIOStream, secured)._stream)


class _Tunnel(AsyncTunnelHTTPConnection):
    """Gives its place among a client's connections back if there is no TLS behind the proxy. httpx's own keeps it
    (github.com/encode/httpcore/issues/1023), and a client without free places lets every request wait for ever.
    """

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        try:
            return await super().handle_async_request(request)
        except BaseException:
            if not self._connected:
                await self.aclose()
            raise


class _Proxy(httpcore2.AsyncHTTPProxy):
    def create_connection(self, origin: httpcore2.Origin) -> httpcore2.AsyncConnectionInterface:
        made = super().create_connection(origin)
        if isinstance(made, AsyncTunnelHTTPConnection):
            made.__class__ = _Tunnel
        return made


def _adapt(made: httpx2.AsyncClient) -> None:
    # httpx has no options for it. Its transports are one for each proxy in the environment, and one without.
    for transport in (made._transport, *made._mounts.values()):
        if isinstance(transport, httpx2.AsyncHTTPTransport):
            pool = transport._pool
            pool._network_backend = _Network()
            if isinstance(pool, httpcore2.AsyncHTTPProxy):
                pool.__class__ = _Proxy


def _failure(host: str, error: BaseException, look_at: str, ca_file: str) -> Failure:
    reason, cause = str(error), error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            detail = f"the certificate of {host} does not verify: {cause.verify_message}; nothing was sent"
            return Unverified(detail, look_at=ca_file)
        if isinstance(cause, (ssl.SSLZeroReturnError, ssl.SSLEOFError)):
            # Nobody knows why: where TLS itself is the trouble, most servers say so.
            reason = ""
        elif isinstance(cause, ssl.SSLError):
            return Unverified(f"{host} does not speak TLS with us: {cause.reason}", look_at=look_at)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (httpx2.ConnectError, httpx2.ProxyError)):
        # anyio has no words for a reset in the handshake.
        reason = reason or "it was closed in the TLS handshake"
        return Unreachable(f"no connection to {host}: {reason}", look_at=look_at)
    if isinstance(error, httpx2.TimeoutException):
        return Disconnected(f"{host} fell silent")
    return Disconnected(f"the connection to {host} broke: {type(error).__name__}")
