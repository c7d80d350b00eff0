"""Pauses in which the proxy does not ask a server again, because asking at once would do harm.

* :class:`Breaker`: after a refused login. Devices poll every few minutes, and the provider would lock the account.
* :class:`Throttle`: after a server asked for a pause. If it is asked again at once, it asks for longer pauses.
* :class:`RepeatedReplies`: after two connections got the same temporary refusal. A third would cost one more login.
* :class:`Gate`: while a backend takes no message of the spool. Otherwise each message would be tried in vain.
* :class:`Pause`: only a pause that doubles each time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from legacy_email_proxy.contracts import CredentialsRefused, Failure, Overloaded, Secret

__all__ = (
    "FIRST_PAUSE_SECONDS",
    "JITTER",
    "LAST_PAUSE_SECONDS",
    "Breaker",
    "Gate",
    "Pause",
    "RepeatedReplies",
    "Throttle",
    "retry_after",
)

FIRST_PAUSE_SECONDS = 60.0
LAST_PAUSE_SECONDS = 3600.0
"""The pause doubles from the first to the last: four tries in the first ten minutes, then 24 a day. Providers lock an
account, or an address, after five to ten wrong passwords in ten minutes."""
_SECRETS_IN_A_PAUSE = 4
"""After so many different secrets were refused in one pause, no further secret is tried until the pause ends."""

JITTER = 0.2
"""The largest random part added to an interval, so that messages that failed together are not all retried together."""

_REPEATED_SECONDS = 60.0
_MOST_REPEATED = 64
_OF_ONE_MESSAGE = re.compile(r"<[^>]*>|\S*[@0-9]\S*")


class Breaker:
    """Protects one login name at one server. A refused secret is not tried again for a while. A different secret is
    tried at once, because a user may just have given consent, or the token was renewed.

    Until a secret has been accepted, logins with it are tried one by one: ten at once could be ten wrong passwords.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._pause = 0.0
        self._open_until = 0.0
        self._refused: dict[bytes, CredentialsRefused] = {}
        """The refusals in this pause, by the fingerprint of the secret."""
        self._proven = b""
        self._turn = asyncio.Lock()

    @property
    def left(self) -> float:
        """Seconds until a secret that was refused may be tried again."""
        return max(0.0, self._open_until - self._clock())

    def check(self, secret: Secret) -> None:
        """Raises :class:`CredentialsRefused` if ``secret`` may not be tried now, so that connecting is of no use."""
        left = self.left
        if not left:
            return
        refused = self._refused.get(secret.fingerprint())
        if refused is None and len(self._refused) >= _SECRETS_IN_A_PAUSE:
            refused = list(self._refused.values())[-1]
        if refused is not None:
            detail = f"{refused.detail}; not tried again for {left:.0f} s"
            raise CredentialsRefused(detail, look_at=refused.look_at)

    @asynccontextmanager
    async def attempt(self, secret: Secret, seconds: float) -> AsyncIterator[None]:
        """The context of one login. Raises :class:`CredentialsRefused` in a pause, and :class:`Overloaded` if another
        login, for which this one waits, has not ended after ``seconds``.
        """
        self.check(secret)
        turn = secret.fingerprint() != self._proven
        if turn:
            await self._wait_for_turn(secret, seconds)
        try:
            yield
        except CredentialsRefused as refused:
            self._open(secret, refused)
            raise
        else:
            self._proven, self._pause = secret.fingerprint(), 0.0
        finally:
            if turn:
                self._turn.release()

    async def _wait_for_turn(self, secret: Secret, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise Overloaded(f"another login at the backend has not ended within {seconds:g} s") from None
        try:
            self.check(secret)
        except CredentialsRefused:
            self._turn.release()
            raise

    def _open(self, secret: Secret, refused: CredentialsRefused) -> None:
        self._proven = b""
        if self._clock() < self._open_until:
            self._refused[secret.fingerprint()] = refused
            return
        self._pause = min(self._pause * 2 or FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS)
        self._open_until = self._clock() + self._pause
        self._refused = {secret.fingerprint(): refused}
        words = "%s: the same password or token is not tried again for %.0f s, so that the account is not locked"
        self._logger.warning(words, refused, self._pause)


class Pause:
    """A pause that doubles each time, from ``first`` to ``longest`` seconds."""

    def __init__(self, first: float, longest: float, clock: Callable[[], float]) -> None:
        self._first = first
        self._longest = longest
        self._clock = clock
        self._seconds = 0.0
        self._began = 0.0

    @property
    def left(self) -> float:
        """Seconds that the pause still lasts; 0 if the clock was set back since, because then it is unknown."""
        passed = self._clock() - self._began
        return self._seconds - passed if 0 <= passed < self._seconds else 0.0

    def lengthen(self) -> None:
        """Begin a pause that is twice as long as the last one."""
        self._seconds = min(max(self._seconds * 2, self._first), self._longest)
        self._began = self._clock()

    def end(self) -> None:
        """End the pause; the next one is short again."""
        self._seconds = 0.0


class Throttle:
    """Gives a server the pauses that it asks for. One object per account; used in one event loop.

    It works as Dovecot's imapc does for Gmail: the next command waits 50 ms, and twice as long each time the server
    still refuses, up to 16 s. If the server names a time, the pause lasts that long, up to five minutes.
    """

    FIRST_PAUSE_SECONDS = 0.05
    LONGEST_PAUSE_SECONDS = 16.0
    LONGEST_SUGGESTED_SECONDS = 300.0
    PATIENCE_SECONDS = 4.0
    """A device waits for this long at most; if more is needed, it is told to come back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause = 0.0
        self._until = 0.0

    @property
    def left(self) -> float:
        """Seconds until the server may be asked again."""
        return max(0.0, self._until - self._clock())

    async def wait(self) -> None:
        """Wait until the server may be asked. Raises :class:`Overloaded` if that would take too long."""
        while left := self.left:
            if left > self.PATIENCE_SECONDS:
                raise Overloaded(f"the server asked for patience and is left alone for another {left:.0f} s")
            await asyncio.sleep(left)

    def told(self, suggested_seconds: float, *, throttled: bool) -> bool:
        """The server asked for a pause; ``suggested_seconds``: the time it named; ``throttled``: we asked too often.

        Returns whether it is worth waiting here and asking again: only throttling passes that quickly.
        """
        self._pause = min(max(self._pause * 2, self.FIRST_PAUSE_SECONDS), self.LONGEST_PAUSE_SECONDS)
        pause = max(self._pause, min(suggested_seconds, self.LONGEST_SUGGESTED_SECONDS))
        self._until = max(self._until, self._clock() + pause)
        return throttled and pause <= self.PATIENCE_SECONDS

    def went_well(self) -> None:
        """The server did what it was asked; the next pause is a short one again."""
        self._pause = 0.0


class RepeatedReplies:
    """The temporary refusals (4yz) that a server repeated on a new connection, each remembered for a minute.

    With greylisting, a sender's limit or an overloaded server, a second try at once gets the same reply. Replies are
    compared by their words, without addresses and without any word that has a digit in it, which may be an identifier.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def knows(self, code: int, text: str) -> bool:
        """Whether a new connection got this same reply again within the last minute."""
        return self._until.get(_words(code, text), 0.0) > self._clock()

    def compare(self, first: tuple[int, str], second: tuple[int, str]) -> None:
        """Remember the reply (code and text) of a new connection, if the connection before it got the same."""
        words = _words(*second)
        if words != _words(*first):
            return
        self._until.pop(words, None)
        self._until[words] = self._clock() + _REPEATED_SECONDS
        while len(self._until) > _MOST_REPEATED:
            del self._until[next(iter(self._until))]


def _words(code: int, text: str) -> str:
    return f"{code} {_OF_ONE_MESSAGE.sub('', text[:400])}"


def retry_after(tries: int, intervals: Sequence[float], chance: Callable[[], float]) -> float:
    """The seconds from the ``tries``-th try (from 1) to the next; ``chance`` gives numbers from 0 to 1."""
    return intervals[min(tries, len(intervals)) - 1] * (1 + JITTER * chance())


class Gate:
    """Holds the spool's messages back while each of them would meet the same failure at the backend.

    After a pause one message may be tried (the probe). The gate opens when the backend judges that message, whatever
    the verdict. Refused credentials close it for longer each time, because repeated tries lock an account.
    """

    def __init__(self, intervals: Sequence[float], clock: Callable[[], float]) -> None:
        self._intervals = intervals
        self._clock = clock
        self._closed_until = -math.inf
        self._closed = False
        self._probe: int | None = None
        self._refusals = 0

    @property
    def closed(self) -> bool:
        """Whether only a probe may pass."""
        return self._closed

    def wait_seconds(self) -> float:
        """How long until a message may pass; 0: now; infinite: while a probe is on its way."""
        if not self._closed:
            return 0.0
        return math.inf if self._probe is not None else max(0.0, self._closed_until - self._clock())

    def probe(self, number: int) -> None:
        """Note that the message with this number, which passes now, is the probe."""
        self._probe = number

    def ended(self, number: int) -> None:
        """The try with this message is over. If it was the probe, another message may become the probe now."""
        if self._probe == number:
            self._probe = None

    def judged(self) -> bool:
        """Open: the backend has judged a message, whatever the verdict. Returns whether the gate was closed."""
        was_closed, self._closed, self._probe = self._closed, False, None
        self._refusals = 0
        return was_closed

    def failed(self, failure: Failure) -> float:
        """Close: every message would fail like this. Returns for how many seconds, 0 if it is closed already."""
        was_closed, self._probe = self._closed, None
        if was_closed and self._clock() < self._closed_until:
            # This message was already being sent when the gate closed.
            return 0.0
        pause = self._intervals[0]
        if isinstance(failure, CredentialsRefused):
            self._refusals += 1
            pause = self._intervals[min(self._refusals, len(self._intervals)) - 1]
        self._closed, self._closed_until = True, self._clock() + pause
        return pause
