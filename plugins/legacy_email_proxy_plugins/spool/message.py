"""What the spool knows of a message: its envelope, what has become of each recipient, and when it is due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from legacy_email_proxy.contracts import Client, Parameters, Refused

__all__ = ("Fate", "Notice", "Outcome", "Recipient", "SpooledMessage", "State", "Submission", "Verdict", "storable")


def storable(text: str) -> str:
    """What somebody else's code has said, as every store can hold it: of half characters and NUL their codes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


class State(StrEnum):
    """Of a message. Only what is queued is ever tried."""

    QUEUED = "queued"
    HELD = "held"  # by the operator, until the operator releases it
    NOTIFYING = "notifying"  # failed for good; kept until somebody has taken the notification
    DEAD = "dead"  # failed for good, and nobody could be notified
    SET_ASIDE = "set aside"  # it crashed the relay too often, or can't be read


class Fate(StrEnum):
    """Of a recipient."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"  # for good; a notification is on its way
    NOTIFIED = "notified"
    DEAD = "dead"  # failed for good, and nobody could be notified


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was last said of a recipient, at ``time`` (seconds since 1970). ``code`` 0: nobody said an SMTP reply."""

    code: int
    enhanced: str
    text: str
    time: float

    @classmethod
    def of(cls, failure: BaseException, time: float) -> Verdict:
        """From what the relay raised."""
        if isinstance(failure, Refused):
            return cls(failure.code, failure.enhanced, storable(failure.text), time)
        return cls(0, "", storable(str(failure)) or type(failure).__name__, time)


@dataclass(slots=True)
class Recipient:
    """One forward-path; ``number`` is its place in the envelope."""

    number: int
    forward_path: str
    parameters: Parameters
    fate: Fate = Fate.WAITING
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """An envelope as a device submitted it, not stored yet; ``account`` is whose relay takes it out again."""

    account: str
    client: Client
    reverse_path: str
    parameters: Parameters
    recipients: Sequence[tuple[str, Parameters]]
    received: float


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification to be stored together with its cause.

    ``about`` are the numbers of the recipients that it tells have failed; it is none for a warning, with which nothing
    is settled.
    """

    submission: Submission
    content: bytes
    about: tuple[int, ...] = ()


@dataclass(slots=True)
class SpooledMessage:
    """A message as the store has it. Times are seconds since 1970.

    ``since`` is when its trying began (reception, or a later revival by the operator), by the clock of the process that
    has tried it last. ``unfinished`` counts the last tries in a row that came to no orderly end. ``content`` is there
    when it was small and asked for.
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
        """The recipients that still have to get it."""
        return [each for each in self.recipients if each.fate is Fate.WAITING]

    def count_from(self, began: float, now: float) -> None:
        """Have ``since`` agree with a clock that began to run at ``began``, and does not jump.

        What an earlier process has written was written by its own clock, which may have been wrong by decades: many
        small machines know the time only once the network has told them. What is known is what passed between a
        message's tries; how long no service ran, or which year it was, makes no mail older.
        """
        tried = [each.verdict.time for each in self.recipients if each.verdict is not None]
        last = max(tried, default=self.since)
        if not began <= last <= now or self.since > last:
            self.since = now - max(0.0, last - self.since)


@dataclass(slots=True)
class Outcome:
    """What one try has changed, to be recorded in one piece. ``changed`` are recipients with a fate or a verdict."""

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
        """Whether everybody has the message, and nothing else hung on this try."""
        message = self.message
        return not (message.notice or message.unfinished) and all(
            each.fate is Fate.DELIVERED for each in message.recipients
        )
