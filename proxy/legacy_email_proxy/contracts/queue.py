"""The contract of a relay that keeps what it has taken: how the ``spool`` command looks into it and acts on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

__all__ = ("QUEUE_ACTIONS", "Queue", "QueueAction")

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
