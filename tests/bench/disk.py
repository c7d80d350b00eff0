"""The physical limit of a spool: the same octets, written to the same disk and synced, and nothing else done."""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from realservers.processes import short_folder


def durable(*, count: int, octets: int, writers: int) -> float:
    """Messages that are on disk per second: a file each with its own sync, or a sync for all writers; what is more."""
    with short_folder("bench-disk-") as folder:
        begun = time.perf_counter()
        waits(folder, count=count, octets=octets, writers=writers)
        each_alone = count / (time.perf_counter() - begun)
        return max(each_alone, count / _grouped(folder, count=count, octets=octets, writers=writers))


def waits(folder: Path, *, count: int, octets: int, writers: int) -> list[float]:
    """The seconds that each message takes, all writers at work, with a file of its own and the sync of that."""
    content = os.urandom(octets)

    def write(_: int) -> float:
        begun = time.perf_counter()
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
            return time.perf_counter() - begun

    with ThreadPoolExecutor(writers) as threads:
        return list(threads.map(write, range(count)))


def _grouped(folder: Path, *, count: int, octets: int, writers: int) -> float:
    """The seconds that it takes by the group: one message of each writer, then one sync for them all."""
    content = os.urandom(octets * writers)
    begun = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(-(-count // writers)):
            file.write(content)
            os.fdatasync(file.fileno())
    return time.perf_counter() - begun
