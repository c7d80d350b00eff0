"""What is measured for the graphs, and that the history keeps it by the hour."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from admin.support import ProbedRelay, composition, observed
from history.support import NOON, written
from legacy_email_proxy import log
from legacy_email_proxy.admin import measuring
from legacy_email_proxy.admin.measuring import Measuring
from legacy_email_proxy.contracts import TIMINGS, Figure, took
from legacy_email_proxy.history.database import open_to_read, open_to_write, trim
from legacy_email_proxy.history.facts import Event
from legacy_email_proxy.history.queries import samples
from legacy_email_proxy.history.recorder import Recorder


async def test_what_is_measured_reaches_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MINUTE", 0.02)
    relay = ProbedRelay()
    relay.told = [
        Figure("spool_messages", 3, {"state": "queued"}),
        Figure("spool_messages", 1, {"state": "held"}),
        Figure("spool_oldest_seconds", 99),
    ]
    used = composition(tmp_path, relay, queue=True)
    path = tmp_path / "history.db"
    recorder = Recorder(path, 3650)
    log.observe(recorder, log.FIGURES)
    measured = Measuring(lambda: used)
    try:
        measured.start()
        took("smtp", "content", 0.5)
        took("smtp", "content", 1.5)
        took("smtp", "connect", 100.0)
        took("pop3", "fetch", 0.25)
        told: set[str] = set()
        while not {"spool", "pop3_seconds"} <= told:
            await asyncio.sleep(0.01)
            told = {each["what"] for each in await asyncio.to_thread(kept, path)}
    finally:
        await measured.aclose()
        log.unobserve(recorder)
        await asyncio.to_thread(recorder.close)
    assert measured._timing not in TIMINGS
    found = {each["what"]: each for each in await asyncio.to_thread(kept, path)}
    assert (found["smtp_seconds"]["times"], found["smtp_seconds"]["total"]) == (2, 2.0)
    assert found["smtp_seconds"]["highest"] == 1.5
    assert found["pop3_seconds"]["highest"] == 0.25
    assert found["spool"]["highest"] == 4.0
    assert found["spool"]["total"] == 4.0 * found["spool"]["times"]


def kept(path: Path) -> list[dict[str, Any]]:
    try:
        with closing(open_to_read(path)) as connection:
            return samples(connection, 0.0)
    except FileNotFoundError:
        return []


async def test_it_is_below_info(tmp_path: Path) -> None:
    relay = ProbedRelay()
    relay.told = [Figure("spool_messages", 3)]
    used = composition(tmp_path, relay, queue=True)
    seen: list[str] = []

    class Watcher(log.Observer):
        def take(self, record: logging.LogRecord) -> None:
            seen.append(record.msg)

    async with observed(Watcher()):
        await Measuring(lambda: used).tell()
    assert seen == []


async def test_figures_that_can_not_be_told_are_left_out(tmp_path: Path) -> None:
    relay = ProbedRelay()
    relay.told = OSError("no")
    await Measuring(lambda: composition(tmp_path, relay, queue=True)).tell()


def test_samples_are_summed_up_by_the_hour_and_removed_when_old(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    written(path, [Event(NOON + 1, "figures", {"spool": (1, 2.0, 2.0), "other": 1, "smtp_seconds": "x"})])
    written(
        path,
        [Event(NOON + 2, "figures", {"spool": (1, 4.0, 4.0)}), Event(NOON + 3600, "figures", {"spool": (1, 1.0, 1.0)})],
    )
    assert kept(path) == [
        {"hour": NOON, "what": "spool", "times": 2, "total": 6.0, "highest": 4.0},
        {"hour": NOON + 3600, "what": "spool", "times": 1, "total": 1.0, "highest": 1.0},
    ]
    with closing(open_to_write(path)) as connection:
        trim(connection, NOON + 2 * 3600)
    assert [each["hour"] for each in kept(path)] == [NOON + 3600]


def test_a_file_without_samples_can_be_read_and_gets_them(tmp_path: Path) -> None:
    """As those of the versions before."""
    path = tmp_path / "history.db"
    written(path, [])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE samples")
    assert kept(path) == []
    written(path, [Event(NOON, "figures", {"spool": (1, 2.0, 2.0)})])
    assert len(kept(path)) == 1
