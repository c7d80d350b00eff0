"""What ``check`` says about the backend: whether it is reached, verified and logged in to, and what it offers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Failure,
    Finding,
    Level,
    Overloaded,
    Unreachable,
    Unusable,
    Unverified,
)

from ..backend_settings import SMTP, Encryption
from ..backoff import Breaker
from ..findings import explained
from ..tls_trouble import unless_tls_first
from .connecting import EHLO_NAME, log_in
from .connection import Connection
from .settings import Endpoint, Timeouts

__all__ = ("probe",)

_ADVICE: dict[type[Failure], str] = {
    Unreachable: "check the name and the port, and that a firewall lets the proxy out",
    Unverified: "check that the host name is the one your provider gives, and that the port fits the TLS setting; for "
    "a CA of your own, set BACKEND_SMTP_CA_FILE",
    CredentialsRefused: "check user and password; many providers want an app password here, or SMTP AUTH switched on",
    Overloaded: "try again later",
    Unusable: "ask your provider which port and login a mail program has to use",
}

_WRONG_PLACE = (
    "check the name and the port: is this the server to which mail programs send, and does BACKEND_SMTP_USE_SSL or "
    "BACKEND_SMTP_USE_TLS fit the port (465 and 587)?"
)

_ADVICE_ON_EHLO = (
    f"some servers refuse an address as our name: set {EHLO_NAME} to this machine's full name, as the provider knows it"
)

_HIGH_VOLUME = "smtp.hve.mx.microsoft"
_ADVICE_ON_HIGH_VOLUME = (
    "this is High Volume Email: does the account have a billing policy (Get-HVEAccountBillingPolicy <account> must say"
    " BillingPolicyValid)? Are the security defaults off, and does an authentication policy that applies to the account"
    " allow AllowBasicAuthSmtp where it logs in with a password?"
)
"""Microsoft does not publish what an account without a billing policy is answered."""

_WORTH_KNOWING = ("8BITMIME", "SMTPUTF8", "PIPELINING", "CHUNKING")


async def probe(
    endpoint: Endpoint, connect: Callable[[], Coroutine[Any, Any, Connection]], breaker: Breaker, timeouts: Timeouts
) -> list[Finding]:
    """Connect, log in, send QUIT. Every failure becomes a finding; only cancellation is raised."""
    findings: list[Finding] = []
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeouts.probe):
            connecting = unless_tls_first(connect(), endpoint, SMTP, silent_seconds=timeouts.silent)
            connection = opened = await connecting
            findings.append(_reached(endpoint, connection))

            async def connected() -> Connection:
                # It is opened before the login, so that "reached" is shown also where there is no secret.
                return opened

            _, mechanism = await log_in(endpoint, connected, breaker)
            findings.append(_logged_in(endpoint, mechanism))
            findings.extend(_offers(connection))
        connection.leave()
        await connection.closed()
    except Failure as failure:
        findings.append(_failed(endpoint, failure))
    except TimeoutError:
        advice = _ADVICE[Unreachable] if endpoint.encryption is Encryption.IMPLICIT else _WRONG_PLACE
        findings.append(Finding(Level.BAD, f"{endpoint} did not answer within {timeouts.probe:g} s", advice))
    finally:
        if connection is not None:
            connection.abort()
    return findings


def _failed(endpoint: Endpoint, failure: Failure) -> Finding:
    if endpoint.host == _HIGH_VOLUME and type(failure) is CredentialsRefused:
        return Finding(Level.BAD, str(failure), _ADVICE_ON_HIGH_VOLUME)
    if (finding := explained(failure, str(failure))) is not None:
        return finding
    if EHLO_NAME in failure.look_at:
        return Finding(Level.BAD, str(failure), _ADVICE_ON_EHLO)
    if failure.look_at and "BACKEND_SMTP" not in failure.look_at:
        # The source of the secret has failed, not the backend.
        return Finding(Level.BAD, failure.detail, f"look at {failure.look_at}")
    otherwise = _WRONG_PLACE if failure.look_at else "look into the log of the backend"
    return Finding(Level.BAD, str(failure), _ADVICE.get(type(failure), otherwise))


def _reached(endpoint: Endpoint, connection: Connection) -> Finding:
    if endpoint.encryption is Encryption.NONE:
        return Finding(
            Level.WARNING,
            f"reached {endpoint}, without TLS",
            "anybody on the way can read mail and password: set BACKEND_SMTP_USE_SSL or BACKEND_SMTP_USE_TLS",
        )
    return Finding(
        Level.GOOD, f"reached {endpoint}, {endpoint.encryption.value}, {connection.tls_version}, certificate verified"
    )


def _logged_in(endpoint: Endpoint, mechanism: str) -> Finding:
    if not mechanism:
        return Finding(Level.GOOD, "no login, as BACKEND_SMTP_USER is not set")
    return Finding(Level.GOOD, f"logged in as {endpoint.user} ({mechanism})")


def _offers(connection: Connection) -> list[Finding]:
    extensions = connection.extensions
    offered = [keyword for keyword in _WORTH_KNOWING if keyword in extensions]
    missing = [keyword for keyword in _WORTH_KNOWING if keyword not in extensions]
    octets = extensions.max_octets
    size = f"takes messages of up to {octets} octets (SIZE)" if octets else "names no limit for a message (SIZE)"
    findings = [Finding(Level.GOOD, size)]
    if offered:
        findings.append(Finding(Level.GOOD, f"offers {', '.join(offered)}"))
    if "8BITMIME" in missing:
        findings.append(
            Finding(Level.WARNING, "does not offer 8BITMIME", "mail with letters outside ASCII may arrive damaged")
        )
    if others := [keyword for keyword in missing if keyword != "8BITMIME"]:
        findings.append(Finding(Level.GOOD, f"does not offer {', '.join(others)}; the proxy does without"))
    return findings
