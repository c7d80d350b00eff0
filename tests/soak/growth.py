"""Whether a process grows: its memory, descriptors and threads, sampled, and a straight line through them."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field

import psutil

from abuse.measure import MIB
from soak.proxies import Proxy

HOUR = 3600.0
LEAST_SAMPLES = 10
LEAST_SECONDS = 300.0
"""What a process does in less is the filling of its caches and pools."""
WARM_UP = 0.1
"""The part of the run before a process is looked at: caches and pools fill."""
SETTLE_SECONDS = 600.0
"""At least so long, or half of a shorter life. The C library keeps some of the memory that was freed, and that takes
about ten minutes to level off, while the objects in use stay the same."""


@dataclass(frozen=True)
class Limit:
    """What is too much: so much an hour, which only counts if it came to more than the noise within the run."""

    an_hour: float
    noise: float


LIMITS = {"memory MiB": Limit(12, 8), "descriptors": Limit(10, 8), "threads": Limit(5, 4)}


@dataclass
class Life:
    """One process, from its start to its end."""

    pid: int
    began: float
    samples: list[tuple[float, tuple[float, ...]]] = field(default_factory=list)


@dataclass(frozen=True)
class Slope:
    what: str
    an_hour: float
    seconds: float
    """How long a time the line covers."""
    first: float
    last: float
    peak: float

    @property
    def too_much(self) -> bool:
        limit = LIMITS[self.what]
        return (
            self.seconds >= LEAST_SECONDS
            and self.an_hour > limit.an_hour
            and self.an_hour * self.seconds / HOUR > limit.noise
        )

    def __str__(self) -> str:
        return f"{self.an_hour:+.1f}/h ({self.first:.0f} → {self.last:.0f}, peak {self.peak:.0f})"


class Growth:
    """Samples a proxy's process until it is stopped; another process begins a new life."""

    def __init__(self, proxy: Proxy, every: float) -> None:
        self._proxy = proxy
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.lives: list[Life] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(self._every):
            pid, now = self._proxy.pid, time.monotonic()
            if not self.lives or self.lives[-1].pid != pid:
                self.lives.append(Life(pid, now))
            try:
                process = psutil.Process(pid)
                values = process.memory_info().rss / MIB, float(process.num_fds()), float(process.num_threads())
            except psutil.Error:
                continue  # it died just now
            self.lives[-1].samples.append((now, values))

    def slopes(self, run_seconds: float) -> list[Slope]:
        """Of the last life, without its first part; none if that was too short to say anything."""
        if not self.lives:
            return []
        life = self.lives[-1]
        ended = life.samples[-1][0] if life.samples else life.began
        first = life.began + max(WARM_UP * run_seconds, min(SETTLE_SECONDS, (ended - life.began) / 2))
        samples = [each for each in life.samples if each[0] >= first]
        if len(samples) < LEAST_SAMPLES:
            return []
        times = [when for when, _ in samples]
        return [
            Slope(
                what=what,
                an_hour=statistics.linear_regression(times, [values[column] for _, values in samples]).slope * HOUR,
                seconds=times[-1] - times[0],
                first=samples[0][1][column],
                last=samples[-1][1][column],
                peak=max(values[column] for _, values in life.samples),
            )
            for column, what in enumerate(LIMITS)
        ]
