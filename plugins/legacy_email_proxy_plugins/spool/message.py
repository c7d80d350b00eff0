"""A message as the spool stores it: its envelope, the state of each recipient, and when it is due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from legacy_email_proxy.contracts import Client, Parameters, Refused

__all__ = ("Fate", "Notice", "Outcome", "Recipient", "SpooledMessage", "State", "Submission", "Verdict", "storable")


def storable(text: str) -> str:
    """A text from a plugin or server that every store accepts: NUL and unpaired surrogates become escape codes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


class State(StrEnum):
    """State of a message. Only queued messages are tried."""

    QUEUED = "queued"
    HELD = "held"  # by the operator, until the operator releases it
    NOTIFYING = "notifying"  # failed for good; kept until the notification was delivered
    DEAD = "dead"  # failed for good, and no notification could be delivered
    SET_ASIDE = "set aside"  # it made the relay crash too often, or can not be read


class Fate(StrEnum):
    """State of a recipient."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"  # for good; a notification is on its way
    NOTIFIED = "notified"
    DEAD = "dead"  # failed for good, and no notification could be delivered


@dataclass(frozen=True, slots=True)
class Verdict:
    """The last reply about a recipient, at ``time`` (seconds since 1970). ``code`` is 0 if it was no SMTP reply."""

    code: int
    enhanced: str
    text: str
    time: float

    @classmethod
    def of(cls, failure: BaseException, time: float) -> Verdict:
        """Made from what the relay raised."""
        if isinstance(failure, Refused):
            return cls(failure.code, failure.enhanced, storable(failure.text), time)
        return cls(0, "", storable(str(failure)) or type(failure).__name__, time)


@dataclass(slots=True)
class Recipient:
    """One forward-path. ``number`` is its position in the envelope."""

    number: int
    forward_path: str
    parameters: Parameters
    fate: Fate = Fate.WAITING
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """An envelope from a device, not stored yet. ``account`` names the account that will deliver it."""

    account: str
    client: Client
    reverse_path: str
    parameters: Parameters
    recipients: Sequence[tuple[str, Parameters]]
    received: float


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification, stored in one transaction with the outcome that caused it.

    ``about`` are the numbers of the recipients whose failure it reports; empty for a warning about a delay, after which
    those recipients are still tried.
    """

    submission: Submission
    content: bytes
    about: tuple[int, ...] = ()


@dataclass(slots=True)
class SpooledMessage:
    """A message as the store has it. Times are seconds since 1970.

    ``since`` is when delivery began: at reception, or when the operator queued the message again. It is in the time of
    the process that tried it last. ``unfinished`` counts how many of the last tries in a row were cut off. ``content``
    is set if the content is small and was read with the record.
    """

    number: int
    account: str
    state: State
    received: float
    since: float
    due: float
    tries: int
    unfinished: int
    warned: bool
    notice: bool
    reason: str
    client: Client
    reverse_path: str
    parameters: Parameters
    octets: int
    body: str | None
    recipients: list[Recipient]
    content: bytes | None = None

    @property
    def waiting(self) -> list[Recipient]:
        """The recipients that have not got it yet."""
        return [each for each in self.recipients if each.fate is Fate.WAITING]

    def count_from(self, began: float, now: float) -> None:
        """Convert ``since`` to the clock of this process, which started at ``began`` and never jumps.

        An earlier process used its own clock, which may have been wrong by years: many small machines have the right
        time only after the network told them. Only the time between a message's first and last try is known to be
        right. So that is its age. The time when no service ran does not count.
        """
        tried = [each.verdict.time for each in self.recipients if each.verdict is not None]
        last = max(tried, default=self.since)
        if not began <= last <= now or self.since > last:
            self.since = now - max(0.0, last - self.since)


@dataclass(slots=True)
class Outcome:
    """What one try has changed, stored in one transaction. ``changed`` are recipients with a new fate or verdict."""

    message: SpooledMessage
    changed: Sequence[Recipient]
    due: float
    state: State = State.QUEUED
    reason: str = ""
    orderly: bool = True
    warned: bool = False
    notices: Sequence[Notice] = field(default_factory=tuple)

    @property
    def last_of_it(self) -> bool:
        """Whether all recipients have the message and it can simply be removed."""
        message = self.message
        return not (message.notice or message.unfinished) and all(
            each.fate is Fate.DELIVERED for each in message.recipients
        )
