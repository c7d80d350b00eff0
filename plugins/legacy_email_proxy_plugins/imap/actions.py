r"""What is done to several messages of the selected folder at once, by UID; in the worker thread.

Commands name UIDs in lines of bounded length, so that no server hangs up on a long one; a message that is gone already
does not matter to any of them. Attributes are asked for with FETCH, one line per message: servers differ in the
SEARCHes that they know, and the answer to one is a single line of any length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from .connection import Connection
from .listing import uid_sets
from .responses import Value, number

__all__ = ("DELETED", "Attributes", "attributes", "copy", "expunge", "find_trash", "move", "set_flags")

DELETED = r"\Deleted"

_BATCH = 5000
_ROW_OCTETS = 1024
_ANSWER_OCTETS = 262_144

_DATE = re.compile(rb" ?([ \d]?\d)-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_MONTHS = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")


def set_flags(connection: Connection, uids: Collection[int], *flags: str) -> None:
    """Add ``flags`` to these messages, all of them in one step."""
    for uid_set in uid_sets(uids):
        connection.change("mark messages", "STORE", uid_set, "+FLAGS.SILENT", f"({' '.join(flags)})")


def expunge(connection: Connection, uids: Collection[int]) -> None:
    r"""Remove those of these messages that are marked \Deleted (RFC 4315 §2.1); needs UIDPLUS."""
    for uid_set in uid_sets(uids):
        connection.change("expunge messages", "EXPUNGE", uid_set)


def move(connection: Connection, uids: Collection[int], folder: bytes) -> None:
    """Move these messages (RFC 6851); needs MOVE. ``folder`` is one that :func:`find_trash` gave."""
    for uid_set in uid_sets(uids):
        connection.change("move messages", "MOVE", uid_set, folder=folder)


def copy(connection: Connection, uids: Collection[int], folder: bytes) -> None:
    """Copy these messages, all of a line's or none of them (RFC 9051 §6.4.7)."""
    for uid_set in uid_sets(uids):
        connection.change("copy messages", "COPY", uid_set, folder=folder)


def find_trash(connection: Connection) -> bytes | None:
    r"""The folder with the attribute \Trash (RFC 6154), as the server calls it; never one that is only called so."""
    if "SPECIAL-USE" in connection.capabilities and "LIST-EXTENDED" in connection.capabilities:
        listed = connection.folders("LIST", "RETURN (SPECIAL-USE)")
    elif "SPECIAL-USE" not in connection.capabilities and "XLIST" in connection.capabilities:
        listed = connection.folders("XLIST")
    else:
        listed = connection.folders("LIST")
    for flags, name in listed:
        if rb"\trash" in flags and not flags & {rb"\noselect", rb"\nonexistent"}:
            return name
    return None


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of one message; ``arrived`` is its INTERNALDATE, ``None`` if the server did not tell a date."""

    flags: frozenset[bytes]
    arrived: datetime | None


def attributes(
    connection: Connection, uids: Sequence[int], *items: str, note: Callable[[str], None]
) -> Iterator[tuple[int, Attributes | None]]:
    """Flags (in lower case) and date of the messages in the order of ``uids``, which ascend; others may come, too.

    ``items`` are those of FETCH to ask for: ``FLAGS``, ``INTERNALDATE``. Where the server can't tell all of them,
    ``note`` is told why, and ``None`` comes for each message that may be meant.
    """
    for start in range(0, len(uids), _BATCH):
        batch = uids[start : start + _BATCH]
        octets = _ANSWER_OCTETS + _ROW_OCTETS * len(batch)
        uid_set, doing = f"{batch[0]}:{batch[-1]}", "look at the messages"
        fetched = connection.attributes(doing, uid_set, f"(UID {' '.join(items)})", octets)
        told: set[tuple[int, str]] = set()
        for row in fetched.rows:
            if (uid := number(row.get("UID"))) is not None:
                told.update((uid, item) for item in row)
                yield uid, Attributes(_lowered(row.get("FLAGS")), _arrived(row.get("INTERNALDATE")))
        if fetched.fault:
            note(fetched.fault)
            yield from ((uid, None) for uid in batch for item in items if (uid, item) not in told)


def _lowered(flags: Value) -> frozenset[bytes]:
    names = flags if isinstance(flags, tuple) else ()
    # InterMail puts some into quotes.
    octets = (flag.encode("latin-1") if isinstance(flag, str) else flag for flag in names)
    return frozenset(flag.lower() for flag in octets if isinstance(flag, bytes))


def _arrived(date: Value) -> datetime | None:
    match = _DATE.fullmatch(date) if isinstance(date, bytes) else None
    if match is None:
        return None
    day, month, year, hour, minute, second, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == b"-" else 1)
    try:
        month_number = _MONTHS.index(month.lower()) + 1
        return datetime(
            int(year), month_number, int(day), int(hour), int(minute), min(int(second), 59), tzinfo=timezone(offset)
        )
    except ValueError:
        return None
