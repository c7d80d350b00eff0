"""Opens a connection and logs in: TCP, greeting, TLS, EHLO, AUTH (RFC 5321 §3.1, 3207, 4954).

No message is judged in these steps, so this module never raises :class:`Refused`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

from legacy_email_proxy.contracts import (
    Account,
    Disconnected,
    Failure,
    Overloaded,
    Secret,
    Unreachable,
    Unusable,
    Unverified,
    logged_in,
    timed,
)

from ..backend_settings import SMTP, Encryption
from ..backoff import Breaker
from ..clock import clock_offset
from ..dial import dial
from ..tls_trouble import begins_in_the_clear, does_not_verify
from .connection import Connection, State
from .protocol import UNASKED, Extensions, Reply, command, one_line
from .sasl_login import NOT_UNDERSTOOD, Exchange, mechanisms
from .settings import Endpoint, Timeouts
from .transport import Broken, Wire

__all__ = ("EHLO_NAME", "NotLetIn", "log_in", "open_connection")

_IN_CLEAR = re.compile(r"([245][0-9]{2})(?![0-9])")
_EHLO = "while sending EHLO"
_AUTH = "while sending AUTH"
_SILENT_SECONDS = 10.0
"""A server may take minutes to greet (RFC 5321 §4.5.3.2.1); after so long the log says what everybody waits for."""
EHLO_NAME = "BACKEND_SMTP_EHLO_NAME"
"""The setting to look at where EHLO is refused."""


class NotLetIn(Disconnected):
    """The backend closed the connection before the login could begin."""


async def open_connection(endpoint: Endpoint, timeouts: Timeouts, logger: logging.Logger) -> Connection:
    """Connect, verify, and say EHLO; :func:`log_in` comes next.

    Raises :class:`Unreachable`, :class:`Unverified`, :class:`Overloaded`, :class:`Unusable` or :class:`NotLetIn`.
    """
    with timed("smtp", "connect"):
        connected = await dial(endpoint.host, endpoint.port, timeouts.connect, "BACKEND_SMTP")
    try:
        _, wire = await asyncio.get_running_loop().create_connection(Wire, sock=connected)
    except BaseException:
        connected.close()
        raise
    connection = Connection(wire, endpoint, timeouts, logger)
    try:
        if endpoint.encryption is Encryption.IMPLICIT:
            await _start_tls(connection)
        with timed("smtp", "hello"):
            await _greeting(connection)
            await _hello(connection)
        if endpoint.encryption is Encryption.STARTTLS:
            await _command_starttls(connection)
            await _start_tls(connection)
            # What was offered without TLS may come from an attacker (RFC 3207 §4.2), so it is asked again.
            await _hello(connection)
    except BaseException as error:
        connection.abort()
        if isinstance(error, Disconnected):
            raise NotLetIn(error.detail, look_at=error.look_at, about_us=True) from None
        raise
    return connection


async def _greeting(connection: Connection) -> None:
    endpoint = connection.endpoint
    # If the port expects TLS from the first octet, no greeting comes without it.
    tls = "" if endpoint.encryption is Encryption.IMPLICIT else ", BACKEND_SMTP_USE_SSL"
    look_at = f"BACKEND_SMTP_HOST, BACKEND_SMTP_PORT{tls}"
    facts = {"backend": str(endpoint), "see": look_at}
    silent = partial(connection.logger.warning, "backend does not greet", extra={"facts": facts})
    telling = asyncio.get_running_loop().call_later(_SILENT_SECONDS, silent)
    try:
        reply = await connection.take("waiting for the greeting", connection.timeouts.greeting)
    except Disconnected as lost:
        kind = Unreachable if connection.timed_out else Disconnected
        raise kind(lost.detail, look_at=look_at) from None
    finally:
        telling.cancel()
    if reply.code != 220:
        raise _unwelcome(endpoint, reply.code, str(reply), look_at)
    connection.clock_offset = clock_offset(str(reply))


def _unwelcome(endpoint: Endpoint, code: int, said: str, look_at: str) -> Failure:
    if 400 <= code < 500:
        return Overloaded(f"{endpoint} greets with {said}")
    return Unreachable(f"{endpoint} greets with {said}", look_at=look_at)


async def _hello(connection: Connection) -> None:
    endpoint = connection.endpoint
    name = _own_name(connection)
    connection.send((command("EHLO", name),), _EHLO)
    try:
        reply = await connection.take(_EHLO, connection.timeouts.hello)
    except Disconnected as lost:
        raise Disconnected(lost.detail, look_at=EHLO_NAME) from None
    if reply.code == 250:
        connection.offered(Extensions.parse(reply))
    elif reply.code >= 500:
        raise Unusable(f"{endpoint} does not take EHLO {name}: {reply}", look_at=f"{EHLO_NAME}, BACKEND_SMTP_HOST")
    elif reply.negative:
        raise Overloaded(f"{endpoint} answers EHLO {name} with {reply}", look_at=EHLO_NAME)
    else:
        raise connection.out_of_step(_EHLO, reply)


def _own_name(connection: Connection) -> str:
    """The name in the setting, else our address as a literal (RFC 5321 §4.1.3): a name would need a look-up."""
    if connection.endpoint.ehlo_name:
        return connection.endpoint.ehlo_name
    address = ipaddress.ip_address(str(connection.wire.address[0]).partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"[IPv6:{address}]"
        address = address.ipv4_mapped
    return f"[{address}]"


async def _command_starttls(connection: Connection) -> None:
    endpoint = connection.endpoint
    look_at = "BACKEND_SMTP_USE_TLS, BACKEND_SMTP_PORT"
    if "STARTTLS" not in connection.extensions:
        raise Unverified(f"{endpoint} does not offer STARTTLS; nothing was sent", look_at=look_at)
    connection.send((command("STARTTLS"),), "while sending STARTTLS")
    lost = None
    try:
        reply = await connection.take("while sending STARTTLS", connection.timeouts.hello)
    except Disconnected as disconnected:
        lost = disconnected
    else:
        if reply.code != 220:
            raise Unverified(f"{endpoint} refuses STARTTLS: {reply}; nothing was sent", look_at=look_at)
    fault = connection.wire.fault
    if fault is not None and str(fault) == UNASKED:
        raise Unverified(
            f"{endpoint} sent octets in the clear behind its answer to STARTTLS: somebody on the way may have put "
            f"them there ({one_line(fault.said)}); nothing was sent",
            look_at=look_at,
        )
    if lost is not None:
        raise lost


async def _start_tls(connection: Connection) -> None:
    endpoint = connection.endpoint
    if endpoint.tls is None:
        raise Unverified("there is no TLS context")
    try:
        with timed("smtp", "tls"):
            await connection.wire.start_tls(endpoint.tls, endpoint.host, connection.timeouts.tls)
    except ssl.SSLCertVerificationError as error:
        raise does_not_verify(str(endpoint), error, SMTP.prefix) from None
    except ssl.SSLError as error:
        look_at = "BACKEND_SMTP_PORT, BACKEND_SMTP_USE_SSL, BACKEND_SMTP_USE_TLS"
        # Behind its greeting a server complains of each line end that it sees in our hello.
        said = one_line(connection.wire.said_in_clear.partition("\n")[0])
        if (refusal := _IN_CLEAR.match(said)) and refusal[1] != "220":
            # Exim answers like this, before TLS, when it takes no further connection.
            raise _unwelcome(endpoint, int(refusal[1]), f"{said}, in the clear", look_at) from None
        what = f"it begins in the clear, with {said}" if refusal else getattr(error, "reason", None) or error
        detail = f"{endpoint} does not speak TLS with us: {what}; nothing was sent"
        raise Unverified(detail, look_at=look_at, advice=begins_in_the_clear(SMTP) if refusal else "") from None
    except Broken as broken:
        kind = Unreachable if broken.timed_out else Disconnected
        raise kind(f"{endpoint}: in the TLS handshake: {broken}", look_at="BACKEND_SMTP_PORT") from None


async def log_in(
    endpoint: Endpoint, connect: Callable[[], Awaitable[Connection]], breaker: Breaker
) -> tuple[Connection, str]:
    """Connect and, if there is a user, log in. Returns the connection and the mechanism. There is one attempt, and a
    second one if the credentials have another secret after the first was refused.

    ``connect`` is called only when there is a secret that may be tried: in a pause there is no connection. Raises what
    ``connect`` and the credentials raise, :class:`CredentialsRefused`, :class:`NoCredentials`, :class:`Overloaded`,
    :class:`Unusable` or :class:`Disconnected`; then no connection is left open.
    """
    connection: Connection | None = None

    async def attempt(secret: Secret) -> str:
        nonlocal connection
        breaker.check(secret)
        if connection is None:
            connection = await connect()
        return await _authenticate(connection, breaker, secret)

    mechanism = ""
    try:
        if endpoint.credentials is not None:
            mechanism = await logged_in(endpoint.credentials, Account("smtp", endpoint.user or ""), attempt)
        connection = connection or await connect()
    except BaseException:
        if connection is not None:
            connection.abort()
        raise
    connection.state = State.READY
    return connection, mechanism


async def _authenticate(connection: Connection, breaker: Breaker, secret: Secret) -> str:
    async with breaker.attempt(secret, connection.timeouts.auth):
        with timed("smtp", "login"):
            return await _exchanged(connection, secret)


async def _exchanged(connection: Connection, secret: Secret) -> str:
    endpoint = connection.endpoint
    for name in (names := mechanisms(endpoint, connection.extensions, secret)):
        exchange = Exchange(name, endpoint, secret, connection.secrets)
        reply = await _dialogue(connection, exchange)
        if reply.code == 235 and not exchange.fault:
            return name
        if not reply.negative:
            connection.abort()
            said = f"it said {exchange.shown(reply)}, which is no end of a login"
            raise Disconnected(f"{endpoint}: {_AUTH}: {said}{exchange.fault and f' ({exchange.fault})'}", about_us=True)
        # The connection stays open: the next try, with another mechanism or another token, uses it.
        if reply.code not in NOT_UNDERSTOOD or name == names[-1]:
            raise exchange.failure(reply)
    raise AssertionError("no mechanism")  # pragma: no cover


async def _dialogue(connection: Connection, exchange: Exchange) -> Reply:
    """Answer the backend as long as it replies 334 and there is an answer; returns its last reply."""
    line: bytes | None = exchange.command()
    while line is not None:
        # From here on any reply may repeat a secret, also one that was sent in an earlier attempt.
        connection.secrets = exchange.secrets
        connection.logger.debug("C: AUTH %s ***", exchange.name)
        connection.write(line, 1, _AUTH)
        reply = await connection.take(_AUTH, connection.timeouts.auth, exchange.shown)
        if reply.code != 334:
            return reply
        line = await asyncio.to_thread(exchange.answer, reply) if exchange.calculates else exchange.answer(reply)
    return reply
