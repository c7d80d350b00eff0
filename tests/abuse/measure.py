"""What an attack costs: the honest client's worst time, memory, descriptors, the log; and what counts as too much."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import psutil

MIB = 1 << 20
SERVED_SECONDS = 1.0
MEMORY_PEAK = 128 * MIB
"""By how much an attack within all limits may swell the process while it lasts …"""
MEMORY_KEPT = 48 * MIB
"""… and afterwards: what the allocator does not give back, and no more."""
DESCRIPTORS_KEPT = 25
"""The connections to the backend, which stay open for the next client."""
LINES_A_SECOND = 20
"""Ten in any second can be twenty in a second of the clock, where two of the limiter's windows meet."""


class Watch:
    """Samples a process while it is attacked."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.memory = self.memory_peak = self.descriptors = self.descriptors_peak = 0

    def __enter__(self) -> Self:
        self.memory, self.descriptors = self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def look(self) -> tuple[int, int]:
        """Resident memory and open descriptors now; zero where the process is gone."""
        try:
            now = self._process.memory_info().rss, self._process.num_fds()
        except psutil.Error:
            return 0, 0
        self.memory_peak = max(self.memory_peak, now[0])
        self.descriptors_peak = max(self.descriptors_peak, now[1])
        return now

    def _sample(self) -> None:
        while not self._ended.wait(0.05):
            self.look()


_LINE = re.compile(r"(\S+T\d\d:\d\d:\d\d)\S* (\S+ .*)")
_RECORD = re.compile(r"\w+ message (relayed|spooled)\b")
"""One line for each message that was taken is what the log is for; whoever sends mail has asked for it."""
_FACT = re.compile(r" [a-z_0-9]+=")


def log_rate(log: str, honest: str) -> tuple[int, str]:
    """The most lines of one kind in one second, and that kind. The honest client's own are not counted."""
    kinds: Counter[tuple[str, str]] = Counter()
    second = ""
    for line in log.splitlines():
        found = _LINE.match(line)
        if found:
            second = found[1]
        if f"client={honest} " in f"{line} " or (found and _RECORD.match(found[2])):
            continue
        kinds[second, _FACT.split(found[2], maxsplit=1)[0] if found else "(lines of a traceback)"] += 1
    if not kinds:
        return 0, ""
    (_, kind), most = kinds.most_common(1)[0]
    return most, kind


@dataclass
class Row:
    """The result of one attack; `faults` are the reasons for the verdict BAD."""

    attack: str
    sessions: int = 0
    failed: int = 0
    worst: float = 0.0
    machine: float = 0.0
    memory: tuple[int, int, int] = (0, 0, 0)
    descriptors: tuple[int, int, int] = (0, 0, 0)
    log_octets: int = 0
    log_lines: int = 0
    log_kind: str = ""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "BAD" if self.faults else "ok"

    def honest(self, told: list[dict[str, Any]], began: float, allowed: float, legs: Collection[str]) -> None:
        """What the honest client met from the beginning of the attack on."""
        met = [each for each in told if each["began"] + each["seconds"] >= began]
        self.machine = max((each["seconds"] for each in met if each["leg"] == "machine"), default=0.0)
        for leg in ("smtp", "pop3", "admin"):
            held = [each for each in met if each["leg"] == leg]
            if leg in legs and not held:
                self.faults.append(f"no honest {leg} session was held, so nothing is shown")
            self.sessions += len(held)
            failures = [each for each in held if each["said"]]
            self.failed += len(failures)
            worst = max((each["seconds"] for each in held), default=0.0)
            self.worst = max(self.worst, worst)
            # What the machine was late, four times over: a session is a handful of round trips.
            if worst > allowed + 4 * self.machine:
                self.faults.append(f"honest {leg} waited {worst:.1f} s")
            if failures:
                self.faults.append(
                    f"{len(failures)} of {len(held)} honest {leg} sessions failed: {failures[0]['said'][:80]}"
                )

    def process(self, watch: Watch, after: tuple[int, int]) -> None:
        self.memory = (watch.memory, watch.memory_peak, after[0])
        self.descriptors = (watch.descriptors, watch.descriptors_peak, after[1])
        if watch.memory_peak - watch.memory > MEMORY_PEAK:
            self.faults.append(f"memory grew by {(watch.memory_peak - watch.memory) / MIB:.0f} MiB")
        elif after[0] - watch.memory > MEMORY_KEPT:
            self.faults.append(f"{(after[0] - watch.memory) / MIB:.0f} MiB did not come back")
        if after[1] - watch.descriptors > DESCRIPTORS_KEPT:
            self.faults.append(f"{after[1] - watch.descriptors} descriptors did not come back")

    def log(self, text: str, honest: str) -> None:
        self.log_octets = len(text)
        self.log_lines, self.log_kind = log_rate(text, honest)
        if self.log_lines > LINES_A_SECOND:
            self.faults.append(f"{self.log_lines} log lines a second of '{self.log_kind}'")
        if tracebacks := text.count("Traceback (most recent call last)"):
            self.faults.append(f"{tracebacks} tracebacks")

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


HEAD = ("attack", "worst s", "sessions", "memory MiB", "descriptors", "log octets", "lines/s", "verdict")


def table(rows: list[Row]) -> str:
    """The rows, as text in columns; below them what the verdicts and notes say."""
    cells = [HEAD] + [
        (
            row.attack, f"{row.worst:.2f}", f"{row.sessions - row.failed}/{row.sessions}",
            "/".join(f"{each / MIB:.0f}" for each in row.memory), "/".join(map(str, row.descriptors)),
            str(row.log_octets), str(row.log_lines), row.verdict,
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    for row in rows:
        lines += [f"  {row.attack}: {text}" for text in (*(f"BAD, {fault}" for fault in row.faults), *row.notes)]
    return "\n".join(lines)
