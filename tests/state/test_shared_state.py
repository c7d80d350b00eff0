"""What several proxies know together in PostgreSQL: values that are changed in turn, names that one at a time has."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from pathlib import Path

import anyio
import psycopg
import pytest

from interop.proxy import run
from legacy_email_proxy import plugins
from legacy_email_proxy.commands.trial import _environment
from legacy_email_proxy.contracts import Failure, SettingsMistake, SharedState
from legacy_email_proxy.settings import TABLE, read
from legacy_email_proxy_plugins.spool import migrations
from legacy_email_proxy_plugins.state import shared_state, table
from realservers.postgres import Postgres
from realservers.processes import free_ports
from state.support import proxies
from waiting import until


@pytest.fixture
def states(postgres: Postgres) -> list[SharedState]:
    """Two proxies at one database."""
    return proxies(postgres.new_database(), 2)


async def test_what_one_writes_the_other_reads(states: list[SharedState]) -> None:
    ours, theirs = states
    assert await theirs.read("kind", "key") is None
    assert await ours.change("kind", "key", lambda _: b"\0 octets") == b"\0 octets"
    assert await theirs.read("kind", "key") == b"\0 octets"
    assert await theirs.read("another kind", "key") is None
    assert await theirs.change("kind", "key", lambda octets: None) is None
    assert await ours.read("kind", "key") is None


async def test_no_change_is_lost(states: list[SharedState]) -> None:
    def one_more(octets: bytes | None) -> bytes:
        return json.dumps(json.loads(octets or b"0") + 1).encode()

    await asyncio.gather(*(state.change("count", "x", one_more) for state in states * 50))
    assert await states[0].read("count", "x") == b"100"


async def test_a_change_that_fails_changes_nothing(states: list[SharedState]) -> None:
    def wrong(octets: bytes | None) -> bytes:
        raise ValueError("no")

    await states[0].change("kind", "key", lambda _: b"old")
    with pytest.raises(ValueError, match="no"):
        await states[0].change("kind", "key", wrong)
    assert await states[0].read("kind", "key") == b"old"
    await states[1].change("kind", "key", lambda octets: (octets or b"") + b", new")
    assert await states[0].read("kind", "key") == b"old, new"


async def test_one_holder_at_a_time(states: list[SharedState]) -> None:
    ours, theirs = states
    assert await ours.take("lock", "x", "a", 60)
    assert await ours.take("lock", "x", "a", 60), "again, for longer"
    assert not await theirs.take("lock", "x", "b", 60)
    assert await theirs.take("lock", "y", "b", 60)
    await theirs.leave("lock", "x", "b")
    assert not await theirs.take("lock", "x", "b", 60)
    await ours.leave("lock", "x", "a")
    assert await theirs.take("lock", "x", "b", 60)


async def test_whose_time_is_over_loses_it(states: list[SharedState]) -> None:
    ours, theirs = states
    assert await ours.take("lock", "x", "a", 0)
    assert await theirs.take("lock", "x", "b", 60)
    assert not await ours.take("lock", "x", "a", 60)
    await ours.leave("lock", "x", "a")
    assert not await ours.take("lock", "x", "a", 60), "what another one has is not given back"


async def test_a_value_outlives_its_holder_and_a_name_without_one_leaves_no_row(postgres: Postgres) -> None:
    url = postgres.new_database()
    (state,) = proxies(url, 1)
    for key in ("valued", "bare"):
        await state.take("lock", key, "a", 60)
    await state.change("lock", "valued", lambda _: b"v")
    await state.change("lock", "bare", lambda _: None)
    assert not await state.take("lock", "bare", "b", 60), "removing the value took the name away"
    for key in ("valued", "bare"):
        await state.leave("lock", key, "a")
    assert await state.read("lock", "valued") == b"v"
    assert postgres.execute("SELECT key FROM legacy_email_proxy.state", url) == [("valued",)]


async def test_a_spool_of_the_first_version_gets_the_table(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.new_database()
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
        (old,) = proxies(url, 1)
        with pytest.raises(Failure):
            await old.read("kind", "key")
    (new,) = proxies(url, 1)
    assert await new.change("kind", "key", lambda _: b"v") == b"v"


async def test_without_a_server_everybody_is_told_at_once() -> None:
    (state,) = proxies(f"postgresql://x:hunter2@127.0.0.1:{free_ports(1)[0]}/none", 1)
    for _ in range(20):
        with anyio.fail_after(50), pytest.raises(Failure, match="no connection to PostgreSQL") as raised:
            await state.read("kind", "key")
        assert "hunter2" not in str(raised.value)


async def test_it_goes_on_when_the_server_is_back(caplog: pytest.LogCaptureFixture) -> None:
    with Postgres.start() as server:
        url = server.new_database()
        (state,) = proxies(url, 1)
        await state.change("kind", "key", lambda _: b"v")
        server.kill()
        for _ in range(3):
            with pytest.raises(Failure):
                await state.read("kind", "key")
        await anyio.to_thread.run_sync(server.start_again)

        async def back() -> bool:
            try:
                return await state.read("kind", "key") == b"v"
            except Failure:
                return False

        async with asyncio.timeout(50):
            while not await back():  # noqa: ASYNC110 (nothing tells that the pause between two attempts is over)
                await asyncio.sleep(0.01)
    assert [record.getMessage() for record in caplog.records] == ["shared state is away", "shared state is there again"]


async def test_nobody_waits_for_a_server_that_hangs(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call waits its time, the others none. What was begun is done all the same."""
    url = postgres.new_database()
    (state,) = proxies(url, 1)
    await state.change("kind", "key", lambda _: b"old")
    monkeypatch.setattr(shared_state._Calls, "seconds", 0.05)
    with psycopg.connect(url) as other:
        other.execute("SELECT FROM legacy_email_proxy.state FOR UPDATE")
        with pytest.raises(Failure, match="PostgreSQL does not answer"):
            await state.change("kind", "key", lambda _: b"new")
        for _ in range(100):
            with pytest.raises(Failure, match="PostgreSQL does not answer"):
                await state.read("kind", "key")
        other.rollback()
    monkeypatch.setattr(shared_state._Calls, "seconds", 50.0)
    await until(lambda: not state._calls._hangs)  # type: ignore[attr-defined]
    assert await state.read("kind", "key") == b"new"


def of(**given: str) -> SharedState | None:
    settings = read(given, TABLE)
    assert not settings.mistakes
    return plugins.shared_state(settings)


def test_where_it_is(tmp_path: Path) -> None:
    url = "postgresql://x@localhost/spool"
    assert of() is None
    assert of(SPOOL_URL="sqlite:////srv/spool.db") is None
    spool = of(SPOOL_URL=url)
    assert spool is not None
    assert of(STATE_URL=url) is spool, "one connection for each database"
    assert of(STATE_URL=url.replace("spool", "state"), SPOOL_URL=url) is not spool


@pytest.mark.parametrize("url", ["sqlite:////srv/state.db", "mysql://x@localhost/state", "postgresql://u:p@ss@host/x"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(SettingsMistake, match=r"\ASTATE_URL: that is no URL of a PostgreSQL database") as raised:
        of(STATE_URL=url)
    assert "ss@host" not in str(raised.value)


def test_the_connection_ends_with_the_last_who_has_it(postgres: Postgres) -> None:
    url = postgres.new_database()
    ended: list[str] = []
    close: Callable[[table.StateTable], None] = table.StateTable.close

    def noted(self: table.StateTable) -> None:
        ended.append("closed")
        close(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(table.StateTable, "close", noted)
        first, second = of(STATE_URL=url), of(STATE_URL=url)
        assert first is not None
        anyio.run(first.read, "kind", "key")
        del first
        gc.collect()
        assert not ended
        del second
        # A task that has ended may be in a circle of references.
        gc.collect()
        assert ended == ["closed"]


def trial(**environ: str) -> dict[str, str]:
    """What `check --send` makes of the settings that matter here."""
    found = _environment(environ, "/tmp/check-x")
    return {name: found[name] for name in ("SPOOL_URL", "STATE_URL", "PROXY_PROTOCOL_NETWORKS")}


def test_a_trial_has_a_spool_of_its_own_and_the_real_tokens(tmp_path: Path) -> None:
    own = {"SPOOL_URL": "sqlite:///tmp/check-x/spool.db", "STATE_URL": "", "PROXY_PROTOCOL_NETWORKS": ""}
    url = "postgresql://x@localhost/spool"
    assert trial(PROXY_PROTOCOL_NETWORKS="127.0.0.1") == own
    assert trial(SPOOL_URL="sqlite:////srv/spool.db") == own
    assert trial(SPOOL_URL=url) == trial(STATE_URL=url) == own | {"STATE_URL": url}
    (tmp_path / "url").write_text(url)
    assert trial(SPOOL_URL_FILE=str(tmp_path / "url")) == own | {"STATE_URL": url}


def test_check_says_whether_it_can_be_used(postgres: Postgres, tmp_path: Path) -> None:
    for folder in ("cur", "new", "tmp"):
        (tmp_path / "out" / folder).mkdir(parents=True)
    given = {"MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "maildir", "RELAY_MAILDIR_PATH": str(tmp_path / "out")}
    url = postgres.new_database()
    done = run("check", STATE_DIR=str(tmp_path), STATE_URL=url, **given)
    assert (done.returncode, "the database that all proxies share takes changes" in done.stdout) == (0, True)
    done = run("check", STATE_DIR=str(tmp_path), STATE_URL=url.replace("/spool", "/nothing"), **given)
    assert (done.returncode, "no connection to PostgreSQL" in done.stdout) == (1, True)
