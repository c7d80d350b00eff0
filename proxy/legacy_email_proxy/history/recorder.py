"""Keeps the history while the service runs: takes events of the log, and writes them in a thread of its own.

Whoever logs only puts the event into a queue. Whatever happens to the file (a full or hanging disk, a folder that can
not be written, a damaged file) costs entries of the history and nothing else: no session waits for it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import log
from ..settings import Settings
from .database import FILE_NAME, TooNew, is_damage, open_to_write, set_aside, trim
from .events import WORDS, Writing
from .facts import Event

__all__ = ("Recorder", "recording")

_log = logging.getLogger("legacy_email_proxy.history")

MOST_QUEUED = 20_000
"""Events that wait to be written, each recipient counted as one more; what does not fit is lost, counted and told."""

_TOGETHER_SECONDS = 0.5
"""So long events are collected: one transaction for all of them costs little more than one for each."""

_AGAIN_SECONDS = 60.0
"""When to try again after the file could not be written."""

_TRIM_SECONDS = 60.0

_IDLE_SECONDS = 3600.0
"""So often old entries are removed when nothing happens."""

_LEAVING_SECONDS = 1.0
"""How long the end of the service waits for what is still queued."""

_DAY_SECONDS = 86400


@contextmanager
def recording(settings: Settings) -> Iterator[None]:
    """Keep the history inside of this block, unless the settings have switched it off."""
    if not settings["HISTORY_DAYS"]:
        yield
        return
    recorder = Recorder(settings["STATE_DIR"] / FILE_NAME, settings["HISTORY_DAYS"])
    log.observe(recorder, log.FIGURES)
    try:
        yield
    finally:
        log.unobserve(recorder)
        recorder.close()


class Recorder(log.Observer):
    """Takes what is logged; :meth:`close` writes what is still queued and ends the thread."""

    def __init__(self, path: Path, days: int) -> None:
        super().__init__()
        self._path = path
        self._days = days
        self._events: deque[Event] = deque()
        self._queued = self._lost = 0
        self._queue = threading.Lock()
        self._something = threading.Event()
        self._ending = threading.Event()
        self._file: _File | None = None
        self._broken = False
        self._again = float("-inf")
        # Not waited for at the end of the process: it may hang in a write.
        self._thread = threading.Thread(target=self._write_all, name="history", daemon=True)
        self._thread.start()

    def take(self, record: logging.LogRecord) -> None:
        """Queue the event, if the history is about it."""
        words = record.msg
        if words not in WORDS:
            return
        facts = log.facts_of(record)
        recipients = facts.get("recipients")
        weight = 1 + (len(recipients) if isinstance(recipients, (list, tuple)) else 0)
        with self._queue:
            if self._queued + weight > MOST_QUEUED:
                self._lost += 1
                first_lost = self._lost == 1
            else:
                self._queued += weight
                self._events.append(Event(record.created, words, facts, record.levelno))
                first_lost = False
        if first_lost:
            log.event(_log, logging.WARNING, "history not written", cause="the disk is too slow", see="STATE_DIR")
        elif not self._something.is_set():
            self._something.set()

    def close(self) -> None:
        """Wait for a moment until all is written."""
        super().close()
        self._ending.set()
        self._something.set()
        self._thread.join(_LEAVING_SECONDS)

    def _write_all(self) -> None:
        more = True
        while not self._ending.is_set():
            if not more:
                self._something.wait(_IDLE_SECONDS)
                self._ending.wait(_TOGETHER_SECONDS)
            self._something.clear()
            more = self._write(self._take())
        self._write(self._take())
        self._close_file()

    def _take(self) -> list[Event]:
        with self._queue:
            taken = list(self._events)
            self._events.clear()
            self._queued = 0
        return taken

    def _write(self, events: list[Event]) -> bool:
        """Write the events, or count them as lost; whether there is more to remove from the file."""
        for damaged_before in (False, True):
            try:
                return self._written(events)
            except (OSError, sqlite3.Error, TooNew) as error:
                self._close_file()
                if damaged_before or not is_damage(error) or not self._set_aside(error):
                    self._tell_broken(error)
                    break
            except Exception as error:
                self._close_file()
                log.failure(_log, "history not written", error)
                break
        self._broken = True
        self._again = time.monotonic() + _AGAIN_SECONDS
        self._lose(events)
        return False

    def _written(self, events: list[Event]) -> bool:
        if self._file is None:
            if time.monotonic() < self._again:
                self._lose(events)
                return False
            self._file = _File(self._path)
        if events:
            self._file.writing.write(events)
        more = self._file.trim(time.time() - self._days * _DAY_SECONDS)
        with self._queue:
            lost, self._lost = self._lost, 0
        if self._broken or lost:
            self._broken = False
            log.event(_log, logging.WARNING, "history written again", lost=lost)
        if self._file.is_gone(self._path):
            self._close_file()
            return True
        return more

    def _lose(self, events: list[Event]) -> None:
        with self._queue:
            self._lost += len(events)

    def _set_aside(self, error: Exception) -> bool:
        try:
            aside = set_aside(self._path)
        except OSError:
            return False
        log.event(_log, logging.ERROR, "history damaged: a new one is begun", cause=error, kept_as=aside)
        return True

    def _tell_broken(self, error: Exception) -> None:
        if not self._broken:
            cause = f"{self._path}: {getattr(error, 'strerror', None) or error}"
            log.event(_log, logging.WARNING, "history not written", cause=cause, see="STATE_DIR, HISTORY_DAYS")

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(sqlite3.Error):
                self._file.connection.close()
            self._file = None


class _File:
    """The file while it is open."""

    def __init__(self, path: Path) -> None:
        self.connection = open_to_write(path)
        self.writing = Writing(self.connection)
        self._number = path.stat().st_ino
        self._trimmed = float("-inf")

    def trim(self, oldest: float) -> bool:
        """Remove some of what is old or too much, once a minute or until all of it is gone."""
        if time.monotonic() - self._trimmed < _TRIM_SECONDS:
            return False
        more = trim(self.connection, oldest)
        if not more:
            self._trimmed = time.monotonic()
        return more

    def is_gone(self, path: Path) -> bool:
        """Whether somebody has removed it, or put another one in its place."""
        try:
            return path.stat().st_ino != self._number
        except FileNotFoundError:
            return True
