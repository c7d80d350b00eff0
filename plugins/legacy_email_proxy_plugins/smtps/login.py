"""Who we are: the octets of one SASL exchange (RFC 4954), and the pause after our password was refused."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from legacy_email_proxy.contracts import CredentialsRefused, Failure, Overloaded, Secret, Unusable

from .commands import Extensions
from .replies import Reply, redacted

__all__ = ("FIRST_PAUSE_SECONDS", "LAST_PAUSE_SECONDS", "Breaker", "Exchange", "login_failure")

FIRST_PAUSE_SECONDS = 60.0
LAST_PAUSE_SECONDS = 3600.0
"""The pause doubles from the first to the last: four tries in the first ten minutes, then 24 a day. Providers lock an
account, or an address, after five to ten wrong passwords in ten minutes."""

_LOOK_AT = "BACKEND_SMTP_USER, BACKEND_SMTP_PASS"
_CREDENTIALS = frozenset({432, 530, 534, 535, 538})
_NOT_UNDERSTOOD = frozenset(range(500, 505))


class Exchange:
    """One mechanism, chosen once, and what to send in it: the AUTH command, then an answer to each 334.

    A second mechanism is never tried: three tries with a wrong password are three strikes against the account.
    """

    def __init__(self, mechanism: str, user: str, password: Secret) -> None:
        self.mechanism = mechanism
        name = user.encode("utf-8", "surrogateescape")
        key = password.reveal().encode("utf-8", "surrogateescape")
        # The initial response (RFC 4616 §2) saves PLAIN a round trip.
        plain, login = _base64(b"\0" + name + b"\0" + key), _base64(key)
        if mechanism == "PLAIN":
            self._lines: tuple[str, ...] = (f"AUTH PLAIN {plain}",)
        else:
            self._lines = ("AUTH LOGIN", _base64(name), login)
        self.secrets = (password.reveal(), plain, login)
        """What goes over the wire, and must not be shown when it comes back."""

    @classmethod
    def choose(cls, extensions: Extensions, user: str, password: Secret) -> Exchange:
        """PLAIN, else LOGIN. Raises :class:`Unusable` when the backend offers neither."""
        for mechanism in ("PLAIN", "LOGIN"):
            if mechanism in extensions.mechanisms:
                return cls(mechanism, user, password)
        offered = " ".join(sorted(extensions.mechanisms)) or "no login at all"
        raise Unusable(f"the backend offers {offered}, and the proxy knows PLAIN and LOGIN", look_at=_LOOK_AT)

    def lines(self) -> tuple[bytes, ...]:
        """The lines to send, one after each other, as long as the backend says 334. Never to be logged."""
        return tuple(line.encode("ascii") + b"\r\n" for line in self._lines)

    def shown(self, reply: Reply) -> str:
        """The reply, for the log."""
        return redacted(reply.whole, self.secrets)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def login_failure(reply: Reply, shown: str) -> Failure:
    """What a 4yz or 5yz in the exchange means (RFC 4954 §6). It never is a verdict on the client's mail."""
    if reply.code in _CREDENTIALS or (reply.code >= 500 and reply.code not in _NOT_UNDERSTOOD):
        return CredentialsRefused(f"the backend refused the login: {shown}", look_at=_LOOK_AT)
    if reply.code >= 500:
        return Unusable(f"the backend does not understand the login: {shown}", look_at=_LOOK_AT)
    return Overloaded(f"the backend can't check the login now: {shown}")


class Breaker:
    """After a refused password no other login is tried for a while, so that a wrong one does not lock the account.

    Until a login has succeeded, logins also go one by one: ten connections at once would be ten wrong passwords.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._pause = 0.0
        self._open_until = 0.0
        self._reason = ""
        self._proven = False
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def attempt(self, seconds: float) -> AsyncIterator[None]:
        """Around one login. Raises :class:`CredentialsRefused` in a pause, :class:`Overloaded` after ``seconds``."""
        self._check()
        turn = not self._proven
        if turn:
            await self._wait_for_turn(seconds)
        try:
            yield
        except CredentialsRefused as refused:
            self._open(refused)
            raise
        else:
            self._proven, self._pause = True, 0.0
        finally:
            if turn:
                self._turn.release()

    async def _wait_for_turn(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise Overloaded(f"another login at the backend has not ended within {seconds:g} s") from None
        try:
            self._check()
        except CredentialsRefused:
            self._turn.release()
            raise

    def _check(self) -> None:
        left = self._open_until - self._clock()
        if left > 0:
            raise CredentialsRefused(f"{self._reason}; not tried again for {left:.0f} s", look_at=_LOOK_AT)

    def _open(self, refused: CredentialsRefused) -> None:
        if self._clock() < self._open_until:
            return
        self._pause = min(self._pause * 2 or FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS)
        self._open_until = self._clock() + self._pause
        self._reason = refused.detail
        self._proven = False
        self._logger.error("%s: no login is tried for %.0f s, so that the account is not locked", refused, self._pause)
