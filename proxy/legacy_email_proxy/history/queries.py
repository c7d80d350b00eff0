"""Questions to the history: entries by device, address, time and state; devices; figures of each hour.

Every query takes an open file of :func:`~.database.open_to_read` and reads one page only. A long answer is many pages:
as long as one query is being read, the writer's own file beside it can't be emptied.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = (
    *("PAGE", "Filter", "changed_since", "device", "devices", "entry", "hours", "last_change", "latest_devices"),
    *("of_session", "samples", "search", "start_of_last", "walk"),
)

PAGE = 500

_RARE = 10_000
"""An address with fewer messages is rare."""

_SESSION_SECONDS = 3600.0
"""A session is not longer: this bounds where its other entries are looked for."""

Entry = dict[str, Any]
"""The columns of one entry that have a value, and ``recipients``: a list of address, state, said and time."""

_INTERNAL = ("changed",)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are meant; what is ``None`` does not matter.

    ``sender`` and ``recipient`` are a whole address, or a part of one where there is nothing before an `@`; an empty
    ``sender`` is the null sender. ``until`` itself is not meant any more.
    """

    client: str | None = None
    account: str | None = None
    sender: str | None = None
    recipient: str | None = None
    since: float | None = None
    until: float | None = None
    kind: str | None = None
    state: str | None = None
    trouble: bool = False

    def conditions(self) -> tuple[list[str], list[object]]:
        """SQL conditions on ``entries AS e`` with their values."""
        sql: list[str] = []
        values: list[object] = []
        for name in ("client", "account", "kind", "state"):
            if (value := getattr(self, name)) is not None:
                sql.append(f"e.{name} = ?")
                values.append(value)
        # Said twice because of the partial indexes: SQLite does not see that the value is another one.
        if self.account and not self.trouble:
            sql.append("e.account != ''")
        if self.kind not in (None, "message"):
            sql.append("e.kind != 'message'")
        if self.sender is not None:
            sql.append(f"e.sender {_address(self.sender)}")
            values.append(_sought(self.sender))
        if self.since is not None:
            sql.append("e.time >= ?")
            values.append(self.since)
        if self.until is not None:
            sql.append("e.time < ?")
            values.append(self.until)
        if self.trouble:
            sql.append("e.trouble")
        return sql, values


def _is_whole(address: str) -> bool:
    return not address or "@" in address[1:]


def _address(address: str) -> str:
    return "COLLATE NOCASE = ?" if _is_whole(address) else r"LIKE ? ESCAPE '\'"


def _has_recipient(address: str) -> str:
    return f"EXISTS (SELECT 1 FROM recipients WHERE entry = e.id AND address {_address(address)})"  # noqa: S608


def _sought(address: str) -> str:
    if _is_whole(address):
        return address
    escaped = address.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return f"%{escaped}%"


def search(
    connection: sqlite3.Connection,
    which: Filter,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = PAGE,
) -> list[Entry]:
    """The newest entries first, from before the entry ``before`` on; or, from after the entry ``after`` on (0: from
    the first), the oldest first. The next page begins at the ``id`` of the last entry of this one.
    """
    sql, values = _query(
        connection, "e.*", which, "before" if after is None else "after", before if after is None else after
    )
    rows = connection.execute(f"{sql} LIMIT ?", (*values, limit)).fetchall()
    return _with_recipients(connection, rows)


def start_of_last(connection: sqlite3.Connection, which: Filter, count: int) -> int:
    """The entry after which ``search(…, after=…)`` gives the last ``count`` entries; 0 if there are no more."""
    sql, values = _query(connection, "e.id", which, "before", None)
    row = connection.execute(f"{sql} LIMIT 1 OFFSET ?", (*values, count)).fetchone()
    return 0 if row is None else int(row[0])


def _query(
    connection: sqlite3.Connection, columns: str, which: Filter, side: str, place: int | None
) -> tuple[str, list[object]]:
    conditions, values = which.conditions()
    table, time, number = "entries AS e", "e.time", "e.id"
    if which.recipient is not None:
        alone = which.client is None and which.account is None and which.sender is None
        if _is_whole(which.recipient) and (alone or _is_rare(connection, which.recipient)):
            # By the index of addresses, which has the order of time itself.
            table = "recipients AS r CROSS JOIN entries AS e ON e.id = r.entry"
            time, number = "r.began", "r.entry"
            conditions.append(f"r.address {_address(which.recipient)}")
        else:
            conditions.append(_has_recipient(which.recipient))
        values.append(_sought(which.recipient))
    order, sign = ("DESC", "<") if side == "before" else ("ASC", ">")
    if place:
        conditions.append(f"({time}, {number}) {sign} ((SELECT time FROM entries WHERE id = ?), ?)")  # noqa: S608
        values += [place, place]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {columns} FROM {table}{where} ORDER BY {time} {order}, {number} {order}", values  # noqa: S608


def _is_rare(connection: sqlite3.Connection, recipient: str) -> bool:
    """Whether it is best to begin with the recipient's messages, and not with those of a device or an account."""
    rows = connection.execute(
        "SELECT 1 FROM recipients WHERE address COLLATE NOCASE = ? LIMIT 1 OFFSET ?", (recipient, _RARE)
    )
    return rows.fetchone() is None


def walk(connection: sqlite3.Connection, which: Filter, after: int = 0) -> Iterator[list[Entry]]:
    """Pages of entries, from the oldest to the newest."""
    while page := search(connection, which, after=after):
        yield page
        after = page[-1]["id"]


def last_change(connection: sqlite3.Connection) -> int:
    """The number of the last change of any entry, for :func:`changed_since`."""
    return int(connection.execute("SELECT coalesce(max(changed), 0) FROM entries").fetchone()[0])


def changed_since(connection: sqlite3.Connection, which: Filter, change: int) -> tuple[list[Entry], int]:
    """Entries that are new or have changed, in this order, and the number to ask with the next time."""
    rows = connection.execute(
        "SELECT id, changed FROM entries WHERE changed > ? ORDER BY changed LIMIT ?", (change, PAGE)
    ).fetchall()
    if not rows:
        # A new file has begun in place of the old one, perhaps.
        return [], min(change, last_change(connection))
    conditions, values = which.conditions()
    if which.recipient is not None:
        conditions.append(_has_recipient(which.recipient))
        values.append(_sought(which.recipient))
    marks = ", ".join("?" * len(rows))
    found = connection.execute(
        f"SELECT e.* FROM entries AS e WHERE {' AND '.join([f'e.id IN ({marks})', *conditions])} ORDER BY e.changed",  # noqa: S608
        (*(row["id"] for row in rows), *values),
    ).fetchall()
    return _with_recipients(connection, found), rows[-1]["changed"]


def _with_recipients(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[Entry]:
    entries = {
        row["id"]: {name: row[name] for name in row.keys() if row[name] is not None and name not in _INTERNAL}  # noqa: SIM118
        for row in rows
    }
    marks = ", ".join("?" * len(entries))
    for each in connection.execute(
        f"SELECT * FROM recipients WHERE entry IN ({marks}) ORDER BY entry, address",  # noqa: S608
        tuple(entries),
    ):
        found = {name: each[name] for name in ("address", "state", "said", "time")}
        entries[each["entry"]].setdefault("recipients", []).append(found)
    return list(entries.values())


def entry(connection: sqlite3.Connection, number: int) -> Entry | None:
    """One entry, by its ``id``."""
    found = _with_recipients(connection, connection.execute("SELECT * FROM entries WHERE id = ?", (number,)).fetchall())
    return found[0] if found else None


def of_session(connection: sqlite3.Connection, one: Entry, limit: int = 50) -> list[Entry]:
    """What else happened in the session of this entry, in the order of time."""
    if not one["session"]:
        return []
    rows = connection.execute(
        "SELECT * FROM entries WHERE client = ? AND time BETWEEN ? AND ? AND session = ? AND id != ?"
        " ORDER BY time, id LIMIT ?",
        (
            one["client"],
            one["time"] - _SESSION_SECONDS,
            one["time"] + _SESSION_SECONDS,
            one["session"],
            one["id"],
            limit,
        ),
    ).fetchall()
    return _with_recipients(connection, rows)


def latest_devices(connection: sqlite3.Connection, limit: int, offset: int = 0) -> list[dict[str, Any]]:
    """Devices, those that came last first."""
    return _devices(connection, "ORDER BY last DESC, client LIMIT ? OFFSET ?", (limit, offset))


def device(connection: sqlite3.Connection, client: str) -> dict[str, Any] | None:
    """The device with this address."""
    return next(iter(_devices(connection, "WHERE client = ?", (client,))), None)


def devices(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """All devices, those that came last at the end; what is not known of one is left out."""
    return _devices(connection, "ORDER BY last", ())


def _devices(connection: sqlite3.Connection, which: str, values: tuple[object, ...]) -> list[dict[str, Any]]:
    rows = connection.execute(f"SELECT * FROM devices {which}", values).fetchall()  # noqa: S608
    return [{name: row[name] for name in row.keys() if row[name] not in (None, "")} for row in rows]  # noqa: SIM118


def hours(connection: sqlite3.Connection, since: float) -> list[dict[str, Any]]:
    """How often each thing happened in each hour, and its octets: for a graph."""
    rows = connection.execute("SELECT * FROM hours WHERE hour >= ? ORDER BY hour, what", (since - since % 3600,))
    return [dict(row) for row in rows]


def samples(connection: sqlite3.Connection, since: float) -> list[dict[str, Any]]:
    """What was measured in each hour: for a graph."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'samples'").fetchone():
        return []
    rows = connection.execute("SELECT * FROM samples WHERE hour >= ? ORDER BY hour, what", (since - since % 3600,))
    return [dict(row) for row in rows]
