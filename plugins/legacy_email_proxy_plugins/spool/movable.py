"""The part of a store that ``moving`` needs: it works with the records themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from ..threads import Threads
from .group_commit import Connection, Writer
from .incoming import Bodies, IncomingMessage, Put

__all__ = ("Movable",)

_Result = TypeVar("_Result")


class Movable:
    """The base of both stores. A subclass knows how its numbers go on."""

    _writer: Writer
    _bodies: Bodies
    _threads: Threads

    async def run(self, work: Callable[[Connection], _Result]) -> _Result:
        """Do ``work`` in a transaction, in the writer's thread."""
        return await self._writer.run(work)

    def arriving(self, put: Put) -> IncomingMessage:
        """Begin to receive a message whose record ``put`` writes."""
        return IncomingMessage(put, self._bodies, self._threads)

    async def remove_bodies(self, names: Iterable[str]) -> None:
        """Remove bodies without a record."""
        if found := list(names):
            await self._threads.run(self._bodies.remove, found)

    def check_unused(self, connection: Connection) -> None:
        """Raises :class:`Failure` while a service has the store open. One process alone can have a file open."""

    def last_number(self, connection: Connection) -> int:
        """The highest number that a message has ever had."""
        raise NotImplementedError

    def continue_from(self, connection: Connection, last: int) -> None:
        """Messages have come from another store: new ones get higher numbers than ``last``."""
        raise NotImplementedError
