"""The file stays small: what is old goes, and then what is too much."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from history.support import NOON, event, relayed, spooled
from legacy_email_proxy.history import database
from legacy_email_proxy.history.database import open_to_read, open_to_write, trim
from legacy_email_proxy.history.events import Writing

LONG_AGO = float("-inf")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_to_write(tmp_path / "history.db")) as connection:
        yield connection


def count(connection: sqlite3.Connection, table: str, where: str = "TRUE") -> int:
    (rows,) = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()
    return int(rows)


def trimmed(connection: sqlite3.Connection, oldest: float = LONG_AGO, max_octets: int = database.MAX_OCTETS) -> int:
    """Trim as often as there is more; how often it was."""
    steps = 1
    while trim(connection, oldest, max_octets):
        steps += 1
    return steps


def test_what_is_old_goes_in_small_steps(connection: sqlite3.Connection) -> None:
    hour = 3600
    Writing(connection).write([relayed(NOON + number * hour, client=f"10.0.{number % 9}.1") for number in range(1200)])
    assert trimmed(connection, NOON + 1100 * hour) == 3
    assert count(connection, "entries") == 100
    assert count(connection, "recipients") == 100
    assert count(connection, "devices") == 9
    assert count(connection, "hours") == 101
    trimmed(connection, NOON + 2000 * hour)
    assert [count(connection, table) for table in ("entries", "recipients", "devices", "hours")] == [0] * 4


def test_refusals_and_sessions_do_not_push_messages_out(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MOST", {"refusal": 10, "pop3": 20, "devices": 5})
    scanned = [
        event("smtp command refused", NOON + each, command=f"X{each}", client=f"10.0.0.{each}") for each in range(99)
    ]
    polled = [event("pop3 session ended", NOON + each, verdict="quit", client="10.1.1.1") for each in range(99)]
    Writing(connection).write([relayed(NOON - 5, client="10.2.2.2"), *scanned, *polled])
    trimmed(connection)
    assert [count(connection, "entries", f"kind = '{kind}'") for kind in ("message", "refusal", "pop3")] == [1, 10, 20]
    assert connection.execute("SELECT min(command) FROM entries WHERE kind = 'refusal'").fetchone() == ("X89",)
    assert count(connection, "devices") == 5
    assert count(connection, "devices", "client = '10.2.2.2'") == 1


def test_a_file_that_is_too_large_loses_its_oldest_entries(connection: sqlite3.Connection) -> None:
    writing = Writing(connection)
    writing.write([relayed(NOON + number) for number in range(5000)])
    trimmed(connection, max_octets=1_000_000)
    left = count(connection, "entries")
    assert 500 < left < 4000
    assert connection.execute("SELECT min(time) FROM entries").fetchone() == (NOON + 5000 - left,)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    writing.write([relayed(NOON + number) for number in range(5000, 6500)])
    # What was removed makes room for what is new.
    assert connection.execute("PRAGMA page_count").fetchone() <= (pages,)


def test_an_empty_file_can_not_be_read_yet(tmp_path: Path) -> None:
    empty = tmp_path / "history.db"
    with pytest.raises(FileNotFoundError):
        open_to_read(empty)
    assert not empty.exists()
    empty.touch()
    with pytest.raises(FileNotFoundError):
        open_to_read(empty)


def test_a_reader_changes_nothing(tmp_path: Path, connection: sqlite3.Connection) -> None:
    Writing(connection).write([spooled()])
    with closing(open_to_read(tmp_path / "history.db")) as reader, pytest.raises(sqlite3.OperationalError):
        reader.execute("DELETE FROM entries")
