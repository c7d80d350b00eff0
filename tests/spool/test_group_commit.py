"""What comes into one commit, and what waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from legacy_email_proxy_plugins.spool import group_commit as writer_module
from legacy_email_proxy_plugins.spool.group_commit import Writer


class Connection:
    """A database that remembers what was committed together."""

    def __init__(self) -> None:
        self.commits: list[list[Any]] = []
        self.closed = False

    def apply(self, _: Any, given: list[Any]) -> list[Any]:
        self.commits.append(given)
        return given

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def writing() -> AsyncIterator[tuple[Writer, Connection]]:
    connection = Connection()
    writer = Writer(connection.apply, "BEGIN", lambda error: error, "SPOOL_URL")
    await writer.open(lambda: connection)
    try:
        yield writer, connection
    finally:
        await writer.aclose()
        assert connection.closed


async def test_what_is_asked_for_in_one_turn_is_committed_together() -> None:
    async with writing() as (writer, connection):
        assert await asyncio.gather(*map(writer.together, range(20))) == [*range(20)]
        assert connection.commits == [[*range(20)]]


async def test_the_patient_one_waits_for_somebody_elses_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_LINGER_SECONDS", 3600.0)
    async with writing() as (writer, connection):
        can_wait = asyncio.ensure_future(writer.together("can_wait", can_wait=True))
        for _ in range(10):
            await asyncio.sleep(0)
        assert connection.commits == []
        assert await writer.together("urgent") == "urgent"
        assert await can_wait == "can_wait"
        assert connection.commits == [["can_wait", "urgent"]]


async def test_the_patient_one_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_LINGER_SECONDS", 0.001)
    async with writing() as (writer, connection):
        assert await writer.together("first", can_wait=True) == "first"
        assert await writer.together("second", can_wait=True) == "second"
        assert connection.commits == [["first"], ["second"]]


async def test_what_waits_is_committed_before_the_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_LINGER_SECONDS", 3600.0)
    async with writing() as (writer, connection):
        can_wait = asyncio.ensure_future(writer.together("can_wait", can_wait=True))
        await asyncio.sleep(0)
    assert await can_wait == "can_wait"
    assert connection.commits == [["can_wait"]]


async def test_more_than_one_commit_takes_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_BATCH", 4)
    async with writing() as (writer, connection):
        await asyncio.gather(*map(writer.together, range(10)))
        assert connection.commits == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
