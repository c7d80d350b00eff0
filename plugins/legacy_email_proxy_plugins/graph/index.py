"""What is known of a folder, on disk: a listing that goes on where the last one ended, in sessions and after a restart.

One SQLite file for each mailbox and folder. It has ids, sizes and dates, and which messages are not to be shown; no
address, and nothing of a message. If it is lost, the folder is listed anew, and only what ``GRAPH_DELETE=keep`` left
alone comes again.
"""

from __future__ import annotations

import base64
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from legacy_email_proxy.contracts import Entry, Failure

__all__ = ("UNKNOWN_OCTETS", "Index", "Listed", "Round", "unique_id")

UNKNOWN_OCTETS = 4096
"""What is listed where Graph has no size. The client gets the whole message nevertheless."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id TEXT PRIMARY KEY, unique_id TEXT NOT NULL UNIQUE, received TEXT NOT NULL, octets INTEGER,
    exact INTEGER NOT NULL DEFAULT 0, round INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hidden (id TEXT PRIMARY KEY, stays INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (id TEXT PRIMARY KEY, sessions INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rounds (
    one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL, link TEXT NOT NULL, complete INTEGER NOT NULL
);
"""


def unique_id(identifier: str) -> str:
    """43 characters for UIDL, which has room for 70: an id of Graph's has more, and characters that differ in case."""
    digest = hashlib.sha256(identifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


@dataclass(frozen=True, slots=True)
class Listed:
    """One message of a page. ``octets`` is ``None`` where Graph did not say, ``received`` is ``""`` then."""

    identifier: str
    received: str
    octets: int | None


@dataclass(frozen=True, slots=True)
class Round:
    """Where the listing goes on: ``link`` is the address of the next page, or, if it is ``complete``, of the changes.

    ``number`` counts the listings that began anew.
    """

    number: int = 0
    link: str = ""
    complete: bool = False


class Index:
    """Each method blocks, and raises :class:`Failure` if the file can not be read or written.

    ``state_dir`` is called only when the file is needed, because it may make the folder.
    """

    def __init__(self, state_dir: Callable[[], Path], *identity: str) -> None:
        self._state_dir = state_dir
        self._listed: tuple[object, int, tuple[Entry, ...]] | None = None
        """What was listed last, by whose wishes, and after how many changes: sessions share it."""
        self._changes = 0
        self._name = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            path = self._state_dir() / f"{self._name}.db"
            with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
                connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_SCHEMA}")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                if connection.total_changes:
                    self._changes += 1
                connection.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise Failure(f"the index of the folder can not be used: {error}", look_at="STATE_DIR") from error

    def round(self) -> Round:
        """Where the listing goes on."""
        with self._open() as connection:
            row = connection.execute("SELECT number, link, complete FROM rounds").fetchone()
        return Round(row[0], row[1], bool(row[2])) if row else Round()

    def apply(self, here: Iterable[Listed], gone: Iterable[str], now: Round, *, whole: bool = False) -> None:
        """Note a page. ``whole``: with it a listing that began anew has ended, so what it did not show is gone."""
        with self._open() as connection:
            for each in here:
                # Back in the folder, for example out of Deleted Items.
                connection.execute(
                    "DELETE FROM hidden WHERE id = :id AND NOT stays"
                    " AND NOT EXISTS (SELECT 1 FROM messages WHERE id = :id)",
                    {"id": each.identifier},
                )
                connection.execute(
                    "INSERT INTO messages (id, unique_id, received, octets, round) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET round = excluded.round,"
                    " received = CASE excluded.received WHEN '' THEN received ELSE excluded.received END,"
                    " octets = CASE WHEN exact OR excluded.octets IS NULL THEN octets ELSE excluded.octets END",
                    (each.identifier, unique_id(each.identifier), each.received, each.octets, now.number),
                )
            for identifier in gone:
                connection.execute("DELETE FROM messages WHERE id = ?", (identifier,))
                connection.execute("DELETE FROM hidden WHERE id = ? AND NOT stays", (identifier,))
            if whole:
                connection.execute("DELETE FROM messages WHERE round < ?", (now.number,))
                connection.execute("DELETE FROM hidden WHERE NOT stays AND id NOT IN (SELECT id FROM messages)")
                connection.execute("DELETE FROM failures WHERE id NOT IN (SELECT id FROM messages)")
            connection.execute(
                "INSERT OR REPLACE INTO rounds (one, number, link, complete) VALUES (1, ?, ?, ?)",
                (now.number, now.link, now.complete),
            )

    def without_octets(self) -> list[str]:
        """The messages of which Graph has said no size."""
        with self._open() as connection:
            return [row[0] for row in connection.execute("SELECT id FROM messages WHERE octets IS NULL")]

    def set_octets(self, sizes: Iterable[tuple[str, int]], *, exact: bool) -> None:
        """Note sizes by id; ``exact``: the message was read, so what Graph says counts no more."""
        with self._open() as connection:
            connection.executemany(
                "UPDATE messages SET octets = ?, exact = max(exact, ?) WHERE id = ?",
                ((octets, int(exact), identifier) for identifier, octets in sizes),
            )

    def entries(self, *, staying: bool, since: str, newest: int | None, hide_after: int | None) -> tuple[Entry, ...]:
        """What a session shows, the oldest first. ``staying``: without what was deleted and is still there."""
        query = (
            "SELECT unique_id, coalesce(octets, ?) FROM messages WHERE received >= ?"
            " AND NOT EXISTS (SELECT 1 FROM hidden WHERE hidden.id = messages.id AND (? OR NOT stays))"
            " AND NOT EXISTS (SELECT 1 FROM failures WHERE failures.id = messages.id AND sessions >= ?)"
            " ORDER BY received DESC, id DESC LIMIT ?"
        )
        wishes = (UNKNOWN_OCTETS, since, staying, hide_after or 2**62, -1 if newest is None else newest)
        with self._open() as connection:
            changes = self._changes
            if self._listed is not None and self._listed[:2] == (wishes, changes):
                return self._listed[2]
            rows = connection.execute(query, wishes).fetchall()
        found = tuple(Entry(*row) for row in reversed(rows))
        self._listed = wishes, changes, found
        return found

    def identifiers(self, unique_ids: Sequence[str]) -> dict[str, str]:
        """Unique-id → Graph's id, of those that are still in the folder."""
        with self._open() as connection:
            found = (
                connection.execute("SELECT unique_id, id FROM messages WHERE unique_id = ?", (each,)).fetchone()
                for each in unique_ids
            )
            return {row[0]: row[1] for row in found if row is not None}

    def hide(self, identifiers: Iterable[str], *, stays: bool) -> None:
        """Show them no more. ``stays``: they are left in the folder, and do not come back by themselves."""
        with self._open() as connection:
            rows = ((identifier, int(stays)) for identifier in identifiers)
            connection.executemany("INSERT OR REPLACE INTO hidden (id, stays) VALUES (?, ?)", rows)

    def failed(self, identifier: str) -> int:
        """Note that the message could not be had in a session; returns in how many, one after the other."""
        with self._open() as connection:
            connection.execute(
                "INSERT INTO failures (id, sessions) VALUES (?, 1)"
                " ON CONFLICT (id) DO UPDATE SET sessions = sessions + 1",
                (identifier,),
            )
            row = connection.execute("SELECT sessions FROM failures WHERE id = ?", (identifier,)).fetchone()
        return int(row[0])

    def came(self, identifiers: Iterable[str]) -> None:
        """Note that these could be had."""
        with self._open() as connection:
            connection.executemany("DELETE FROM failures WHERE id = ?", ((each,) for each in identifiers))
