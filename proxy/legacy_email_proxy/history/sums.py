"""What one batch of events adds to the devices and to the figures of each hour: summed up first, as most of a batch is
about few of them.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass

from .facts import Event, said, text

__all__ = ("Sums",)


@dataclass(slots=True)
class _Device:
    """What is new of a device in one batch."""

    first: float
    last: float
    helo: str = ""
    success: float | None = None
    trouble: float | None = None
    trouble_text: str = ""
    advice: str = ""
    messages: int = 0
    octets: int = 0
    refusals: int = 0
    pop3_sessions: int = 0
    retrieved: int = 0
    deleted: int = 0


_DEVICE = """
INSERT INTO devices VALUES (:client, :helo, :first, :last, :success, :trouble, :trouble_text, :advice,
    :messages, :octets, :refusals, :pop3_sessions, :retrieved, :deleted)
ON CONFLICT (client) DO UPDATE SET
    helo = CASE WHEN excluded.helo = '' THEN helo ELSE excluded.helo END,
    last = max(last, excluded.last),
    success = coalesce(excluded.success, success),
    trouble_text = CASE WHEN excluded.trouble IS NULL THEN trouble_text ELSE excluded.trouble_text END,
    advice = CASE WHEN excluded.trouble IS NULL THEN advice ELSE excluded.advice END,
    trouble = coalesce(excluded.trouble, trouble),
    messages = messages + excluded.messages, octets = octets + excluded.octets,
    refusals = refusals + excluded.refusals, pop3_sessions = pop3_sessions + excluded.pop3_sessions,
    retrieved = retrieved + excluded.retrieved, deleted = deleted + excluded.deleted
"""


class Sums:
    """The sums of one batch."""

    def __init__(self) -> None:
        self._devices: dict[str, _Device] = {}
        self._hours: Counter[tuple[int, str]] = Counter()
        self._octets: Counter[tuple[int, str]] = Counter()
        self._samples: list[tuple[int, str, int, float, float]] = []

    def device(self, event: Event) -> _Device | None:
        """The device of the event, if it has one."""
        client = text(event.facts.get("client"))
        if not client:
            return None
        device = self._devices.get(client)
        if device is None:
            device = self._devices[client] = _Device(event.time, event.time)
        device.last = max(device.last, event.time)
        return device

    def trouble(self, event: Event, words: str) -> None:
        """It is the last trouble of the device."""
        device = self.device(event)
        if device is not None:
            why = said(event.facts)
            device.trouble = event.time
            device.trouble_text = f"{words}: {why}" if why else words
            device.advice = text(event.facts.get("advice"))

    def count(self, event: Event, what: str, times: int = 1, octets: int = 0) -> None:
        """It happened in this hour."""
        if times:
            hour = int(event.time) // 3600 * 3600
            self._hours[hour, what] += times
            self._octets[hour, what] += octets

    def sample(self, event: Event, what: str, times: int, total: float, highest: float) -> None:
        """It was measured so often in this hour."""
        self._samples.append((int(event.time) // 3600 * 3600, what, times, total, highest))

    def write(self, connection: sqlite3.Connection) -> None:
        """Add the sums to those of the file."""
        for client, device in self._devices.items():
            values = {name: getattr(device, name) for name in _Device.__slots__}
            connection.execute(_DEVICE, {"client": client, **values})
        connection.executemany(
            "INSERT INTO hours VALUES (?, ?, ?, ?) ON CONFLICT (hour, what) DO UPDATE SET"
            " times = times + excluded.times, octets = octets + excluded.octets",
            [(*key, times, self._octets[key]) for key, times in self._hours.items()],
        )
        connection.executemany(
            "INSERT INTO samples VALUES (?, ?, ?, ?, ?) ON CONFLICT (hour, what) DO UPDATE SET"
            " times = times + excluded.times, total = total + excluded.total, highest = max(highest, excluded.highest)",
            self._samples,
        )
