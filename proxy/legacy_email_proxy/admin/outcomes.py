"""What last became of a backend, by account and leg, as the log's events tell it.

It is a handler of the log, so it tells the same story, and costs a backend nothing: whether it works is known from the
mail that went through it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from .. import log
from ..contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    Overloaded,
    Refused,
    Unreachable,
    Unusable,
    Unverified,
)

__all__ = ("Backend", "Outcome", "Outcomes")

_TROUBLE = (Unreachable, Disconnected, Unverified, CredentialsRefused, Unusable, Overloaded)
"""Failures that are the backend's trouble, or ours with it. A verdict on a message is none: it may be a rule's."""

_SENT = frozenset({"message relayed", "message delivered"})
_FAILED = {
    "message refused": "smtp",
    "smtp sender refused": "smtp",
    "smtp recipient refused": "smtp",
    "message not delivered": "smtp",
    "message may have been delivered: it is tried again, and may arrive twice": "smtp",
    "delivery paused": "smtp",
    "pop3 login failed": "pop3",
    "pop3 message failed": "pop3",
    "pop3 deletion failed": "pop3",
}
"""The words of a failure → its leg."""


class Backend(NamedTuple):
    """What is behind one leg of one account; without an accounts file the account has no name."""

    account: str
    leg: str


class Outcome(NamedTuple):
    """How it went, and when (seconds since 1970). ``trouble`` is what was wrong, ``""`` where nothing was."""

    moment: float
    trouble: str = ""


class Outcomes(log.Observer):
    """The last outcome of each backend, and when each last worked. The records may come from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[Backend, Outcome] = {}
        self.successes: dict[Backend, float] = {}
        """When a message last went through, in seconds since 1970."""

    def last(self, backend: Backend) -> Outcome | None:
        """What last became of it, if anything has yet."""
        return self._last.get(backend)

    def probed(self, backend: Backend, trouble: str) -> None:
        """Note what a probe has found."""
        self._last[backend] = Outcome(self._clock(), trouble)

    def take(self, record: logging.LogRecord) -> None:
        """Note what the event tells of a backend."""
        words = record.msg
        if words in _SENT:
            self._worked("smtp", record)
        elif words == "pop3 session ended":
            # Only a maildrop that was opened has messages, and only then the backend has shown that it works.
            if "messages" in log.facts_of(record):
                self._worked("pop3", record)
        elif words in _FAILED and _is_trouble(failure := getattr(record, "failure", None)):
            self._last[_backend(_FAILED[words], record)] = Outcome(self._clock(), str(failure))

    def _worked(self, leg: str, record: logging.LogRecord) -> None:
        now, backend = self._clock(), _backend(leg, record)
        self._last[backend] = Outcome(now)
        self.successes[backend] = now


def _backend(leg: str, record: logging.LogRecord) -> Backend:
    return Backend(str(log.facts_of(record).get("account", "")), leg)


def _is_trouble(failure: object) -> bool:
    if isinstance(failure, Overloaded):
        # All our connections are busy with other messages: then the backend works.
        return failure.about_us
    if isinstance(failure, Refused):
        return failure.about_us
    return isinstance(failure, Failure) and isinstance(failure, _TROUBLE)
