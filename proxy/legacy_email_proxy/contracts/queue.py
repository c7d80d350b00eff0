"""The contract of a relay that keeps what it has taken: how the ``spool`` command looks into it and acts on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

__all__ = ("QUEUE_ACTIONS", "BackedUpQueue", "Queue", "QueueAction")

QueueAction = Literal["list", "show", "retry", "hold", "release", "drop", "export", "migrate"]
QUEUE_ACTIONS: tuple[str, ...] = get_args(QueueAction)


class Queue(Protocol):
    """What a relay is besides, when it can be administered. It is optional."""

    @property
    def queue_name(self) -> str:
        """Which queue it is; the relays of several accounts may have one in common."""

    def administer(
        self, action: QueueAction, numbers: Sequence[int]
    ) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
        """Do ``action`` with the messages of these numbers (``list``: with all), wherever the queue is held.

        That may be another process, which has it open; the relay itself is not started. Gives what JSON can hold about
        each message, its ``account`` among that, and of ``export`` the octets of one in pieces. Messages of all
        accounts that have the queue in common are meant. ``migrate`` is about no message: it brings up to date what
        the queue is held in, and gives its ``version``. Raises :class:`Failure` in plain words.
        """


class BackedUpQueue(Queue, Protocol):
    """A queue of which a copy can be made while it is in use. It is optional, too.

    Both give what JSON can hold: the ``folder``, how many ``messages`` there are, and the numbers of those whose
    content is ``missing``; and as ``aside`` under which name that is kept, if any, which was in the way of a restored
    one. Both raise :class:`Failure` in plain words, also where other tools have to be used.
    """

    async def back_up(self, folder: Path) -> Mapping[str, Any]:
        """Copy all of it, as it is at one moment, into an empty folder, or one to be made; its path is absolute."""

    async def restore(self, folder: Path) -> Mapping[str, Any]:
        """Take over what :meth:`back_up` has written there. Nobody may have the queue open, and it has to be empty."""
