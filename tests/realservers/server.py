"""What every real server is to a test: something that runs inside a `with` block, with a log and processes."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from typing import Self

import psutil

from realservers.processes import Daemon, wait_until

_STILL = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
_SECONDS = 30.0


class Server:
    """Its subclass starts it, with a folder and whatever else there must be, and hands all of that over here."""

    def __init__(self) -> None:
        self._daemon: Daemon
        self._running = False
        self._stack = ExitStack()

    def _run(self) -> Daemon:
        """Start it on the ports that it has; its folder is there."""
        raise NotImplementedError

    def _started(self, daemon: Daemon, stack: ExitStack) -> None:
        """It runs as `daemon`. What `stack` would undo is undone when it is stopped, and not before."""
        self._daemon, self._running = daemon, True
        stack.callback(self._end)
        self._stack = stack.pop_all()

    def _end(self) -> None:
        if self._running:
            self._ended()

    def _ended(self) -> None:
        self._running = False
        self._daemon.stop()

    def kill(self) -> None:
        """SIGKILL to all its processes; its folder and its ports stay for `start_again`."""
        self.freeze()  # a server that runs would start more of them meanwhile
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._ended()

    def start_again(self) -> None:
        """On the same ports, with what is on the disk."""
        self._daemon, self._running = self._run(), True

    def freeze(self) -> None:
        """SIGSTOP to all its processes: it keeps its connections, and answers nothing until `thaw`."""
        psutil.Process(self._daemon.pid).suspend()  # first, because it starts the others
        wait_until(self._stand_still, "all its processes stand still", _SECONDS)

    def _stand_still(self) -> bool:
        moving = False
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                if process.status() not in _STILL:
                    # Perhaps a new one, which was being started while the others were stopped.
                    process.suspend()
                    moving = True
        return not moving

    def thaw(self) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        """The leader comes last. Its session alone does not tell: PostgreSQL's others are each in one of their own.

        psutil's `children()` does not tell either: it leaves a child out that seems older than its parent. Ages come
        from the time of the machine's start in whole seconds, and that may change between two looks.
        """
        leader, members = self._daemon.pid, self._daemon.members
        others = [
            each
            for each in psutil.process_iter(["ppid"])
            if each.info["ppid"] == leader or (each.pid in members and each.pid != leader)
        ]
        return [*others, psutil.Process(leader)]

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

    def logged(self, pattern: str, since: int = 0, *, times: int = 1) -> list[str]:
        """What the pattern finds in its log after `since` characters, once it is there so many times.

        Another process writes the log, so a client may have its reply before the line is there.
        """
        found: list[str] = []

        def told() -> bool:
            text = self.log[since:]
            found[:] = re.findall(pattern, text[: text.rfind("\n") + 1])  # the last line may not be whole yet
            return len(found) >= times

        wait_until(told, f"{pattern} is logged {times} times", _SECONDS)
        return found

    @property
    def pids(self) -> list[int]:
        """The ids of its processes."""
        return self._daemon.members
