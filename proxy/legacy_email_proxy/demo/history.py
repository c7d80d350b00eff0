"""What the demo's page has to show before anything was sent: two weeks of a small office, and mail that waits.

The devices and people are invented. The events are those that the proxy logs, and they go the same way into the file.
"""

from __future__ import annotations

import math
import smtplib
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from ..history.database import FILE_NAME, open_to_write
from ..history.events import Writing
from ..history.facts import Event

__all__ = ("send", "write")

_DAYS = 14
_HOUR = 3600.0
_RECEIPT = "250 2.0.0 OK, it lies in the demo's mailbox"
_DEVICES = (
    ("192.0.2.21", "BRW001122334455", "scanner@example.com"),
    ("192.0.2.22", "KM1A2B3C", "copier@example.com"),
    ("192.0.2.23", "NPI12AB34", "printer@example.com"),
)
"""Address (of a network for documentation), name in EHLO, sender."""
_PANEL, _ERP, _NEW = "192.0.2.40", "192.0.2.50", "192.0.2.24"
_WAITING = (
    ("scanner@example.com", "office@example.org"),
    ("copier@example.com", "archive@busy.example"),
    ("alarm@example.invalid", "guard@example.invalid"),
)
"""Sender and recipient: one that is delivered, one that waits, one that is refused and whose sender can not be told."""
_RECIPIENTS = ("office@example.org", "accounts@example.org", "robin@example.com")


def write(state_dir: Path) -> None:
    """Write it into the history of this ``STATE_DIR``."""
    with closing(open_to_write(state_dir / FILE_NAME)) as connection:
        writing = Writing(connection)
        events = sorted(_events(time.time()), key=lambda event: event.time)
        # As they would have come: of those that come together, refusals that are alike are one row.
        for _, batch in groupby(events, lambda event: event.time // _HOUR):
            writing.write(list(batch))


def send(smtp: tuple[str, int]) -> None:
    """Send what the demo's server delivers, refuses and puts off, so that there is mail in the spool."""
    # The demo may end meanwhile.
    with suppress(OSError), smtplib.SMTP(*smtp, timeout=10, local_hostname="alarm-panel") as client:
        for sender, recipient in _WAITING:
            client.sendmail(
                sender, [recipient], f"From: {sender}\r\nTo: {recipient}\r\nSubject: Alarm\r\n\r\nDoor 2\r\n"
            )


def _events(now: float) -> Iterator[Event]:
    first = now - (_DAYS * 24 - 1) * _HOUR
    for hour in range(_DAYS * 24 - 2):
        moment = first + hour * _HOUR
        at_work = time.localtime(moment).tm_hour in range(7, 19) and time.localtime(moment).tm_wday < 5
        for number in range(round(4 + 3 * math.sin(hour)) if at_work else hour % 5 == 0):
            yield from _scan(moment + number * 500 + hour % 7 * 60, hour + number)
        yield Event(moment, "figures", {
            "spool": (60, 20.0 * (hour % 9 == 0), float(hour % 9 == 0) * 2),
            "smtp_seconds": (10, 3.0 + hour % 11 / 5, 1.5), "pop3_seconds": (4, 0.4 + hour % 5 / 10, 0.3),
        })  # fmt: skip
        yield _event(
            moment + 900, "pop3 session ended", f"p{hour}", _ERP,
            user="erp", messages=3, retrieved=hour % 4, deleted=hour % 4, octets=9000, verdict="quit",
        )  # fmt: skip
    for days, hours in ((9, 2), (4, 5), (0, 3)):
        yield from _wrongly_set(now - days * 24 * _HOUR - hours * _HOUR)
    yield from _refused(now - 1.5 * _HOUR)
    yield from _scan(now - 0.2 * _HOUR, 1)


def _event(moment: float, words: str, session: str, client: str, **facts: Any) -> Event:
    return Event(moment, words, {"session": f"demo-{session}", "client": client, **facts})


def _scan(moment: float, number: int) -> Iterator[Event]:
    """A message that is taken and delivered, as most are."""
    client, name, sender = _DEVICES[number % len(_DEVICES)]
    session, octets = f"s{moment:.0f}", 90_000 + number * 7919 % 800_000
    yield _event(
        moment, "message relayed", session, client, octets=octets, backend=_RECEIPT,
        sender=sender, recipients=[_RECIPIENTS[number % len(_RECIPIENTS)]],
    )  # fmt: skip
    yield _ended(moment + 1, session, client, name, messages=1, octets=octets)


def _ended(moment: float, session: str, client: str, name: str, **facts: Any) -> Event:
    facts = {"helo": name, "messages": 0, "octets": 0, "verdict": "quit", **facts}
    return _event(moment, "smtp session ended", session, client, **facts)


def _wrongly_set(moment: float) -> Iterator[Event]:
    """A new scanner whose login is switched on."""
    session = f"w{moment:.0f}"
    yield _event(
        moment, "smtp command refused", session, _NEW,
        command="AUTH LOGIN", reply="502 5.5.1 Command not implemented",
        advice="it wants to log in: switch its login off, or set SMTP_AUTH=any",
    )  # fmt: skip
    yield _ended(moment + 1, session, _NEW, "RNP002673AABBCC")


def _refused(moment: float) -> Iterator[Event]:
    """An alarm panel with a mistyped recipient."""
    reply = "550 5.1.1 <guard@example.invalid>: no such mailbox"
    session = f"r{moment:.0f}"
    yield _event(
        moment, "message refused", session, _PANEL,
        sender="alarm@example.com", recipients=["guard@example.invalid"], octets=1200, reply=reply, cause=reply,
    )  # fmt: skip
    yield _ended(moment + 1, session, _PANEL, "alarm-panel")
