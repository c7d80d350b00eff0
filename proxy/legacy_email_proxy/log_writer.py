"""The thread that writes the log's lines, and what it leaves out.

A log reader that stalls would otherwise stop every session, as the system lets a write to its full pipe wait. What does
not fit into the queue meanwhile is dropped, counted and said. Of one kind at most ten lines a second are written, and
then how many more there were, so that whoever knocks a thousand times a second does not fill the disk. What became of a
message is always written.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque

__all__ = ("MAX_LINES_A_SECOND", "MAX_QUEUED_OCTETS", "Writer")

MAX_LINES_A_SECOND = 10
"""Of one kind, that is with the same words."""

MAX_QUEUED_OCTETS = 1 << 20
"""What waits for a log reader; the rest is dropped."""

_FATES = ("message ", "messages ", "recipient")
"""How the words begin that tell what became of a message."""

_TOGETHER_SECONDS = 0.025
"""So long lines are collected before they are written: a thread that wakes for each costs more than the line."""

_LEAVING_SECONDS = 1.0
"""How long the end of the process waits for the log reader."""


class _Kinds:
    """How often something of each kind was said in this second, and how much of it was not written."""

    def __init__(self) -> None:
        self._second = 0
        self._written: dict[tuple[str, int, str], int] = {}
        self._more: dict[tuple[str, int, str], int] = {}

    def too_many(self, record: logging.LogRecord) -> bool:
        """Count the record; whether it is one too many of its kind."""
        if record.levelno <= logging.DEBUG or not isinstance(record.msg, str) or record.msg.startswith(_FATES):
            return False
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._written.clear()
        kind = (record.name, record.levelno, record.msg)
        self._written[kind] = self._written.get(kind, 0) + 1
        if self._written[kind] <= MAX_LINES_A_SECOND:
            return False
        self._more[kind] = self._more.get(kind, 0) + 1
        return True

    @property
    def unsaid(self) -> bool:
        """Whether there was more than was written."""
        return bool(self._more)

    def take(self) -> list[logging.LogRecord]:
        """A record for each kind of which there was more than was written."""
        more, self._more = self._more, {}
        return [_record(*kind, {"and_more": count}) for kind, count in more.items()]


def _record(name: str, level: int, words: str, facts: dict[str, object]) -> logging.LogRecord:
    attributes = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": words}
    return logging.makeLogRecord({**attributes, "facts": facts})


class Writer(logging.Handler):
    """Writes lines to standard error, and never lets who logs wait for that."""

    def __init__(self) -> None:
        super().__init__()
        # Not the handler's own lock: that one is held while the end of the process waits in flush().
        self._queue = threading.RLock()
        self._kinds = _Kinds()
        self._lines: deque[bytes] = deque()
        self._queued = self._dropped = 0
        self.dropped = 0
        """How many lines were dropped since the start."""
        self._something = threading.Event()
        self._written = threading.Event()
        self._written.set()
        # Not waited for at the end of the process: it may hang in a write.
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line."""
        with self._queue:
            if self._kinds.too_many(record):
                self._wake()
                return
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        with self._queue:
            self._put(line)

    def _put(self, line: str) -> None:
        octets = line.encode("utf-8", "backslashreplace") + b"\n"
        if self._queued + len(octets) > MAX_QUEUED_OCTETS:
            self._dropped += 1
            self.dropped += 1
            return
        self._queued += len(octets)
        self._lines.append(octets)
        self._wake()

    def _wake(self) -> None:
        self._written.clear()
        if not self._something.is_set():
            self._something.set()

    def _write_all(self) -> None:
        summed_up = time.monotonic()
        while True:
            self._something.wait()
            self._something.clear()
            with self._queue:
                if time.monotonic() - summed_up >= 1:
                    summed_up = time.monotonic()
                    self._sum_up()
                octets = b"".join(self._lines)
                self._lines.clear()
                more = self._kinds.unsaid
            try:
                rest = memoryview(octets)
                while rest:
                    rest = rest[os.write(sys.stderr.fileno(), rest) :]
            except (OSError, ValueError):
                pass  # Nobody will ever read it.
            with self._queue:
                self._queued -= len(octets)
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    words = "log lines dropped, because the log was not read"
                    self._put(self.format(_record(__name__, logging.WARNING, words, {"lines": dropped})))
                if more:
                    self._something.set()
                elif not self._lines:
                    self._written.set()
            # The first line is written at once, and those that come in a crowd behind it together.
            time.sleep(_TOGETHER_SECONDS)

    def _sum_up(self) -> None:
        for record in self._kinds.take():
            self._put(self.format(record))

    def flush(self) -> None:
        """Wait for a moment until what was logged is written. At the end of the process, and not in a session."""
        with self._queue:
            self._sum_up()
        self._written.wait(_LEAVING_SECONDS)
