"""A history in a temporary folder, events as the proxy logs them, and what a reader of the file gets."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from legacy_email_proxy.history.database import open_to_read, open_to_write
from legacy_email_proxy.history.events import Writing
from legacy_email_proxy.history.facts import Event
from legacy_email_proxy.history.queries import Filter, devices, search

CLIENT = "192.168.1.40"
SESSION = "s7kq2m-15"
SENDER = "scan@firm.example"
ANN, BOB = "ann@firm.example", "bob@firm.example"
NOON = 1_767_268_800.0
"""A full hour."""


def event(words: str, time: float = NOON, level: int = logging.INFO, **facts: Any) -> Event:
    """An event of one session of one device, unless the facts say otherwise."""
    return Event(time, words, {"session": SESSION, "client": CLIENT, **facts}, level)


def relayed(time: float = NOON, *recipients: str, **facts: Any) -> Event:
    known = {
        "sender": SENDER,
        "recipients": [*(recipients or (ANN,))],
        "octets": 1000,
        "backend": "250 2.0.0 Ok: queued",
    }
    return event("message relayed", time, **{**known, **facts})


def spooled(*recipients: str, **facts: Any) -> Event:
    known = {"sender": SENDER, "recipients": [*(recipients or (ANN,))], "octets": 1000, "queue_id": "12", "backend": ""}
    return event("message spooled", **{**known, **facts})


def written(path: Path, *batches: Iterable[Event]) -> None:
    """Write the batches of events into the file, one transaction each."""
    with closing(open_to_write(path)) as connection:
        writing = Writing(connection)
        for batch in batches:
            writing.write(list(batch))


def entries(path: Path, which: Filter | None = None) -> list[dict[str, Any]]:
    """The entries, the oldest first."""
    with closing(open_to_read(path)) as connection:
        return search(connection, which or Filter(), after=0)


def devices_of(path: Path) -> list[dict[str, Any]]:
    with closing(open_to_read(path)) as connection:
        return devices(connection)
