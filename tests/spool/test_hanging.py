"""A disk or a database that hangs: the device reads 451 in time, and what is stored after that is taken back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from legacy_email_proxy.contracts import Failure
from legacy_email_proxy.replies import smtp_reply
from legacy_email_proxy_plugins.spool import delivery as delivery_module
from legacy_email_proxy_plugins.spool import group_commit, sql_records
from legacy_email_proxy_plugins.spool import incoming as incoming_module
from legacy_email_proxy_plugins.spool import postgres_connection as connection_module
from legacy_email_proxy_plugins.spool import postgres_store as postgres_module
from legacy_email_proxy_plugins.spool import sqlite_store as sqlite_module
from legacy_email_proxy_plugins.spool.group_commit import Writer
from legacy_email_proxy_plugins.spool.relay import SpoolRelay
from realservers.postgres import Postgres
from spool import stores, support
from spool.stores import PostgreSQL
from spool.support import CONTENT, SQLITE, Backend, bodies, listed, send, spooling, until_states
from waiting import until

pytestmark = pytest.mark.usefixtures("store")

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 20_000


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are told to come back after a moment."""
    patience(monkeypatch, 0.2)


def patience(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """How long the store is waited for."""
    monkeypatch.setattr(incoming_module, "ANSWER_SECONDS", seconds)
    monkeypatch.setattr(incoming_module, "BLOCK_SECONDS", seconds)
    monkeypatch.setattr(incoming_module, "_DISCARD_SECONDS", seconds)
    monkeypatch.setattr(sqlite_module, "ANSWER_SECONDS", seconds)


class Hang:
    """Whoever calls it waits until it is over."""

    def __init__(self) -> None:
        self.met = threading.Event()
        self._over = threading.Event()

    def __call__(self) -> None:
        self.met.set()
        self._over.wait(60)

    def end(self) -> None:
        self._over.set()


@pytest.fixture
def hang() -> Iterator[Hang]:
    hang = Hang()
    yield hang
    hang.end()


def around(hang: Hang, function: Callable[..., Any], where: str) -> Callable[..., Any]:
    """``function``, which hangs before or after its work the first time."""
    first = [True]

    def hanging(*args: Any, **keywords: Any) -> Any:
        mine = bool(first)
        first.clear()
        if mine and where == "before":
            hang()
        result = function(*args, **keywords)
        if mine and where == "after":
            hang()
        return result

    return hanging


async def refused(spool: SpoolRelay, content: bytes = CONTENT) -> str:
    with pytest.raises(Failure) as caught:
        await send(spool, content=content)
    assert smtp_reply(caught.value).code == 451
    return caught.value.detail


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("owner", "name", "where"),
    [
        (group_commit, "_transaction", "before"),  # in the queue
        (sql_records, "apply", "before"),  # it has its number
        (sql_records, "apply", "after"),  # it is written
        (group_commit, "_transaction", "after"),  # it is committed
    ],
    ids=["queued", "numbered", "written", "committed"],
)
async def test_what_is_stored_after_a_451_is_taken_back(
    tmp_path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch, content: bytes, owner: Any, name: str, where: str
) -> None:
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        with monkeypatch.context() as hung:
            hung.setattr(owner, name, around(hang, getattr(owner, name), where))
            await refused(spool, content)
            assert hang.met.is_set()
            await refused(spool, content)  # behind it
            hang.end()
        patience(monkeypatch, 30.0)
        await send(spool, content=b"again " + content)
        await until_states(spool)
        await until(lambda: not bodies(tmp_path))
        await until(lambda: not spool._spool.store._usage.octets)  # type: ignore[attr-defined]
    assert backend.contents == [b"again " + content]


@pytest.mark.usefixtures("impatient")
async def test_a_crash_before_it_was_taken_back(tmp_path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start does it."""
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        with monkeypatch.context() as crashing:
            crashing.setattr(sql_records, "apply", around(hang, sql_records.apply, "after"))
            crashing.setattr(Writer, "begin", lambda *_: None)
            await refused(spool)
            hang.end()
            # Listed, but nobody delivers it.
            await until_states(spool, "queued")
            spool._spool._wake()
            await until_states(spool, "queued")
            assert backend.tried == []
            await spool.aclose()
    async with spooling(backend, tmp_path) as spool:
        assert await listed(spool) == []
    assert backend.tried == []
    patience(monkeypatch, 30.0)
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        await until(lambda: backend.delivered)


@pytest.mark.usefixtures("impatient")
async def test_a_device_that_is_cut_off_has_sent_nothing(
    tmp_path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a stop: nobody has told it 250."""
    monkeypatch.setattr(incoming_module, "ANSWER_SECONDS", 30.0)
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        monkeypatch.setattr(sql_records, "apply", around(hang, sql_records.apply, "after"))
        async with anyio.create_task_group() as sessions:
            sessions.start_soon(send, spool)
            await until(hang.met.is_set)
            sessions.cancel_scope.cancel()
        hang.end()
        await until_states(spool)
    assert backend.tried == []


@SQLITE
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["write", "fsync"])
async def test_a_body_that_hangs_on_its_way_to_the_disk(
    tmp_path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        with monkeypatch.context() as hung:
            hung.setattr(os, name, around(hang, getattr(os, name), "before"))
            await refused(spool, LARGE)
            assert hang.met.is_set()
        assert len(bodies(tmp_path)) == 1
        hang.end()
        await until(lambda: not bodies(tmp_path))
        assert await listed(spool) == []
    assert backend.tried == []


@SQLITE
@pytest.mark.usefixtures("impatient")
async def test_mail_does_not_wait_for_the_disk(tmp_path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch) -> None:
    async with spooling(Backend(), tmp_path) as spool:
        monkeypatch.setattr(spool._spool.store, "_free", (float("-inf"), None))
        monkeypatch.setattr(os, "statvfs", around(hang, os.statvfs, "before"))
        with pytest.raises(Failure, match="has not answered within"):
            await send(spool)
        hang.end()


# PostgreSQL.


@pytest.fixture
def own_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """One that a test may stop."""
    monkeypatch.setattr(delivery_module, "_TROUBLE_SECONDS", 0.05)
    monkeypatch.setattr(connection_module, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(connection_module, "_LONGEST_PAUSE", 0.2)
    with Postgres.start() as server:
        monkeypatch.setattr(support, "store", PostgreSQL(server.new_database()))
        yield server


@contextmanager
def stopped(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SIGSTOP to all its processes; what waits for it waits a moment only."""
    processes = [each for pid in server.pids for each in (psutil.Process(pid), *psutil.Process(pid).children(True))]
    with ExitStack() as stack:
        short = stack.enter_context(monkeypatch.context())
        short.setattr(connection_module, "STATEMENT_SECONDS", 0.3)
        for process in processes:
            process.suspend()
            stack.callback(process.resume)
        yield


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)  # the server of its own is used instead
async def test_a_server_that_was_stopped(tmp_path: Path, own_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was under way is delivered once, what was answered 451 never, and it goes on by itself."""
    url = support.store.variables["SPOOL_URL"] + "?connect_timeout=2"
    begun, go_on = anyio.Event(), anyio.Event()

    async def under_way(_: bytes) -> None:
        begun.set()
        await go_on.wait()

    backend = Backend(before_dot=under_way)
    async with spooling(backend, tmp_path, SPOOL_URL=url) as spool:
        await send(spool, content=b"before")
        await begun.wait()
        with stopped(own_server, monkeypatch):
            async with anyio.create_task_group() as devices:
                for content in (CONTENT, LARGE, CONTENT):
                    devices.start_soon(refused, spool, content)
            go_on.set()  # its outcome can not be written down now
            await until(lambda: backend.delivered)
            await refused(spool)
        with anyio.fail_after(50):
            while True:
                try:
                    await send(spool, content=b"after")
                    break
                except Failure:
                    await anyio.sleep(0.02)
        await until(lambda: b"after" in backend.contents)
        await until_states(spool)
    assert backend.contents == [b"before", b"after"]


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_a_statement_that_the_server_ends_later(
    tmp_path: Path, store: stores.TestedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is given up. The server would go on with it, and commit it after it was taken back."""
    assert isinstance(store, PostgreSQL)
    async with spooling(Backend(), tmp_path) as spool:
        # Its statements would be in one transaction with ours, which a lost connection rolls back.
        running = spool._delivery and spool._delivery._running
        assert running
        running.cancel()
        await listed(spool)
        with store.connect() as other, store.connect() as operator, monkeypatch.context() as short:
            operator.execute(
                "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END'"
            )
            operator.execute("CREATE TRIGGER wait BEFORE INSERT ON message FOR EACH ROW EXECUTE FUNCTION wait()")
            with other.transaction():
                other.execute("SELECT pg_advisory_xact_lock(42)")
                short.setattr(connection_module, "STATEMENT_SECONDS", 0.5)
                assert "no answer within 0.5 s" in await refused(spool)
                short.undo()
                withdrawn = spool._spool.store._withdrawn  # type: ignore[attr-defined]
                await until(lambda: not withdrawn)
            waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42"
            await until(lambda: not operator.execute(waits).rowcount)
            assert await listed(spool) == []
    assert postgres_module.LEASE_SECONDS >= 3 * connection_module.STATEMENT_SECONDS
