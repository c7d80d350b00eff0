"""Who looks at the page: the session behind the cookie, and the token that protects forms.

A browser sends the cookie only with requests that begin on the page itself (SameSite=Strict). Against browsers that do
not know this, each form has a token too, which is made of the cookie's value and a key that only this process has.
Sessions are lost at a restart, which costs the operator one more sign-in.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ... import log
from ...contracts import Secret

__all__ = ("IDLE_SECONDS", "MOST_SECONDS", "MOST_SESSIONS", "Sessions", "Visitor", "new_identifier", "valid")

IDLE_SECONDS = 3600.0
MOST_SECONDS = 12 * 3600.0
"""A session ends after this time even if it is in use."""
MOST_SESSIONS = 100

_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{43}")

_log = logging.getLogger("legacy_email_proxy.admin")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever sent the request. ``user`` is the name that was given at the sign-in; ``csrf`` goes into forms."""

    user: str
    address: str
    csrf: str
    signed_in: bool = False

    @property
    def by(self) -> str:
        """For the log and the history, like the peer of a command on the service's own socket."""
        return f"user {self.user}, {self.address}"

    def changed(self, what: str, /, **facts: object) -> None:
        """Log that this visitor has changed something."""
        log.event(_log, logging.INFO, "changed on the page", change=what, user=self.user, client=self.address, **facts)


@dataclass(slots=True)
class _Session:
    user: str
    password: bytes
    began: float
    used: float


def new_identifier() -> str:
    """A cookie's value that nobody can guess."""
    return secrets.token_urlsafe(32)


class Sessions:
    """The sessions of those who have signed in. Only a digest of the cookie's value is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._open: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self, user: str, password: Secret) -> str:
        """A new session of this user, who has proven the password; the cookie's value."""
        identifier, now = new_identifier(), self._clock()
        self._open[_digest(identifier)] = _Session(user, password.fingerprint(), now, now)
        while len(self._open) > MOST_SESSIONS:
            self._open.popitem(last=False)
        return identifier

    def user(self, identifier: str, password: Secret) -> str | None:
        """Whose session it is; ``None`` where there is none, or where it began with another password than today's."""
        digest, now = _digest(identifier), self._clock()
        session = self._open.get(digest)
        if session is None:
            return None
        over = now - session.used > IDLE_SECONDS or now - session.began > MOST_SECONDS
        if over or not hmac.compare_digest(session.password, password.fingerprint()):
            del self._open[digest]
            return None
        session.used = now
        return session.user

    def end(self, identifier: str) -> None:
        """Sign out."""
        self._open.pop(_digest(identifier), None)

    def csrf(self, identifier: str) -> str:
        """The token for forms on pages that are shown to the browser with this cookie."""
        return hmac.new(self._key, identifier.encode(), "sha256").hexdigest()


def valid(identifier: str | None) -> str | None:
    """The cookie's value, if it can be one of ours."""
    return identifier if identifier is not None and _IDENTIFIER.fullmatch(identifier) else None


def _digest(identifier: str) -> bytes:
    return hashlib.sha256(identifier.encode()).digest()
