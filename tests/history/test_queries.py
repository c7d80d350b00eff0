"""What is found, in which order, page by page; and that an index answers every question."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from history.support import ANN, BOB, CLIENT, NOON, event, relayed, spooled, written
from legacy_email_proxy.history import queries
from legacy_email_proxy.history.database import open_to_read
from legacy_email_proxy.history.facts import Event
from legacy_email_proxy.history.queries import (
    Filter,
    _query,
    changed_since,
    device,
    entry,
    last_change,
    latest_devices,
    of_session,
    search,
    start_of_last,
    walk,
)

OTHER = "192.168.1.41"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    written(
        path,
        [
            relayed(NOON, ANN, account="office"),
            relayed(NOON + 1, BOB, client=OTHER, sender="", account="shop"),
            event("message refused", NOON + 2, sender="x@other.example", recipients=[ANN, BOB], cause="no"),
            event(
                "smtp recipient refused", NOON + 3, client=OTHER, sender="scan@firm.example", recipient=ANN, cause="no"
            ),
            event("pop3 session ended", NOON + 4, user="ann", verdict="quit", retrieved=1),
        ],
    )
    with closing(open_to_read(path)) as connection:
        yield connection


@pytest.mark.parametrize(
    ("which", "found"),
    [
        (Filter(), [1, 2, 3, 4, 5]),
        (Filter(client=OTHER), [2, 4]),
        (Filter(account="office"), [1]),
        (Filter(account=""), [3, 4, 5]),
        (Filter(sender=""), [2]),
        (Filter(sender="SCAN@firm.example"), [1, 4]),
        (Filter(sender="@OTHER.example"), [3]),
        (Filter(sender="%"), []),
        (Filter(sender="s_an"), []),
        (Filter(recipient="Ann@Firm.example"), [1, 3, 4]),
        (Filter(recipient="bob"), [2, 3]),
        (Filter(recipient=ANN, client=OTHER), [4]),
        (Filter(recipient=BOB, sender="x@other.example"), [3]),
        (Filter(since=NOON + 3), [4, 5]),
        (Filter(until=NOON + 1), [1]),
        (Filter(recipient=ANN, since=NOON + 1, until=NOON + 3), [3]),
        (Filter(trouble=True), [3, 4]),
        (Filter(trouble=True, recipient=BOB), [3]),
        (Filter(kind="pop3"), [5]),
        (Filter(kind="message", state="refused"), [3]),
    ],
    ids=str,
)
def test_filters(connection: sqlite3.Connection, which: Filter, found: list[int]) -> None:
    assert [entry["id"] for entry in search(connection, which)] == found[::-1]
    assert [entry["id"] for page in walk(connection, which) for entry in page] == found
    for change in range(5):
        news, _ = changed_since(connection, which, change)
        assert [entry["id"] for entry in news] == [number for number in found if number > change]


def test_pages(connection: sqlite3.Connection) -> None:
    def numbers(**where: Any) -> list[int]:
        return [entry["id"] for entry in search(connection, Filter(), limit=2, **where)]

    assert (numbers(), numbers(before=4), numbers(before=2), numbers(before=1)) == ([5, 4], [3, 2], [1], [])
    assert (numbers(after=0), numbers(after=2), numbers(after=4), numbers(after=5)) == ([1, 2], [3, 4], [5], [])
    assert [start_of_last(connection, Filter(), count) for count in (1, 4, 5, 6)] == [4, 1, 0, 0]
    assert start_of_last(connection, Filter(recipient=ANN), 1) == 3


def test_the_clock_was_set_back(path: Path) -> None:
    """The order is that of time, and no entry is on two pages or on none."""
    times = [5, 3, 3, 9, 1, 3]
    written(path, [relayed(NOON + time) for time in times])
    with closing(open_to_read(path)) as connection:
        newest, rest = [], search(connection, Filter(), limit=1)
        while rest:
            newest.append(rest[0]["id"])
            rest = search(connection, Filter(), before=newest[-1], limit=1)
    assert newest == [4, 1, 6, 3, 2, 5]


def test_who_follows_sees_what_changes(path: Path) -> None:
    written(path, [spooled(), relayed()])
    with closing(open_to_read(path)) as connection:
        change = last_change(connection)
        assert changed_since(connection, Filter(), change) == ([], change)
        delivered = event("message delivered", NOON + 9, message=12, recipients=[ANN], backend="250 ok")
        written(path, [relayed(), delivered])
        news, change = changed_since(connection, Filter(), change)
        assert [(entry["id"], entry["state"]) for entry in news] == [(3, "relayed"), (1, "delivered")]
        assert changed_since(connection, Filter(), change) == ([], change)
        # A new file in place of a damaged one begins again.
        assert changed_since(connection, Filter(), 1000) == ([], change)


QUESTIONS = [
    Filter(),
    Filter(client=CLIENT),
    Filter(client=CLIENT, since=NOON),
    Filter(account="office"),
    Filter(sender=ANN),
    Filter(recipient=ANN),
    Filter(recipient=ANN, client=CLIENT),
    Filter(since=NOON, until=NOON + 1),
    Filter(trouble=True),
    Filter(trouble=True, account="office"),
    Filter(kind="pop3"),
    Filter(kind="refusal", since=NOON),
]


@pytest.mark.parametrize("which", QUESTIONS, ids=str)
@pytest.mark.parametrize("place", [None, 3])
@pytest.mark.parametrize("side", ["before", "after"])
def test_no_question_reads_or_sorts_all(
    connection: sqlite3.Connection, which: Filter, side: str, place: int | None
) -> None:
    sql, values = _query(connection, "e.*", which, side, place)
    plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql} LIMIT 9", values)]
    assert [step for step in plan if "TEMP B-TREE" in step] == []
    assert [step for step in plan if step.startswith("SCAN") and "USING INDEX" not in step] == []
    if which.trouble:
        assert "INDEX entries_trouble" in plan[0]
    elif which.recipient:
        assert "INDEX recipients_address (address=?" in plan[0]
    elif which.client:
        assert "INDEX entries_client (client=?" in plan[0]
    elif which.account:
        assert "INDEX entries_account (account=?" in plan[0]
    elif which.sender:
        assert "INDEX entries_sender (sender=?" in plan[0]
    elif which.kind:
        assert "INDEX entries_kind (kind=?" in plan[0]


def test_a_recipient_of_nearly_all_mail_is_not_where_the_search_begins(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_RARE", 2)
    sql, values = _query(connection, "e.*", Filter(recipient=ANN, client=OTHER), "before", None)
    plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert "INDEX entries_client (client=?" in plan[0]
    assert [row["id"] for row in connection.execute(sql, values)] == [4]


def test_a_long_answer_lets_go_of_the_file_between_pages(path: Path) -> None:
    written(path, [relayed(NOON + number) for number in range(1100)])
    with closing(open_to_read(path)) as connection:
        pages = [(len(page), connection.in_transaction) for page in walk(connection, Filter())]
    assert pages == [(500, False), (500, False), (100, False)]


def test_numbers_of_changes_go_on_after_a_restart(path: Path) -> None:
    batches: list[list[Event]] = [[relayed()], [relayed()]]
    for batch in batches:
        written(path, batch)
    with closing(open_to_read(path)) as connection:
        assert last_change(connection) == 2


def test_one_entry(connection: sqlite3.Connection) -> None:
    found = entry(connection, 3)
    assert found is not None
    assert [each["address"] for each in found["recipients"]] == [ANN, BOB]
    assert entry(connection, 99) is None


def test_what_else_happened_in_a_session(path: Path) -> None:
    def refused(time: float, **facts: Any) -> Event:
        return event("smtp recipient refused", time, recipient=ANN, cause="no", **facts)

    mine = [
        relayed(NOON, session="s1"),
        refused(NOON + 2, session="s1"),
        refused(NOON + 1, session="s1", command="RCPT"),
    ]
    others = [refused(NOON + 1, session="s2"), refused(NOON + 1, session="s1", client=OTHER)]
    long_ago = [refused(NOON - 7200, session="s1"), refused(NOON, session="")]
    written(path, [*mine, *others, *long_ago])
    with closing(open_to_read(path)) as connection:
        one = entry(connection, 1)
        assert one is not None
        assert [each["time"] for each in of_session(connection, one)] == [NOON + 1, NOON + 2]
        assert of_session(connection, {**one, "session": ""}) == []
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        of_session(connection, one)
        plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked[0]}")]
        assert "INDEX entries_client (client=? AND time>? AND time<?" in plan[0]


def test_the_latest_devices(path: Path) -> None:
    written(path, [relayed(NOON + number % 3, client=f"10.0.0.{number}") for number in range(5)])
    with closing(open_to_read(path)) as connection:
        pages = [[each["client"][-1] for each in latest_devices(connection, 2, offset)] for offset in (0, 2, 4, 6)]
        assert pages == [["2", "1"], ["4", "0"], ["3"], []]
        assert (device(connection, "10.0.0.4") or {})["last"] == NOON + 1
        assert device(connection, "10.0.0.9") is None
