"""How a figure is taken: contestants in turns, medians, the client's own share of the work, and peaks of memory."""

from __future__ import annotations

import resource
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

import psutil
import pytest

from bench.table import Figures
from realservers.processes import DidNotStart

Work = Callable[[], Sequence[float]]
"""Does a piece of work once and returns the figures that it gave, always in the same order."""

MISSING = (pytest.skip.Exception, pytest.fail.Exception, DidNotStart)
"""What the servers of the tests raise where their program is missing or does not start."""
FAILURES = (*MISSING, OSError, EOFError, RuntimeError, subprocess.SubprocessError)
"""What a contestant that does not manage its work may raise. TimeoutError is an OSError."""
MIB, KIB = 1 << 20, 1 << 10


def compare(
    note: Callable[[str], None],
    ours: Work,
    *,
    rival: Work | None = None,
    limit: Work | None = None,
    rounds: int = 5,
    rival_rounds: int | None = None,
    figures: int = 1,
) -> list[Figures]:
    """Let the contestants work in turns; the result has one entry for each of the `figures` that the work gives.

    A contestant may give fewer of them. Whoever fails once takes no further part, and the note says why.
    """
    contestants = {
        "limit": (limit, rounds),
        "rival": (rival, rounds if rival_rounds is None else rival_rounds),
        "this project": (ours, rounds),
    }
    taken: dict[str, list[Sequence[float]]] = {name: [] for name in contestants}
    shares: list[float] = []
    for turn in range(rounds):
        for name, (work, turns) in contestants.items():
            if work is None or turn >= turns or len(taken[name]) < turn:
                continue
            computing, started = _own_seconds(), time.perf_counter()
            try:
                taken[name].append(work())
            except FAILURES as error:
                note(f"{name} failed: {error!r}")
                taken[name].clear()
                contestants[name] = (None, 0)
            if name == "this project":
                shares.append((_own_seconds() - computing) / (time.perf_counter() - started))
    medians = {name: [statistics.median(each) for each in zip(*taken[name], strict=True)] for name in contestants}
    ours_, rival_, limit_ = (
        [*medians[name], *[None] * (figures - len(medians[name]))] for name in ("this project", "rival", "limit")
    )
    found = []
    for number, three in enumerate(zip(ours_, rival_, limit_, strict=True)):
        beside = [
            [mine[number] / theirs[number] for mine, theirs in zip(taken["this project"], taken[name], strict=False)
             if number < min(len(mine), len(theirs)) and theirs[number]]
            for name in ("rival", "limit")
        ]  # fmt: skip
        found.append(Figures(*three, statistics.median(shares), *beside))
    return found


def _own_seconds() -> float:
    """The time that this process, and those it started and waited for, have computed."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def resident(pid: int) -> Callable[[], float]:
    """Reads the resident memory of a process, in octets."""
    process = psutil.Process(pid)
    return lambda: process.memory_info().rss


def connections_to(pid: int, port: int) -> Callable[[], float]:
    """Counts the connections of a process to that port."""
    process = psutil.Process(pid)
    return lambda: sum(bool(each.raddr) and each.raddr.port == port for each in process.net_connections("tcp"))


class Peak:
    """Within its `with` block, the highest value that was read; `growth` is what it lies above the first one."""

    def __init__(self, read: Callable[[], float], every_seconds: float = 0.005) -> None:
        self.read = read
        self._every_seconds = every_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.before = self.peak = 0.0

    @property
    def growth(self) -> float:
        return self.peak - self.before

    def _sample(self) -> None:
        while not self._done.wait(self._every_seconds):
            self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, self.read())

    def __enter__(self) -> Self:
        self.before = self.peak = self.read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()
