"""Limits how many passwords clients may guess, for both legs together.

Without a limit the proxy would pass each wrong password on to the provider, which blocks an address that sends many of
them: then all mail stops. To check a local user's password costs a processor 50 ms.

:class:`FailedLogins` counts, :class:`LoginLimit` lets logins wait and refuses them, :class:`LimitedMaildrop` stands
before a maildrop whose backend judges the logins.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from . import log
from .access import source_of
from .contracts import Client, Finding, Login, LoginRefused, LoginsLimited, Maildrop, MaildropSession

__all__ = (
    "FORGET_IN_ALL_SECONDS",
    "FORGET_SECONDS",
    "FREE",
    "FREE_IN_ALL",
    "MAX_SOURCES",
    "FailedLogins",
    "KnownPasswords",
    "LimitedMaildrop",
    "LoginLimit",
)

FREE = 5
"""Logins of one address that may fail in a row before it has to pause; as many may be tried at once."""
FORGET_SECONDS = 60.0
"""One failure of an address is forgotten in this time, so a device that polls with a wrong password every few minutes
never has to pause, nor do others with its address."""
FREE_IN_ALL = 15
"""The same for the failures of all addresses together."""
FORGET_IN_ALL_SECONDS = 6.0
_FREE_OF_SUSPECTS = 10
"""Of ``FREE_IN_ALL``, addresses with failures of their own may use only so many; the others are kept for addresses
without a failure."""
_FREE_OF_USER = 3
"""Logins of one user that are tried at once, from whatever addresses."""
_FIRST_PAUSE_SECONDS = 2.0
_LAST_PAUSE_SECONDS = 60.0
_MOST_OVER = 6
"""How many failures beyond the free ones are counted; with more, an address would have to be quiet for hours."""
MAX_SOURCES = 10_000
PATIENCE_SECONDS = 10.0
"""A login is kept waiting for this long at most, then it reads that it should try again later."""
_SAME_AGAIN_SECONDS = 60.0
"""A password that was refused is refused again without asking for this long."""
_MOST_PASSWORDS = 10_000
_QUIET_SECONDS = 300.0
"""An attack is over when no login of it was seen for this long."""

_log = logging.getLogger("legacy_email_proxy.guessing")


class _Failures:
    """For one source, or for all together: how many logins failed lately, and how many are being tried."""

    __slots__ = ("_forget_seconds", "_last", "_level", "proven", "trying")

    def __init__(self, forget_seconds: float) -> None:
        self._forget_seconds = forget_seconds
        self._level = 0.0
        self._last = -math.inf
        self.trying = 0
        self.proven = False
        """A password was proven from here."""

    def level(self, now: float) -> float:
        """Failures that are not forgotten yet."""
        return max(0.0, self._level - (now - self._last) / self._forget_seconds)

    def add(self, now: float, free: int) -> None:
        """One more login failed."""
        self._level = min(self.level(now) + 1, free + _MOST_OVER)
        self._last = now

    def wait(self, now: float, free: int) -> float:
        """Seconds until another login may be tried; infinite where one that is being tried must end first."""
        over = self._level - free
        if over > -1:
            pause = min(_FIRST_PAUSE_SECONDS * math.exp2(over), _LAST_PAUSE_SECONDS)
            if (left := self._last + pause - now) > 0:
                return left
        return math.inf if self.trying >= max(1, free - self.level(now)) else 0.0


class FailedLogins:
    """Who may try a login now: by the failures of the source, by those of all sources, and by what is being tried.

    An address from which a password was proven is judged by its own failures alone, so failures of thousands of other
    addresses do not shut it out. Memory is limited: only a login that was let through is remembered, and the number of
    those is limited for all addresses together.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = _Failures(FORGET_IN_ALL_SECONDS)
        self._sources: OrderedDict[str, _Failures] = OrderedDict()
        self._users: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sources)

    def begin(self, source: str, user: str) -> float:
        """Count a login as being tried and return 0. Or return the seconds until it may be tried: infinite where
        another one must :meth:`end` first.
        """
        now = self._clock()
        failures = self._sources.get(source) or _Failures(FORGET_SECONDS)
        wait = failures.wait(now, FREE)
        if not failures.proven:
            wait = max(wait, self._all.wait(now, _FREE_OF_SUSPECTS if failures.level(now) else FREE_IN_ALL))
        if self._users[user] >= _FREE_OF_USER:
            wait = math.inf
        if not wait:
            self._sources[source] = failures
            self._sources.move_to_end(source)
            failures.trying += 1
            self._all.trying += 1
            self._users[user] += 1
        return wait

    def end(self, source: str, user: str, *, failed: bool = False, proven: bool = False) -> bool:
        """A login that :meth:`begin` let through has ended. Returns whether the source has to pause for it now."""
        now = self._clock()
        failures = self._sources[source]
        failures.trying -= 1
        self._all.trying -= 1
        self._users[user] -= 1
        if not self._users[user]:
            del self._users[user]
        failures.proven |= proven
        if failed:
            failures.add(now, FREE)
            self._all.add(now, FREE_IN_ALL)
        if not (failures.trying or failures.proven or failures.level(now)):
            del self._sources[source]
        while len(self._sources) > MAX_SOURCES:
            # Those that are being tried are the youngest, and there are never so many of them.
            self._sources.popitem(last=False)
        return failed and 0 < failures.wait(now, FREE) < math.inf

    def pausing(self) -> bool:
        """Whether new addresses have to pause because of the failures of all together."""
        return 0 < self._all.wait(self._clock(), FREE_IN_ALL) < math.inf


class KnownPasswords:
    """Logins that are recognised without keeping their passwords: digests under a key that only this process has."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seconds: float = math.inf) -> None:
        self._clock = clock
        self._seconds = seconds
        self._key = secrets.token_bytes(32)
        self._added: OrderedDict[bytes, float] = OrderedDict()

    def add(self, login: Login) -> None:
        """Know this user with this password; over so many logins the oldest is forgotten."""
        digest = self._digest(login)
        self._added[digest] = self._clock()
        self._added.move_to_end(digest)
        if len(self._added) > _MOST_PASSWORDS:
            self._added.popitem(last=False)

    def discard(self, login: Login) -> None:
        """Know it no longer."""
        self._added.pop(self._digest(login), None)

    def clear(self) -> None:
        """Know none any more."""
        self._added.clear()

    def __contains__(self, login: Login) -> bool:
        added = self._added.get(self._digest(login))
        return added is not None and self._clock() - added < self._seconds

    def _digest(self, login: Login) -> bytes:
        # The user's digest and the password's are of fixed length: no two logins give the same octets.
        user = hashlib.sha256(login.user.encode("utf-8", "surrogateescape")).digest()
        return hmac.digest(self._key, user + login.password.fingerprint(), "sha256")


class _Attack:
    """What the log will say of an attack when it is over."""

    def __init__(self, now: float) -> None:
        self.began = self.seen = now
        self.failed = self.put_off = 0


class LoginLimit:
    """Limits the logins that the backend or the accounts file judges. There is one for both legs, in one event loop;
    it is kept at a reload.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed = FailedLogins(clock)
        self._proven: dict[str, KnownPasswords] = {}
        self._refused: dict[str, KnownPasswords] = {}
        self._changed = asyncio.Event()
        self._attacks: dict[str, _Attack] = {}

    @asynccontextmanager
    async def attempt(self, judge: str, address: str, login: Login) -> AsyncIterator[None]:
        """To be entered around asking ``judge`` (``backend`` or ``accounts``) whether the login is right.

        A password that was proven before passes at once. Raises :class:`LoginsLimited` where the login may not be
        tried now, and :class:`LoginRefused` where the same one was refused a moment ago.
        """
        proven = self._proven.setdefault(judge, KnownPasswords(self._clock))
        refused = self._refused.setdefault(judge, KnownPasswords(self._clock, _SAME_AGAIN_SECONDS))
        source, user = source_of(address), f"{judge} {login.user.casefold()}"
        self._tell_ended()
        guess = await self._admitted(source, user, login, proven, refused)
        failed = True
        try:
            yield
        except LoginRefused:
            proven.discard(login)
            refused.add(login)
            raise
        except Exception:
            # The backend could not be asked, so nobody knows. A client that left before the verdict (a cancellation is
            # no Exception) still counts as failed: it made as much work as a wrong password.
            failed = False
            raise
        else:
            failed = False
            proven.add(login)
        finally:
            if guess:
                self._end(source, user, failed=failed, proven=login in proven)

    async def _admitted(
        self, source: str, user: str, login: Login, proven: KnownPasswords, refused: KnownPasswords
    ) -> bool:
        """Wait until the login may be tried. Returns whether it is one that was never proven, and so was counted."""
        deadline = self._clock() + PATIENCE_SECONDS
        while login not in proven:
            if login in refused:
                raise LoginRefused("the same user and password were refused a moment ago, so nobody was asked again")
            left = deadline - self._clock()
            wait = self._failed.begin(source, user)
            if not wait:
                return True
            if left <= 0 or left < wait < math.inf:
                self._put_off(source)
                raise LoginsLimited("too many failed logins, so this one was not tried")
            with anyio.move_on_after(min(wait, left)):
                await self._changed.wait()
        return False

    def _end(self, source: str, user: str, *, failed: bool, proven: bool) -> None:
        pauses = self._failed.end(source, user, failed=failed, proven=proven)
        self._changed.set()
        self._changed = asyncio.Event()
        if pauses:
            self._note(source).failed += 1
        if failed and self._failed.pausing():
            self._note("").failed += 1

    def forget_refused(self) -> None:
        """Ask again about every password: what judges them has just been changed."""
        self._refused.clear()

    # Log: one line when an attack begins and one when it is over, because a line for each try would fill the disk.

    def _put_off(self, source: str) -> None:
        # This client may not be guessing: during an attack, or while the backend hangs, others have to wait as well.
        attack = self._attacks.get(source) or self._attacks.get("")
        if attack is not None:
            attack.seen = self._clock()
            attack.put_off += 1

    def _note(self, source: str) -> _Attack:
        now = self._clock()
        attack = self._attacks.get(source)
        if attack is None:
            attack = self._attacks[source] = _Attack(now)
            log.event(_log, logging.WARNING, "password guessing", client=source or "many addresses")
        attack.seen = now
        return attack

    def _tell_ended(self) -> None:
        now = self._clock()
        for source in [source for source, attack in self._attacks.items() if now - attack.seen > _QUIET_SECONDS]:
            attack = self._attacks.pop(source)
            log.event(
                _log, logging.WARNING, "password guessing ended", client=source or "many addresses",
                failed=attack.failed, not_tried=attack.put_off, seconds=round(attack.seen - attack.began),
            )  # fmt: skip


class LimitedMaildrop:
    """A maildrop whose backend judges the clients' logins; they are limited before the backend is asked."""

    def __init__(self, maildrop: Maildrop, logins: LoginLimit) -> None:
        self._maildrop = maildrop
        self._logins = logins

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[MaildropSession]:
        """Open the maildrop."""
        async with AsyncExitStack() as stack:
            opening = self._maildrop.open(client, login)
            if login is None:
                session = await stack.enter_async_context(opening)
            else:
                async with self._logins.attempt("backend", client.address, login):
                    session = await stack.enter_async_context(opening)
            yield session

    async def probe(self) -> Sequence[Finding]:
        """What the maildrop finds."""
        return await self._maildrop.probe()

    async def aclose(self) -> None:
        """Close it."""
        await self._maildrop.aclose()
