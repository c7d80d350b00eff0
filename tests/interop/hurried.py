"""The command in a process whose clocks its test puts forward, so that a week passes in seconds.

Both clocks are put forward together, and all code of the process sees it, the event loop too: for the program that time
has passed. What waits in the kernel, such as an event loop with nothing to do, notices at its next wake-up.

    python hurried.py FILE ARGUMENT…      the proxy's command; FILE holds :class:`Clock`'s two numbers
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

__all__ = ("Clock",)

_NUMBERS = struct.Struct("2d")


class Clock:
    """Shared by a test and the processes of its proxy: how far the clocks are put forward, and what they report."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_NUMBERS.size))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _NUMBERS.size)

    @property
    def ahead(self) -> float:
        """Seconds by which the clocks are put forward."""
        return float(_NUMBERS.unpack(self._shared)[0])

    @ahead.setter
    def ahead(self, seconds: float) -> None:
        struct.pack_into("d", self._shared, 0, seconds)

    @property
    def looked(self) -> float:
        """How far they were put forward when the proxy's watch began its last look at everything that has ended."""
        return float(_NUMBERS.unpack(self._shared)[1])

    @looked.setter
    def looked(self, ahead: float) -> None:
        struct.pack_into("d", self._shared, 8, ahead)


def _hurry(clock: Clock) -> None:
    wall, steady, wall_ns = time.time, time.monotonic, time.time_ns
    time.time = lambda: wall() + clock.ahead
    time.monotonic = lambda: steady() + clock.ahead
    # What log lines are dated by from Python 3.13 on.
    time.time_ns = lambda: wall_ns() + int(clock.ahead * 1e9)


def _note_looks(clock: Clock) -> None:
    # Not earlier: whatever is loaded takes the clocks that are there.
    from legacy_email_proxy.alerts.watch import Watch

    turn = Watch.turn

    async def noted(watch: Watch) -> None:
        began = clock.ahead
        await turn(watch)
        clock.looked = began

    Watch.turn = noted  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    shared = Clock(Path(sys.argv[1]))
    _hurry(shared)
    if not sys.argv[2:]:
        _note_looks(shared)
    from legacy_email_proxy.cli import main

    sys.exit(main(sys.argv[2:]))
