"""The recorder takes what is logged and writes it behind; whatever happens to the file, nobody waits for it."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from history.support import ANN, CLIENT, SENDER, entries, relayed, written
from legacy_email_proxy import log
from legacy_email_proxy.contracts import BOUND
from legacy_email_proxy.history import recorder as recorder_module
from legacy_email_proxy.history import recording
from legacy_email_proxy.history.database import FILE_NAME, open_to_write
from legacy_email_proxy.history.recorder import Recorder
from legacy_email_proxy.settings import read
from realservers.processes import wait_until

LOGGER = logging.getLogger("legacy_email_proxy.smtp")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event is written at once, and the file is tried again at once."""
    monkeypatch.setattr(recorder_module, "_TOGETHER_SECONDS", 0.0)
    monkeypatch.setattr(recorder_module, "_AGAIN_SECONDS", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / FILE_NAME


@pytest.fixture
def recorder(path: Path) -> Iterator[Recorder]:
    made = Recorder(path, 14)
    log.observe(made)
    yield made
    log.unobserve(made)
    made.close()


def say(**facts: Any) -> None:
    log.event(
        LOGGER, logging.INFO, "message relayed", **{"sender": SENDER, "recipients": [ANN], "backend": "250 ok"} | facts
    )


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[dict[str, Any]]:
    return [log.facts_of(record) for record in caplog.records if record.getMessage() == words]


def written_entries(path: Path) -> int:
    try:
        return len(entries(path))
    except FileNotFoundError:
        return 0


def until_true(condition: Callable[[], object]) -> None:
    wait_until(lambda: bool(condition()), "the history was written", 50)


def until_written(path: Path, count: int) -> None:
    until_true(lambda: written_entries(path) == count)


def said_and_written(path: Path) -> bool:
    """Say something, as long as nothing is in the file."""
    say()
    return written_entries(path) > 0


def test_what_is_logged_is_written_with_what_is_bound_to_the_task(path: Path, recorder: Recorder) -> None:
    token = BOUND.set({"session": "s-1", "client": CLIENT, "account": "office"})
    say()
    # As a plugin logs.
    LOGGER.info("message delivered", extra={"facts": {"message": 12, "recipients": [ANN], "backend": "250 ok"}})
    BOUND.reset(token)
    log.event(LOGGER, logging.INFO, "no event of ours")
    recorder.close()
    assert [
        [entry[name] for name in ("state", "session", "client", "account", "backend")] for entry in entries(path)
    ] == [[state, "s-1", CLIENT, "office", "250 ok"] for state in ("relayed", "delivered")]


def test_the_file_is_for_the_service_alone(path: Path, recorder: Recorder) -> None:
    say()
    until_written(path, 1)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


def test_it_is_read_while_it_is_written(path: Path, recorder: Recorder) -> None:
    for count in range(1, 4):
        say()
        until_written(path, count)


def test_settings_switch_it_off(tmp_path: Path) -> None:
    with recording(read({"STATE_DIR": str(tmp_path), "HISTORY_DAYS": "0"})):
        say()
    assert list(tmp_path.iterdir()) == []


def test_settings_say_where(tmp_path: Path) -> None:
    ours = logging.getLogger("legacy_email_proxy")
    before = ours.handlers.copy()
    with recording(read({"STATE_DIR": str(tmp_path)})):
        say()
    say()
    assert len(entries(tmp_path / FILE_NAME)) == 1
    assert ours.handlers == before


def test_entries_older_than_the_days_are_gone_at_the_start(path: Path) -> None:
    written(path, [relayed(1.0), relayed(2.0)])
    Recorder(path, 14).close()
    assert entries(path) == []


def test_nobody_waits_for_a_file_that_is_locked(
    path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder_module, "MOST_QUEUED", 20)
    say()
    until_written(path, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        # Two at most are taken from the queue by the writer, which now waits for the lock; each counts two.
        for _ in range(100):
            say()
        assert [each["cause"] for each in lines(caplog, "history not written")] == ["the disk is too slow"]
        other.execute("ROLLBACK")
    until_true(lambda: bool(lines(caplog, "history written again")))
    recorder.close()
    (again,) = lines(caplog, "history written again")
    assert len(entries(path)) + again["lost"] == 101
    assert len(entries(path)) >= 11


def test_many_recipients_fill_the_queue_too(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder_module, "MOST_QUEUED", 500)
    recorder = Recorder(path, 14)
    record = logging.makeLogRecord({"msg": "message relayed", "facts": {"recipients": [ANN] * 1000}})
    recorder.handle(record)
    recorder.close()
    assert entries(path) == []
    assert len(lines(caplog, "history not written")) == 1


def test_a_folder_that_can_not_be_made_stops_the_history_only(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.write_text("a file where the folder should be")
    recorder = Recorder(path, 14)
    log.observe(recorder)
    try:
        until_true(lambda: bool(lines(caplog, "history not written")))
        say()
        say()
        until_true(lambda: recorder._lost == 2)
        (line,) = lines(caplog, "history not written")
        assert line["cause"] == f"{path}: File exists"
        path.parent.unlink()
        say()
        until_true(lambda: written_entries(path) == 1)
    finally:
        log.unobserve(recorder)
        recorder.close()
    assert [each["lost"] for each in lines(caplog, "history written again")] == [2]


def test_a_full_disk_stops_the_history_until_there_is_room(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True

    def small(path: Path) -> sqlite3.Connection:
        connection = open_to_write(path)
        if full:
            connection.execute("PRAGMA max_page_count = 1")  # SQLite takes as many as there are
        return connection

    monkeypatch.setattr(recorder_module, "open_to_write", small)
    recorder = Recorder(path, 14)
    log.observe(recorder)
    try:
        say(recipients=[f"{number}{ANN}" for number in range(10_000)])
        until_true(lambda: lines(caplog, "history not written"))
        assert "full" in lines(caplog, "history not written")[0]["cause"]
        full = False
        say()
        until_true(lambda: lines(caplog, "history written again"))
        until_written(path, 1)
    finally:
        log.unobserve(recorder)
        recorder.close()


def test_a_damaged_file_is_kept_and_a_new_one_begun(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    recorder = Recorder(path, 14)
    recorder.handle(logging.makeLogRecord({"msg": "message relayed", "facts": {"sender": SENDER}}))
    recorder.close()
    assert len(entries(path)) == 1
    assert path.with_name("history.db.damaged").read_bytes() == b"no database" * 1000
    assert len(lines(caplog, "history damaged: a new one is begun")) == 1


def test_a_file_that_is_damaged_in_the_middle(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(path, [relayed(time.time()) for _ in range(3000)])
    with path.open("r+b") as stream:
        for page in range(2, path.stat().st_size // 4096):
            stream.seek(page * 4096)
            stream.write(os.urandom(200))
    recorder = Recorder(path, 14)
    for _ in range(3):
        recorder.handle(logging.makeLogRecord({"msg": "message relayed", "facts": {"sender": SENDER}}))
    recorder.close()
    assert len(entries(path)) == 3
    assert len(lines(caplog, "history damaged: a new one is begun")) == 1


def test_a_file_of_a_newer_version_is_left_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(path, [relayed()])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    recorder = Recorder(path, 14)
    for _ in range(3):
        recorder.handle(logging.makeLogRecord({"msg": "message relayed", "facts": {"sender": SENDER}}))
    recorder.close()
    (line,) = lines(caplog, "history not written")
    assert line["cause"] == f"{path}: it was made by a newer version of the proxy (tables 99, known are 1)"
    assert path.read_bytes() == before


def test_a_file_that_was_removed_is_begun_anew(path: Path, recorder: Recorder) -> None:
    say()
    until_written(path, 1)
    path.unlink()
    until_true(lambda: said_and_written(path))


def test_a_mistake_of_ours_is_told_with_its_traceback_and_costs_one_batch(
    path: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("x")

    with monkeypatch.context() as broken:
        broken.setattr("legacy_email_proxy.history.events.Writing.write", fail)
        say()
        until_true(lambda: any(record.exc_info for record in caplog.records))
    until_true(lambda: said_and_written(path))


def test_whatever_a_plugin_logs_disturbs_nobody(recorder: Recorder, path: Path) -> None:
    LOGGER.info({"a": "mapping, as some libraries for structured logs have it"})
    say()
    until_written(path, 1)
