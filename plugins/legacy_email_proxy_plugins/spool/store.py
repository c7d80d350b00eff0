"""The contract of a store: where the spool is durable. Several kinds are possible; the rest of the spool knows none.

Whatever is awaited here has, on return, been written to stable storage. Errors of the disk are raised as
:class:`StorageFull` or :class:`Failure`; then nothing of the call has happened, unless it is :class:`Interrupted`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from legacy_email_proxy.contracts import Failure

from .message import Outcome, SpooledMessage, State, Submission

__all__ = (
    "ANNOUNCED",
    "Copied",
    "Counted",
    "Damaged",
    "Incoming",
    "Interrupted",
    "Room",
    "Store",
    "TooNewError",
    "Unreadable",
)


ANNOUNCED = "done by the operator"
"""What the log says then, with the facts."""


class Interrupted(Failure):
    """The connection to the store broke, or there was none. What was being written may be there, or not."""


class TooNewError(Exception):
    """The tables were made by a later version of this program."""


class Unreadable(Exception):
    """One stored message can not be read; the others are not affected."""


class Damaged(Unreadable):
    """The message ``number`` has something in a part of the file that is broken.

    SQLite writes nothing more in the transaction that has met such a part, so it has to be rolled back.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


@dataclass(frozen=True, slots=True)
class Room:
    """How much is stored that is not given up, and how much the disk still has; ``None`` where nobody can tell."""

    messages: int
    octets: int
    free_octets: int | None


@dataclass(frozen=True, slots=True)
class Counted:
    """The messages of one account in one state: how many, and since when the oldest is there."""

    account: str
    state: State
    messages: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup holds. ``missing`` are the numbers of messages of which the body is not there, or not whole.

    ``aside`` is under which name that is kept which was in its place and could not be read.
    """

    messages: int
    missing: Sequence[int]
    aside: str = ""


class Incoming(Protocol):
    """A message on its way in. Memory is bounded, whatever its size."""

    async def write(self, piece: bytes) -> None:
        """Take the next octets."""

    async def commit(self, submission: Submission) -> SpooledMessage:
        """Store it, due at once, and leased. Only now somebody is responsible for it."""

    async def discard(self) -> None:
        """Forget it. Nothing happens after :meth:`commit` has been called."""


class Store(Protocol):
    """One spool."""

    version: int
    """Of its tables, once it is open."""
    warnings: Sequence[str]
    """What an operator should know, once it is open."""

    async def open(self, wake: Callable[[], None]) -> None:
        """Take possession, or one's part of it where several processes may have it open.

        ``wake`` is called when another process has made something due. Raises :class:`SettingsMistake` when it can't
        be had, as when another process has it.
        """

    async def adopt(self, account: str, *, due_before: float) -> int | None:
        """An account's messages are taken out from now on; returns how many there are, or None while nobody can tell.

        None of them is left due later than ``due_before``, which no clock that is right has written.
        """

    async def accounts(self) -> Mapping[str, int]:
        """How many messages there are of each account that has any."""

    async def counts(self) -> Sequence[Counted]:
        """All messages, counted. It reads a row of each, so it is not to be asked all the time."""

    def receive(self) -> Incoming:
        """Begin to take a message."""

    async def lease(self, account: str, now: float, limit: int, but: Collection[int]) -> list[SpooledMessage]:
        """Messages of an account to try now, in the order in which they fell due.

        They are nobody else's until :meth:`record` or :meth:`give_back`, which has to come for each of them.
        Never one of ``but``: all that are on their way in this process, of whatever account. It is read when it is this
        call's turn, and what the call before has given is in it by then.

        Of those that two tries in a row did not bring to an orderly end, only one is given at a time, of whatever
        account, and only while none of ``but`` is one: so the innocent are told from the one that crashes the process.
        """

    async def next_due(self, account: str, but: Collection[int]) -> float | None:
        """When the account's next one falls due."""

    def begin(self, number: int) -> None:
        """The try of a message begins. If the process ends before :meth:`record` or :meth:`give_back`, that try counts
        as one without an orderly end.
        """

    def give_back(self, number: int) -> None:
        """The try of a message that was leased was called off, or not begun at all."""

    async def record(self, outcome: Outcome) -> None:
        """Write down what has come of a try: the message may be gone after that, its content too."""

    def content(self, message: SpooledMessage) -> AsyncGenerator[bytes, None]:
        """The content, in pieces. Raises :class:`Unreadable` when it is not whole."""

    async def numbers(self) -> Sequence[int]:
        """All there are, in order."""

    async def get(self, number: int) -> SpooledMessage | None:
        """One message, with nothing changed. Raises :class:`Unreadable`."""

    async def move(self, number: int, state: State, now: float) -> bool:
        """The operator's decision. Queued means: due now, with all its tries before it, the dead revived."""

    async def drop(self, number: int, now: float) -> bool:
        """The operator's decision: away with it, nobody is told. What it was to notify of is dead then."""

    async def announce(self, facts: Mapping[str, str | int]) -> None:
        """Tell the log of every service that has it open what the operator has done."""

    async def back_up(self, folder: Path) -> Copied:
        """Copy all of it, as it is at one moment, into an empty folder, while everything goes on.

        Raises :class:`Failure` also where the database has tools of its own for that.
        """

    async def restore(self, folder: Path) -> Copied:
        """Put a backup in the place of an empty spool, which nobody has open, nor this store. Raises as above."""

    async def room(self) -> Room:
        """How full it is; cheap enough to ask at each MAIL."""

    async def aclose(self) -> None:
        """Let go of it."""
