"""What is wrong with TLS towards a backend, in words that name the cause: mode, clock, name or CA.

OpenSSL's own words for a port of the wrong kind ("wrong version number") and for a clock in 1970 ("certificate is not
yet valid") send an operator to look for a CA, in vain.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from legacy_email_proxy.contracts import Unverified

from .backend_settings import Backend, Encryption, Leg
from .dial import dial

__all__ = ("SILENT_SECONDS", "begins_in_the_clear", "does_not_verify", "unless_tls_first")

_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
_UNKNOWN_CA = frozenset({18, 19, 20, 21})
"""X509_V_ERR_…: signed by itself, or by a CA that is not in the store."""
_WEAK = frozenset({66, 67, 68})
"""X509_V_ERR_…: a key that is too short, or a signature with a broken hash."""

SILENT_SECONDS = 3.0
"""After so long without a greeting it is tried whether the port waits for TLS. Most servers greet at once."""
_HELLO_SECONDS = 10.0

T = TypeVar("T")


def does_not_verify(server: str, error: ssl.SSLCertVerificationError, prefix: str) -> Unverified:
    """The failure for a certificate; ``prefix`` is that of the leg's settings."""
    reason = (error.verify_message or error.reason or str(error)).rstrip(".")
    look_at, advice = f"{prefix}_CA_FILE", ""
    code = error.verify_code
    if code in (_NOT_YET_VALID, _EXPIRED):
        look_at = ""
        # OpenSSL's own words differ from version to version.
        reason = "certificate has expired" if code == _EXPIRED else "certificate is not yet valid"
        reason += f" by this machine's clock, which says {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
        advice = "set this machine's clock (NTP)"
        if code == _EXPIRED:
            advice = "if that is the right time, your provider has to renew the certificate; else set the clock (NTP)"
    elif code in (_OTHER_NAME, _OTHER_ADDRESS):
        look_at = f"{prefix}_HOST"
        advice = f"set {prefix}_HOST to the name in the certificate: the one that your provider gives for mail programs"
    elif code in _UNKNOWN_CA:
        advice = (
            f"this machine does not know the CA that signed it: for a CA of your own set {prefix}_CA_FILE; else look"
            " for a firewall or virus scanner on the way that opens TLS"
        )
    elif code in _WEAK:
        advice = "the server's own certificate is too weak to be safe: who runs the server has to make a new one"
    detail = f"the certificate of {server} does not verify: {reason}; nothing was sent"
    return Unverified(detail, look_at=look_at, advice=advice)


def begins_in_the_clear(leg: Leg) -> str:
    """The advice where a server said something without TLS, and TLS was due from the first octet."""
    return (
        f"the port is one for {leg.starttls}: set {leg.starttls}=true, which switches {leg.prefix}_USE_SSL off; or"
        f" set {leg.prefix}_PORT to the one for TLS from the first octet ({leg.implicit_port})"
    )


async def unless_tls_first(
    work: Coroutine[Any, Any, T],
    server: Backend,
    leg: Leg,
    greeted: Callable[[], bool] = lambda: False,
    *,
    silent_seconds: float,
) -> T:
    """Await ``work``, which connects. While the server does not greet, try whether its port speaks TLS from the start.

    Such a port is silent to a client that waits for a greeting: without this, the operator would only read of a
    timeout, after a minute. Raises :class:`Unverified`, and what ``work`` raises.
    """
    working = asyncio.ensure_future(work)
    try:
        if server.encryption is not Encryption.IMPLICIT:
            await asyncio.wait((working,), timeout=silent_seconds)
            if not working.done() and not greeted() and await _speaks_tls(server, leg):
                raise Unverified(
                    f"{server.host} port {server.port} speaks TLS from the first octet, and so never greets a client"
                    " without it",
                    look_at=f"{leg.prefix}_PORT, {leg.starttls}",
                    advice=f"remove {leg.starttls} and set {leg.prefix}_USE_SSL=true; or set {leg.prefix}_PORT to the"
                    f" one for STARTTLS ({leg.starttls_port})",
                )
        return await working
    finally:
        if not working.done():
            working.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await working


async def _speaks_tls(server: Backend, leg: Leg) -> bool:
    """Whether the server answers a TLS hello, on a connection of its own. Its certificate may be any."""
    context = server.tls or ssl.create_default_context()
    try:
        async with asyncio.timeout(_HELLO_SECONDS):
            connected = await dial(server.host, server.port, _HELLO_SECONDS, leg.prefix)
            with connected:
                _, writer = await asyncio.open_connection(sock=connected, ssl=context, server_hostname=server.host)
                writer.transport.abort()
    except ssl.SSLCertVerificationError:
        return True
    except Exception:
        return False
    return True
