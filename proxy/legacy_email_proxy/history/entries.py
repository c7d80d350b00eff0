"""The entries that a batch of events adds or changes: they are changed in memory, and written together at its end.

One statement writes many rows. For each statement the thread lets go of Python's lock and has to get it back from the
sessions, so one for each row would cost them more than the history is worth. What is new in the batch is not even read:
most messages in a spool are delivered before the batch in which they came is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, TypeVar

__all__ = ("Entries", "Entry")


class _Recipient(NamedTuple):
    """A row of ``recipients``, without the entry and the address."""

    began: float
    state: str
    said: str
    time: float


@dataclass(slots=True, eq=False)
class Entry:
    """A row of ``entries``, with its recipients. After a change, call :meth:`Entries.change`."""

    id: int
    changed: int
    kind: str
    leg: str
    time: float
    state: str
    trouble: bool
    client: str
    session: str
    account: str
    sender: str | None
    octets: int | None
    command: str | None
    login: str | None
    reply: str | None
    cause: str | None
    advice: str | None
    backend: str | None
    queue_id: str | None
    settled: float | None
    retrieved: int | None
    deleted: int | None
    times: int = 1
    recipients: dict[str, _Recipient] = field(default_factory=dict)
    written: dict[str, _Recipient] | None = None
    """Its recipients as the file has them, if it was read."""

    def tell(self, address: str, state: str, said: str, time: float) -> None:
        """What became of one recipient, who may be a new one."""
        known = self.recipients.get(address)
        self.recipients[address] = _Recipient(self.time if known is None else known.began, state, said, time)

    @property
    def states(self) -> set[str]:
        """The states that its recipients have."""
        return {each.state for each in self.recipients.values()}


_COLUMNS = tuple(each.name for each in fields(Entry) if each.name not in ("recipients", "written"))
_values = attrgetter(*_COLUMNS)
_CHANGING = ("changed", "time", "state", "trouble", "client", "octets", "cause", "backend", "settled", "times")
"""The columns of an entry that may become others later."""

_NAMES = ", ".join(_COLUMNS)
_WRITE_ENTRIES = (
    f"INSERT INTO entries ({_NAMES}) VALUES",
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _CHANGING)}",
)
_WRITE_RECIPIENTS = "INSERT OR REPLACE INTO recipients (entry, address, began, state, said, time) VALUES", ""

_Row = TypeVar("_Row")

_ROWS = (32, 4, 1)
"""How many rows one statement may write: few numbers, as SQLite keeps the statements that it has seen."""


class Entries:
    """The entries of one batch, from :meth:`begin` to :meth:`write`, inside of the transaction that writes it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._last = self._changed = 0
        self._known: dict[int, Entry] = {}
        self._new: dict[str, list[Entry]] = {}
        """By their numbers in the spool."""
        self._old: dict[str, list[tuple[int, str]]] = {}
        """The same of those in the file: ``id`` and ``session``, the newest last."""

    def begin(self, queue_ids: Iterable[str]) -> None:
        """Begin a batch, in which :meth:`find` is asked for these numbers only."""
        # Two questions: SQLite looks into an index for one max() alone, and for two it reads all rows.
        self._last, self._changed = self._connection.execute(
            "SELECT coalesce((SELECT max(id) FROM entries), 0), coalesce((SELECT max(changed) FROM entries), 0)"
        ).fetchone()
        for some in _parts(list(queue_ids)):
            condition = f"queue_id IN ({', '.join('?' * len(some))})"
            sql = f"SELECT id, queue_id, session FROM entries WHERE {condition} ORDER BY id"  # noqa: S608
            for number, queue_id, session in self._connection.execute(sql, some):
                self._old.setdefault(queue_id, []).append((number, session))

    def clear(self) -> None:
        """Forget the batch."""
        self._known.clear()
        self._new.clear()
        self._old.clear()

    def numbers(self) -> tuple[int, int]:
        """``id`` and ``changed`` of an entry that is to be added."""
        self._last += 1
        self._changed += 1
        return self._last, self._changed

    def add(self, entry: Entry) -> None:
        """Add a new one."""
        self._known[entry.id] = entry
        if entry.queue_id is not None:
            self._new.setdefault(entry.queue_id, []).append(entry)

    def change(self, entry: Entry) -> None:
        """Write it, and show it to those who follow what changes."""
        self._changed += 1
        entry.changed = self._changed

    def find(self, queue_id: str, session: str) -> Entry | None:
        """The newest with this number in a spool, and of this session if one is given: there may be several spools."""
        for entry in reversed(self._new.get(queue_id, ())):
            if session in ("", entry.session):
                return entry
        for number, its_session in reversed(self._old.get(queue_id, ())):
            if session in ("", its_session):
                if number not in self._known:
                    self._known[number] = self._read(number)
                return self._known[number]
        return None

    def _read(self, number: int) -> Entry:
        row = self._connection.execute(f"SELECT {_NAMES} FROM entries WHERE id = ?", (number,)).fetchone()  # noqa: S608
        entry = Entry(*row)
        for address, *recipient in self._connection.execute(
            "SELECT address, began, state, said, time FROM recipients WHERE entry = ?", (number,)
        ):
            entry.recipients[address] = _Recipient(*recipient)
        entry.written = dict(entry.recipients)
        return entry

    def write(self) -> None:
        """Write what is new and what has changed."""
        known = self._known.values()
        self._write(_WRITE_ENTRIES, map(_values, known))
        self._write(
            _WRITE_RECIPIENTS,
            (
                (entry.id, address, *each)
                for entry in known
                for address, each in entry.recipients.items()
                if entry.written is None or entry.written.get(address) != each
            ),
        )

    def _write(self, statement: tuple[str, str], rows: Iterable[Sequence[object]]) -> None:
        left = list(rows)
        for some in _parts(left):
            places = f"({', '.join('?' * len(some[0]))})"
            sql = f"{statement[0]} {', '.join([places] * len(some))} {statement[1]}"
            self._connection.execute(sql, list(chain.from_iterable(some)))


def _parts(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """All of the rows, as many at once as a statement may write."""
    done = 0
    for many in _ROWS:
        while len(rows) - done >= many:
            yield rows[done : done + many]
            done += many
