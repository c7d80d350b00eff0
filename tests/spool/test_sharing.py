"""One spool for several accounts: each has its own deliveries, and its own successors when settings are read anew."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from legacy_email_proxy.contracts import CredentialsRefused, SettingsMistake
from legacy_email_proxy_plugins.spool import SpoolRelay
from legacy_email_proxy_plugins.spool import spool as spool_module
from legacy_email_proxy_plugins.spool.spool import Spool
from spool.support import CLIENT, Backend, listed, pieces, raises, send, spool_to, spooling, until_states
from waiting import until


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_SETTLED_SECONDS", 0.01)


class Stuck:
    """Holds each message before its final dot."""

    def __init__(self) -> None:
        self.let_go = anyio.Event()
        self.held = 0

    async def __call__(self, content: bytes) -> None:
        self.held += 1
        await self.let_go.wait()


@asynccontextmanager
async def both(tmp_path: Path, a: Any, b: Any, **variables: str) -> AsyncIterator[tuple[SpoolRelay, SpoolRelay]]:
    async with AsyncExitStack() as stack:
        first = await started(tmp_path, a, "a", **variables)
        stack.push_async_callback(first.aclose)
        second = await started(tmp_path, b, "b", **variables)
        stack.push_async_callback(second.aclose)
        yield first, second


async def started(tmp_path: Path, backend: Any, account: str, **variables: str) -> SpoolRelay:
    spool = spool_to(backend, tmp_path, account, **variables)
    spool.grace_seconds = 0.05
    await spool.start()
    return spool


def locked(tmp_path: Path) -> bool:
    """Whether another process is kept out."""
    program = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    lock = str(tmp_path / "spool.db.lock")
    return subprocess.run([sys.executable, "-c", program, lock], stderr=subprocess.DEVNULL, check=False).returncode != 0


async def test_each_accounts_mail_goes_its_own_way(tmp_path: Path) -> None:
    backends = Backend(), Backend()
    async with both(tmp_path, *backends) as spools:
        for number, spool in enumerate(spools):
            for _ in range(20):
                await send(spool, content=b"%d\r\n" % number)
        await until_states(spools[0])
    assert [backend.contents for backend in backends] == [[b"0\r\n"] * 20, [b"1\r\n"] * 20]
    assert all(backend.closed for backend in backends)
    assert not locked(tmp_path)


async def test_what_waited_goes_its_own_way_too(tmp_path: Path) -> None:
    async with both(tmp_path, *(Backend(before_dot=Stuck()) for _ in range(2))) as spools:
        for number, spool in enumerate(spools * 3):
            await send(spool, content=b"%d\r\n" % (number % 2))
        assert [item["account"] for item in await listed(spools[0])] == ["a", "b"] * 3
    backends = Backend(), Backend()
    async with both(tmp_path, *backends) as spools:
        await until_states(spools[0])
    assert [backend.contents for backend in backends] == [[b"0\r\n"] * 3, [b"1\r\n"] * 3]


async def test_refused_credentials_stop_their_own_account_only(tmp_path: Path) -> None:
    away = Backend(sender=raises([CredentialsRefused("wrong password")] * 1000))
    backend = Backend()
    async with both(tmp_path, away, backend, BACKEND_SMTP_MAX_CONNECTIONS="1") as (first, second):
        for _ in range(5):
            await send(first)
            await until(lambda: away.tried)
            await send(second)
        await until(lambda: len(backend.delivered) == 5)
        assert [item["account"] for item in await listed(second)] == ["a"] * 5
        assert len(away.tried) == 1


async def test_each_account_has_its_own_connections(tmp_path: Path) -> None:
    holding = [Stuck(), Stuck()]
    backends = [Backend(before_dot=stuck) for stuck in holding]
    async with AsyncExitStack() as stack:
        spools = []
        for account, backend, most in zip("ab", backends, "12", strict=True):
            spools.append(await started(tmp_path, backend, account, BACKEND_SMTP_MAX_CONNECTIONS=most))
            stack.push_async_callback(spools[-1].aclose)
        for spool in spools * 5:
            await send(spool)
        await until(lambda: [stuck.held for stuck in holding] == [1, 2])
        for stuck in holding:
            stuck.let_go.set()
        await until_states(spools[0])
    assert [backend.most_at_once for backend in backends] == [1, 2]


async def test_a_successor_takes_over_what_has_not_begun(tmp_path: Path) -> None:
    stuck = Stuck()
    before, after = Backend(before_dot=stuck), Backend()
    old = await started(tmp_path, before, "a", BACKEND_SMTP_MAX_CONNECTIONS="1")
    async with old.transaction(CLIENT, "x@example.test", {}) as open_transaction:
        await open_transaction.add_recipient("late@example.test", {})
        for number in range(6):
            await send(old, content=b"%d\r\n" % number)
        await until(lambda: stuck.held == 1)
        new = await started(tmp_path, after, "a")
        await until(lambda: len(after.delivered) == 5)
        # A device that began before ends with the relay that it began with, and its message goes the new way.
        await open_transaction.send(pieces(b"late\r\n"))
        await until(lambda: len(after.delivered) == 6)
    await old.aclose()
    assert not before.closed
    assert locked(tmp_path)
    # What it had begun comes to its end, however long that takes, and only then its backend is let go.
    stuck.let_go.set()
    await until(lambda: before.closed)
    await until_states(new)
    assert before.contents == [b"0\r\n"]
    assert sorted(after.contents) == [*(b"%d\r\n" % number for number in range(1, 6)), b"late\r\n"]
    await new.aclose()
    assert not locked(tmp_path)


async def test_one_that_goes_again_gives_back_what_it_took_over(tmp_path: Path) -> None:
    """As when settings are read anew, and another account then can't start."""
    before, after = Backend(), Backend()
    async with spooling(before, tmp_path, "a") as old:
        new = await started(tmp_path, after, "a")
        await send(old)
        await until(lambda: after.delivered)
        await new.aclose()
        await send(old)
        await until(lambda: before.delivered)
        await until_states(old)
        await until(lambda: after.closed)
    assert (len(before.delivered), len(after.delivered)) == (1, 1)


async def test_mail_of_an_account_that_is_no_more_stays_and_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    gone = await started(tmp_path, Backend(before_dot=Stuck()), "gone")
    await send(gone)
    await gone.aclose()
    caplog.clear()
    async with spooling(Backend(), tmp_path, "stays") as spool:
        await until(lambda: [record.facts for record in caplog.records if "mail stays" in record.message])  # type: ignore[attr-defined]
        (facts,) = [record.facts for record in caplog.records if "mail stays" in record.message]  # type: ignore[attr-defined]
        assert (facts["account"], facts["messages"]) == ("gone", 1)
        assert [item["account"] for item in await listed(spool)] == ["gone"]
        backend = Backend()
        back = await started(tmp_path, backend, "gone")
        await until_states(spool)
        await back.aclose()
        assert len(backend.delivered) == 1


async def test_a_spool_of_its_own(tmp_path: Path) -> None:
    stuck = Stuck()
    elsewhere = tmp_path / "elsewhere" / "b.db"
    async with AsyncExitStack() as stack:
        first = await started(tmp_path, Backend(before_dot=stuck), "a")
        stack.push_async_callback(first.aclose)
        second = await started(tmp_path, Backend(before_dot=stuck), "b", SPOOL_URL=f"sqlite://{elsewhere}")
        stack.push_async_callback(second.aclose)
        await send(first)
        await send(second)
        for spool, account in ((first, "a"), (second, "b")):
            # By the service's socket, as the command does.
            url = {"SPOOL_URL": f"sqlite://{elsewhere}"} if account == "b" else {}
            assert [item["account"] for item in await listed(spool_to(Backend(), tmp_path, account, **url))] == [
                account
            ]
            assert [item["account"] for item in await listed(spool)] == [account]
        assert first.queue_name != second.queue_name == str(elsewhere)


async def test_who_can_not_be_adopted_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> int:
        raise SettingsMistake("SPOOL_URL: no")

    with monkeypatch.context() as patched:
        patched.setattr("legacy_email_proxy_plugins.spool.sqlite_store.SQLiteStore.adopt", broken)
        spool = spool_to(Backend(), tmp_path, "a")
        with pytest.raises(SettingsMistake):
            await spool.start()
        await spool.aclose()
    assert not locked(tmp_path)
    async with spooling(Backend(), tmp_path, "a"):
        assert locked(tmp_path)


async def test_a_start_that_is_cut_off_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            "legacy_email_proxy_plugins.spool.sqlite_files.BodyFiles.prepare", lambda _: asyncio.run(asyncio.sleep(0.2))
        )
        spool = spool_to(Backend(), tmp_path, "a")
        with anyio.move_on_after(0.05) as scope:
            await spool.start()
        assert scope.cancelled_caught
    assert not locked(tmp_path)
    assert not Spool._of_this_process[spool._spool.place]._deliveries
    async with spooling(Backend(), tmp_path, "a"):
        pass
