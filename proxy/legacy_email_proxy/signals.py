"""The signals that the process receives, and work that one of them may end.

anyio's receiver loses the next signal when the wait for it is given up. Here it can be given up: the start of the
service waits for its plugins and for a signal, whichever comes first.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

__all__ = ("Signals", "Stopped")

_Result = TypeVar("_Result")


class Stopped(Exception):
    """A signal to stop came before the work was done."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class Signals:
    """Receives these signals while it is entered. Enter it in the event loop, before anything that takes long."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self._received: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def __enter__(self) -> Self:
        for number in self._numbers:
            asyncio.get_running_loop().add_signal_handler(number, self._received.put_nowait, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._numbers:
            asyncio.get_running_loop().remove_signal_handler(number)

    def stop(self) -> None:
        """As if SIGTERM had come: whoever runs the service inside of another command ends it so."""
        self._received.put_nowait(signal.SIGTERM)

    async def next(self) -> signal.Signals:
        """The next signal."""
        return await self._received.get()

    async def unless_stopped(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do ``work``. If a signal to stop comes first, ``work`` is cancelled, and :class:`Stopped` raised as soon as
        it has ended, or at the next signal to stop. A SIGHUP meanwhile is kept for :meth:`next`.
        """
        hangups: list[signal.Signals] = []
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stop(hangups))
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                if stopping.done():
                    self._received.put_nowait(stopping.result())
                return working.result()
            number = stopping.result()
            working.cancel()
            stopping = asyncio.create_task(self._stop(hangups))
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            raise Stopped(number)
        finally:
            working.cancel()
            stopping.cancel()
            for hangup in hangups:
                self._received.put_nowait(hangup)

    async def _stop(self, hangups: list[signal.Signals]) -> signal.Signals:
        while (number := await self.next()) == signal.SIGHUP:
            hangups.append(number)
        return number
