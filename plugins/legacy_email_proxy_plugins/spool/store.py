"""The contract of a store: it keeps the messages of a spool on stable storage.

There are two kinds, SQLite and PostgreSQL. The other modules of the spool use only this contract.

When a call returns, what it wrote is on stable storage. When the storage fails, a call raises :class:`StorageFull` or
:class:`Failure`, and then it has changed nothing. Only after :class:`Interrupted` it is unknown what was written.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from legacy_email_proxy.contracts import Failure, QueueFilter, SettingsMistake

from .message import Outcome, SpooledMessage, State, Submission

__all__ = (
    "ANNOUNCED",
    "LOOK_AT",
    "Copied",
    "Counted",
    "Damaged",
    "InUse",
    "Incoming",
    "Interrupted",
    "Room",
    "Store",
    "TooNewError",
    "Unreadable",
)

LOOK_AT = "SPOOL_URL"
"""The setting to look at when a store fails."""

ANNOUNCED = "done by the operator"
"""The text of the log line for :meth:`Store.announce`; the facts follow it."""


class Interrupted(Failure):
    """The connection to the store broke, or there was none. What was being written may be stored, or not.

    A message that :meth:`Incoming.commit` was storing is taken back before anybody can deliver it.
    """


class InUse(SettingsMistake):
    """The store is open in another process, which is named by ``by``, and can be open in one only."""

    def __init__(self, line: str, *, by: str) -> None:
        super().__init__(line)
        self.by = by


class TooNewError(Exception):
    """The tables were made by a later version of this program."""


class Unreadable(Exception):
    """One stored message can not be read. The other messages can."""


class Damaged(Unreadable):
    """Part of message ``number`` is in a broken page of the file.

    After SQLite has read a broken page it writes nothing more in that transaction, so the caller has to roll back.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


@dataclass(frozen=True, slots=True)
class Room:
    """How much is stored, without what was given up; and how much space the disk has, ``None`` if that is unknown."""

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
    """What a backup holds. ``missing`` are the numbers of messages whose body is missing or incomplete.

    ``aside`` is the new name of an unreadable spool that a restore found in its place and kept.
    """

    messages: int
    missing: Sequence[int]
    aside: str = ""


class Incoming(Protocol):
    """A message that is being received. It needs little memory, whatever its size."""

    async def write(self, piece: bytes) -> None:
        """Append the next octets of the content."""

    async def commit(self, submission: Submission) -> SpooledMessage:
        """Store the message, due at once and leased to this process. On return the spool is responsible for it.

        If this raises or is cancelled, the spool is not responsible. If the record is written all the same, even later,
        it is removed and never delivered.
        """

    async def discard(self) -> None:
        """Remove what was written. Does nothing after :meth:`commit`. Does not wait for a disk that hangs."""


class Store(Protocol):
    """Where one spool is kept."""

    version: int
    """Version of the tables, known once the store is open."""
    warnings: Sequence[str]
    """What an operator should know about it, once it is open."""

    async def open(self, wake: Callable[[], None]) -> None:
        """Open the store. A file is locked for this process; a database may be open in several processes.

        ``wake`` is called when another process has made a message due. Raises :class:`SettingsMistake` when the store
        can not be opened, for instance because another process has locked it.
        """

    async def adopt(self, account: str, *, due_before: float) -> int | None:
        """From now on this process delivers the account's messages. Returns their count, ``None`` if unknown for now.

        A message that is due later than ``due_before`` becomes due then: only a wrong clock writes such a time.
        """

    async def accounts(self) -> Mapping[str, int]:
        """The number of messages of each account that has any."""

    async def counts(self) -> Sequence[Counted]:
        """All messages, counted. It reads a row of each, so it is not to be asked all the time."""

    def receive(self) -> Incoming:
        """Begin to receive a message."""

    async def lease(self, account: str, now: float, limit: int, but: Collection[int]) -> list[SpooledMessage]:
        """Returns messages of an account that are due, the longest due first, and leases them to the caller.

        Nobody else gets a leased message before :meth:`record` or :meth:`give_back`, one of which has to be called for
        each. ``but`` are the numbers of all messages that this process works on, of any account; none of them is
        returned. It is read when this call's turn comes, so it then has what an earlier call returned.

        A message whose last two tries were cut off is a suspect: it may crash the process. Only one suspect at a time
        is leased, counting all accounts and ``but``. So a crash shows which message caused it.
        """

    async def next_due(self, account: str, but: Collection[int]) -> float | None:
        """When the account's next message is due."""

    def begin(self, number: int) -> None:
        """A try of this message begins. If the process ends before :meth:`record` or :meth:`give_back`, the try counts
        as cut off.
        """

    def give_back(self, number: int) -> None:
        """End the lease of a message that was not tried, or whose try was called off."""

    async def record(self, outcome: Outcome) -> None:
        """Store the outcome of a try. That may remove the message and its content."""

    def content(self, message: SpooledMessage) -> AsyncGenerator[bytes, None]:
        """The content, in pieces. Raises :class:`Unreadable` when part of it is missing."""

    async def search(self, wanted: QueueFilter, after: int) -> tuple[Sequence[int], int | None]:
        """Look through the next messages whose numbers are above ``after``, as many as take little time.

        Returns the numbers of those that are meant, in order, and after which number to go on: ``None`` at the end.
        """

    async def read(self, numbers: Sequence[int]) -> Mapping[int, SpooledMessage | Unreadable]:
        """Read several messages, without their contents. One that is gone is missing from the result."""

    async def get(self, number: int) -> SpooledMessage | None:
        """Read one message. Raises :class:`Unreadable`."""

    async def move(self, number: int, state: State, now: float) -> bool:
        """The operator changes a message's state. ``QUEUED``: due now, for failed recipients too."""

    async def drop(self, number: int, now: float) -> bool:
        """The operator removes a message; no sender is notified. If it is a notification, its original becomes dead."""

    async def announce(self, facts: Mapping[str, str | int]) -> None:
        """Write what the operator has done to the log of every service that has the spool open."""

    async def back_up(self, folder: Path) -> Copied:
        """Copy the spool, as it is at one moment, into an empty folder. Mail is received and delivered meanwhile.

        Raises :class:`Failure`, also for a database that has its own tools for backups.
        """

    async def restore(self, folder: Path) -> Copied:
        """Replace an empty spool by a backup. Nobody may have the spool open, nor may this store. Raises as above."""

    async def room(self) -> Room:
        """How full the store is. Cheap enough to be asked at each MAIL. It fails when a disk does not answer."""

    async def aclose(self) -> None:
        """Close the store."""
