"""What every real server is to a test: something that runs inside a `with` block, with a log and processes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

from realservers.processes import Daemon


class Server:
    """Its subclass starts it, with a folder and whatever else there must be, and hands all of that over here."""

    def __init__(self) -> None:
        self._daemon: Daemon
        self._stack = ExitStack()

    def _started(self, daemon: Daemon, stack: ExitStack) -> None:
        """It runs as `daemon`. What `stack` would undo is undone when it is stopped, and not before."""
        self._daemon = daemon
        stack.callback(daemon.stop)
        self._stack = stack.pop_all()

    def stop(self) -> None:
        """Stop it and forget its mail; a second time does nothing."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What it has logged, until it is stopped."""
        return self._daemon.log

    @property
    def pids(self) -> list[int]:
        """The ids of its processes."""
        return self._daemon.members
