"""What a spool in PostgreSQL promises besides: several proxies on it, a server that goes away, tables that change."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from legacy_email_proxy.contracts import Failure, Level, Refused, SettingsMistake, Unreachable
from legacy_email_proxy.replies import smtp_reply
from legacy_email_proxy_plugins.spool import delivery as delivery_module
from legacy_email_proxy_plugins.spool import migrations as migrations_module
from legacy_email_proxy_plugins.spool import postgres_connection as connection_module
from legacy_email_proxy_plugins.spool import postgres_store as postgres_module
from legacy_email_proxy_plugins.spool.incoming import IncomingMessage
from legacy_email_proxy_plugins.spool.leases import Leases
from legacy_email_proxy_plugins.spool.migrations import migrate
from legacy_email_proxy_plugins.spool.postgres_connection import InstanceId, PostgresConnection
from legacy_email_proxy_plugins.spool.store import Interrupted
from realservers.postgres import Postgres
from spool import support, surviving
from spool.stores import PostgreSQL
from spool.support import (
    CONTENT,
    Backend,
    bodies,
    listed,
    operate,
    raises,
    send,
    spool_to,
    spooling,
    until_states,
    until_tries,
)
from waiting import until

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 200_000


@pytest.fixture
def store(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> PostgreSQL:
    tested = PostgreSQL(postgres.new_database())
    monkeypatch.setattr(support, "store", tested)
    return tested


pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(postgres_module, "LEASE_SECONDS", 0.6)
    return 0.6


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """One that a test may kill."""
    with Postgres.start() as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for seconds before it tries again."""
    monkeypatch.setattr(delivery_module, "_TROUBLE_SECONDS", 0.05)
    monkeypatch.setattr(connection_module, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(connection_module, "_LONGEST_PAUSE", 0.2)


# Several proxies.


async def test_two_share_what_waits_and_nothing_is_delivered_twice(tmp_path: Path) -> None:
    async with spooling(Backend(before_dot=lambda _: anyio.sleep_forever()), tmp_path / "before") as spool:
        for number in range(120):
            await send(spool, content=b"%d" % number)

    async def slowly(_: bytes) -> None:
        await anyio.sleep(0.005)

    one, two = Backend(before_dot=slowly), Backend(before_dot=slowly)
    async with spooling(one, tmp_path / "one") as first, spooling(two, tmp_path / "two"):
        await until_states(first)
    counts = Counter([*one.contents, *two.contents])
    assert counts == {b"%d" % number: 1 for number in range(120)}
    assert len(one.contents) > 10
    assert len(two.contents) > 10


@pytest.mark.long
async def test_a_killed_proxys_messages_are_taken_over_when_its_leases_end(
    tmp_path: Path, store: PostgreSQL, short_leases: float, caplog: pytest.LogCaptureFixture
) -> None:
    count = 8
    backend = Backend()
    async with spooling(backend, tmp_path / "survivor") as survivor:
        process = await asyncio.create_subprocess_exec(
            sys.executable, surviving.__file__, str(tmp_path / "killed"), store.url, str(count), str(3 * short_leases),
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            said = [(await process.stdout.readline()).split() for _ in range(count + count // 2)]
            # Renewed for longer than they were given at first, in the middle of a delivery.
            await anyio.sleep(4 * short_leases)
            assert backend.delivered == []
        finally:
            process.kill()
            await process.wait()
            process._transport.close()  # type: ignore[attr-defined]
        assert sorted(word for word, _ in said) == [b"250"] * count + [b"delivered"] * (count // 2)
        await until_states(survivor)
    there = {number for word, number in said if word == b"delivered"}
    assert sorted(backend.contents) == sorted({b"%d" % number for number in range(count)} - there)
    assert "messages of a proxy that is gone are taken over" in caplog.text


async def _crash(state_dir: Path, *contents: bytes, until_tried: int = 0) -> None:
    """A service that takes these, begins to deliver what there is, and ends as by SIGKILL: nothing is given back."""
    backend = Backend(before_dot=lambda _: anyio.sleep_forever())
    spool = spool_to(backend, state_dir)
    await spool.start()
    for content in contents:
        await send(spool, content=content)
    await until(lambda: len(backend.tried) >= until_tried)
    store: Any = spool._spool.store
    store._leave = store._give_back = lambda *_: None
    spool.grace_seconds = 0.0
    await spool.aclose()


async def test_what_kills_the_process_is_found_out(tmp_path: Path, store: PostgreSQL) -> None:
    """Of two messages that were always on their way together, the one that is tried alone comes to its end."""
    variables = {"SPOOL_POISON_TRIES": "3"}
    await _crash(tmp_path, b"poison", b"innocent", until_tried=2)
    # Whether they were tried at once, or leased for it, is chance.
    store.execute(tmp_path, "UPDATE message SET unfinished = 0, owner = NULL")
    for _ in range(2):
        await _crash(tmp_path, until_tried=2)

    async def deadly(content: bytes) -> None:
        if content == b"poison":
            await anyio.sleep_forever()

    # From here on only one of them is on its way at a time, and the older one first.
    first = Backend(before_dot=deadly)
    async with spooling(first, tmp_path, **variables):
        await until(lambda: first.tried)
        await anyio.sleep(0.05)
        assert len(first.tried) == 1
    await _crash(tmp_path, until_tried=1)
    backend = Backend()
    async with spooling(backend, tmp_path, **variables) as spool:
        (item,) = await until_states(spool, "set aside")
        assert "3 tries in a row came to no orderly end" in item["reason"]
    assert backend.contents == [b"innocent"]


async def test_started_again_it_has_its_own_at_once(tmp_path: Path) -> None:
    """What was in flight when a process died does not wait for its lease."""
    state_dir = tmp_path / "state"
    await _crash(state_dir, CONTENT)
    async with spooling(Backend(), tmp_path / "other"):
        pass
    backend = Backend()
    async with spooling(backend, state_dir) as spool:
        await until_states(spool)
    assert backend.contents == [CONTENT]


def test_a_copied_folder_is_not_the_same_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = InstanceId(tmp_path / "owner"), InstanceId(tmp_path / "owner")
    first.take()
    second.take()
    assert (first.previous, second.previous) == (None, None)  # the first one still runs
    first.release()
    third = InstanceId(tmp_path / "owner")
    third.take()
    assert third.previous == first.name
    third.release()
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    copied = InstanceId(tmp_path / "owner")
    copied.take()
    assert copied.previous is None
    copied.release()
    assert len({first.name, second.name, third.name, copied.name}) == 4


async def test_a_proxy_that_lost_its_lease_stops_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lapsed = [True]
    monkeypatch.setattr(Leases, "lapsed", lambda *_: lapsed[0])
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        item = await until_tries(spool, 1)
        assert "its lease has ended" in item["recipients"][0]["reply"]
        assert backend.delivered == []
        lapsed[0] = False
        await operate(spool, "retry", item["number"])
        await until_states(spool)
    assert backend.contents == [CONTENT]


async def test_a_lease_is_renewed_as_long_as_it_takes(tmp_path: Path, short_leases: float) -> None:
    """Of two messages that are leased together, one waits for the only connection for longer than a lease."""
    async with spooling(Backend(before_dot=lambda _: anyio.sleep_forever()), tmp_path / "before") as spool:
        await send(spool)
        await send(spool)
    backend = Backend(before_dot=lambda _: anyio.sleep(1.5 * short_leases))
    async with spooling(backend, tmp_path, BACKEND_SMTP_MAX_CONNECTIONS="1") as spool:
        await until_states(spool)
    assert len(backend.tried) == len(backend.delivered) == 2


@pytest.mark.usefixtures("short_leases")
async def test_what_one_proxy_can_not_deliver_now_another_one_can(tmp_path: Path) -> None:
    """A new message is its own, but it does not keep that while its backend is of no use."""
    backend = Backend()
    away = Backend(sender=raises([Unreachable("away")] * 100))
    async with spooling(away, tmp_path / "one") as first, spooling(backend, tmp_path / "two"):
        await send(first, content=b"tried in vain")
        await until_tries(first, 1)
        await send(first, content=b"not tried")
        await until(lambda: backend.contents == [b"not tried"])
    assert len(away.tried) == 1


def test_a_lease_ends_here_before_it_ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(Leases, "clock", lambda _: now[0])
    held = Leases(60)
    held.add(1, asked=95, counted=True)
    held.add(2, asked=95, counted=False)
    now[0] = 154.9
    assert not held.lapsed(1)
    held.renewed([2, 3], asked=150)
    now[0] = 155
    assert (held.lapsed(1), held.lapsed(2), held.lapsed(3)) == (True, False, False)
    assert (held.drop(1), held.drop(1), held.drop(2)) == (True, False, False)
    assert held.numbers == []


async def test_the_operator_beside_services_that_run(tmp_path: Path) -> None:
    backend = Backend(recipient=raises([Unreachable("away")]))
    async with spooling(backend, tmp_path / "service") as service:
        await send(service)
        await until_tries(service, 1)
        # Another machine: nothing in common but the database.
        other = spool_to(Backend(), tmp_path / "elsewhere")
        (item,) = await listed(other)
        assert b"".join(await operate(other, "export", item["number"])) == CONTENT
        for action, state in (("hold", "held"), ("release", "queued"), ("hold", "held")):
            await operate(other, action, item["number"])
            assert [each["state"] for each in await listed(other)] == [state]
        await send(service)
        (_, second) = await listed(other)
        await operate(other, "drop", second["number"])
        # By its due time it would wait for a minute; the service is told.
        service._delivery._gate.judged()  # type: ignore[union-attr]
        await operate(other, "retry", item["number"])
        await until(lambda: backend.delivered)
        await until_states(service)
        assert await operate(other, "migrate") == [{"done": "migrate", "version": len(migrations_module.MIGRATIONS)}]
        assert await operate(service, "migrate") == [{"done": "migrate", "version": len(migrations_module.MIGRATIONS)}]
    assert backend.contents == [CONTENT]
    assert not (tmp_path / "service" / "spool.sock").exists()


async def test_a_crash_leaves_no_body_behind_for_good(tmp_path: Path, store: PostgreSQL) -> None:
    async with spooling(Backend(), tmp_path) as spool:
        incoming = spool._spool.store.receive()
        await incoming.write(LARGE)
        # It is not given up, as after a crash; but the thread that writes it has to be done before the test is.
        assert isinstance(incoming, IncomingMessage)
        assert incoming._writing is not None
        await incoming._writing
        assert len(bodies(tmp_path)) == 1
    async with spooling(Backend(), tmp_path / "other"):
        assert len(bodies(tmp_path)) == 1  # its device may still be sending
    async with spooling(Backend(), tmp_path):
        assert bodies(tmp_path) == []


# A server that goes away.


@pytest.mark.long
@pytest.mark.usefixtures("quick")
async def test_what_had_a_250_outlives_a_killed_server(tmp_path: Path, own_server: Postgres) -> None:
    backend = Backend()
    seen: list[bytes] = []
    failed: list[bytes] = []
    replies: set[tuple[int, str]] = set()
    stop = False

    async def device(name: int) -> None:
        number = 0
        while not stop:
            number += 1
            content = b"%d.%d " % (name, number) + b"x" * (90_000 if number % 5 == 0 else 100)
            try:
                await send(spool, content=content)
            except Failure as failure:
                replies.add((smtp_reply(failure).code, smtp_reply(failure).enhanced))
                failed.append(content)
                await anyio.sleep(0.02)
            else:
                seen.append(content)

    url = own_server.new_database()
    async with spooling(backend, tmp_path, SPOOL_URL=url, SPOOL_RETRY_SECONDS="1") as spool:
        async with anyio.create_task_group() as devices:
            for name in range(8):
                devices.start_soon(device, name)
            for _ in range(3):
                before = len(seen)
                await until(lambda before=before: len(seen) > before + 50, 20)  # type: ignore[misc]
                await anyio.to_thread.run_sync(own_server.kill)
                await anyio.sleep(0.1)
                await anyio.to_thread.run_sync(own_server.start_again)
            before = len(seen)
            await until(lambda: len(seen) > before + 20, 20)
            stop = True
        await until(lambda: set(seen) <= set(backend.contents), 20)
        await until_states(spool)
    assert replies == {(451, "4.3.0")}
    assert not set(backend.contents) & set(failed)
    assert max(Counter(backend.contents).values()) == 1


@pytest.mark.usefixtures("quick")
async def test_a_service_starts_without_its_server_and_heals(
    tmp_path: Path, own_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says neither that the spool is open while it isn't, nor leaves open whether it is back."""
    caplog.set_level(logging.INFO)
    url = own_server.new_database()
    own_server.kill()
    backend = Backend()
    async with spooling(backend, tmp_path, SPOOL_URL=url) as spool:
        for content in (CONTENT, LARGE):
            with pytest.raises(Failure) as caught:
                await send(spool, content=content)
            assert smtp_reply(caught.value).code == 451
        with pytest.raises(Failure, match="no connection to PostgreSQL"):
            await listed(spool_to(Backend(), tmp_path / "elsewhere", SPOOL_URL=url))
        await until(lambda: "the spool can not be read: " in caplog.text)
        assert "the spool is open" not in caplog.messages
        await anyio.to_thread.run_sync(own_server.start_again)
        with anyio.fail_after(50):
            while True:
                try:
                    await send(spool)
                    break
                except Failure:
                    await anyio.sleep(0.02)
        await until(lambda: backend.contents == [CONTENT])
        await until(lambda: caplog.messages.count("the spool can be read again") == 1)


@pytest.mark.long
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("trouble", ["standby", "full", "full for ordinary roles", "full for this database"])
async def test_a_service_starts_before_a_server_that_takes_nobody_now(
    tmp_path: Path, own_server: Postgres, trouble: str
) -> None:
    """It answers, and refuses; that is no mistake in the settings, and passes."""
    backend = Backend()
    url = own_server.new_database()
    own_server.execute("CREATE ROLE proxy LOGIN")
    own_server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} OWNER TO proxy")
    url = url.replace("postgres@", "proxy@")
    with ExitStack() as stack:
        if trouble == "standby":
            own_server.kill()
            own_server.start_again(standby=True)
        else:
            if trouble == "full for this database":
                own_server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} CONNECTION LIMIT 0")
            else:
                own_server.kill()
                own_server.start_again("max_connections=8")
                for _ in range(5 if trouble == "full for ordinary roles" else 8):
                    stack.enter_context(psycopg.connect(own_server.url("postgres")))
        async with spooling(backend, tmp_path, SPOOL_URL=url) as spool:
            with pytest.raises(Failure) as caught:
                await send(spool)
            assert smtp_reply(caught.value).code == 451
            if trouble == "standby":
                own_server.execute("SELECT pg_promote()")
            elif trouble == "full for this database":
                own_server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} CONNECTION LIMIT -1")
            stack.close()
            with anyio.fail_after(50):
                while True:
                    try:
                        await send(spool)
                        break
                    except Failure:
                        await anyio.sleep(0.05)
            await until(lambda: backend.contents == [CONTENT])


@pytest.mark.usefixtures("quick")
async def test_a_server_that_was_restarted_meanwhile_costs_nobody_a_451(tmp_path: Path, own_server: Postgres) -> None:
    backend = Backend()
    async with spooling(backend, tmp_path, SPOOL_URL=own_server.new_database()) as spool:
        await send(spool)
        await until_states(spool)
        own_server.kill()
        own_server.start_again()
        await send(spool)
        await until_states(spool)
    assert len(backend.delivered) == 2


@pytest.mark.long
@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
async def test_a_commit_of_which_nobody_knows_is_no_250(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks behind the commit: its device has to send it again, so what was stored is taken back."""
    execute = PostgresConnection.execute
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        with monkeypatch.context() as broken:

            def break_behind(self: PostgresConnection, statement: str, parameters: Any = ()) -> Any:
                done = execute(self, statement, parameters)
                if statement == "COMMIT" or (statement.startswith("INSERT INTO batch") and not self.in_transaction):
                    raise Interrupted("the connection to PostgreSQL broke")
                return done

            broken.setattr(PostgresConnection, "execute", break_behind)

            async def one() -> None:
                with pytest.raises(Failure) as caught:
                    await send(spool, content=content)
                assert smtp_reply(caught.value).code == 451

            async with anyio.create_task_group() as together:
                for _ in range(5):
                    together.start_soon(one)
        await until_states(spool)
        await until(lambda: not bodies(tmp_path))
        await send(spool, content=content)
        await until_states(spool)
    assert backend.contents == [content]


async def test_an_outcome_is_written_down_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to its commit is lost, so it is written again: no second notification."""
    monkeypatch.setattr(delivery_module, "_TROUBLE_SECONDS", 0.01)
    execute = PostgresConnection.execute
    lost = [True]

    def break_behind(self: PostgresConnection, statement: str, parameters: Any = ()) -> Any:
        done = execute(self, statement, parameters)
        if statement == "COMMIT" and lost and wrote:
            lost.clear()
            raise Interrupted("the connection to PostgreSQL broke")
        wrote.extend([True] * statement.startswith("UPDATE message SET due = ?, since"))
        return done

    wrote: list[bool] = []
    monkeypatch.setattr(PostgresConnection, "execute", break_behind)
    backend = Backend(recipient=raises([Refused(550, "5.1.1", "no such user")]))
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        await until(lambda: not lost)
        await until_states(spool)
    assert len(backend.delivered) == 1
    assert backend.delivered[0].reverse_path == ""


async def test_a_body_that_went_with_a_crash_is_no_250(tmp_path: Path, store: PostgreSQL) -> None:
    """Its pieces are synced with its record only; a server that crashed in between has forgotten them."""

    async def broken() -> AsyncIterator[bytes]:
        yield LARGE
        await until(lambda: bodies(tmp_path))
        store.execute(tmp_path, "DELETE FROM piece")
        yield b"the end"

    async with spooling(Backend(), tmp_path) as spool:
        with pytest.raises(Failure, match="body_is_whole") as caught:
            await send(spool, content=broken())
        assert smtp_reply(caught.value).code == 451
        assert await listed(spool) == []


# Its tables and settings.


def _connected(url: str) -> PostgresConnection:
    def search_path(connection: PostgresConnection) -> None:
        connection.execute("SET search_path TO legacy_email_proxy")

    return PostgresConnection(connection_module.conninfo(url), search_path, "SPOOL_URL")


async def test_many_that_start_together_make_one_set_of_tables(store: PostgreSQL) -> None:
    def one() -> None:
        connection = _connected(store.url)
        try:
            migrate(connection)
        finally:
            connection.close()

    async with anyio.create_task_group() as together:
        for _ in range(6):
            together.start_soon(anyio.to_thread.run_sync, one)
    with store.connect() as connection:
        assert connection.execute("SELECT * FROM version").fetchall() == [(len(migrations_module.MIGRATIONS),)]


async def test_the_tables_of_an_earlier_version_are_brought_up_to_date(
    tmp_path: Path, store: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with spooling(Backend(before_dot=lambda _: anyio.sleep_forever()), tmp_path) as spool:
        await send(spool, content=LARGE)
    later = (*migrations_module.MIGRATIONS, "ALTER TABLE message ADD COLUMN colour text NOT NULL DEFAULT 'grey'")
    monkeypatch.setattr(migrations_module, "MIGRATIONS", later)
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        await until_states(spool)
    assert backend.contents == [LARGE]
    store.execute(tmp_path, "SELECT colour FROM message")
    # And one that is interrupted leaves what was there.
    broken = (*later, "ALTER TABLE message DROP COLUMN colour; SELECT 1 / 0")
    monkeypatch.setattr(migrations_module, "MIGRATIONS", broken)
    with pytest.raises(SettingsMistake, match="division by zero"):
        async with spooling(Backend(), tmp_path):
            pass
    store.execute(tmp_path, "SELECT colour FROM message")


async def test_the_tables_of_a_later_version_are_left_alone(tmp_path: Path, store: PostgreSQL) -> None:
    async with spooling(Backend(), tmp_path):
        pass
    store.execute(tmp_path, "UPDATE version SET number = 99")
    with pytest.raises(SettingsMistake) as caught:
        async with spooling(Backend(), tmp_path):
            pass
    assert len(caught.value.lines) == 1
    assert "it has version 99, and this program knows" in caught.value.lines[0]


@pytest.mark.parametrize(
    ("database", "reason"),
    [
        ("nowhere", 'database "nowhere" does not exist'),
        ("nobody", 'role "nobody" does not exist'),
        ("latin", "has the encoding LATIN1; make one with UTF8"),
        ("?sslmode=quark", 'invalid sslmode value: "quark"'),
        ("?sslmode=verify-full&sslrootcert=system", "server does not support SSL, but SSL was required"),
    ],
)
async def test_a_database_that_can_not_work_is_one_line(
    tmp_path: Path, postgres: Postgres, database: str, reason: str
) -> None:
    url = postgres.url("nowhere")
    if database == "latin":
        url = postgres.new_database("ENCODING LATIN1 TEMPLATE template0")
    if database == "nobody":
        url = postgres.new_database().replace("postgres@", "nobody:topsecret@")
    if database.startswith("?"):
        url = postgres.new_database() + database
    url = url.replace("postgres@", "postgres:topsecret@")
    spool = spool_to(Backend(), tmp_path, SPOOL_URL=url)
    with pytest.raises(SettingsMistake) as caught:
        await spool.start()
    await spool.aclose()
    (line,) = caught.value.lines
    assert line.startswith("SPOOL_URL: can not use postgresql://127.0.0.1:")
    assert reason in line
    assert "topsecret" not in line


def test_a_missing_driver_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "legacy_email_proxy_plugins.spool.postgres_connection", None)
    with pytest.raises(SettingsMistake, match=r"pip install 'legacy-email-proxy\[postgres\]'"):
        spool_to(Backend(), tmp_path)


async def test_commits_are_synced_whatever_the_database_says(tmp_path: Path, store: PostgreSQL) -> None:
    for setting in ("synchronous_commit = off", "statement_timeout = 60000"):
        store.execute(tmp_path, f"ALTER DATABASE {store.url.rpartition('/')[2]} SET {setting}")
    async with spooling(Backend(), tmp_path) as spool:
        inner: Any = spool._spool.store
        asked = "SELECT current_setting('synchronous_commit'), current_setting('statement_timeout')"
        assert await inner._writer.run(lambda connection: connection.execute(asked).fetchone()) == ("on", "0")


async def test_check_says_that_the_server_does_not_sync(tmp_path: Path) -> None:
    findings = await spool_to(Backend(), tmp_path).probe()
    assert [finding.level for finding in findings] == [Level.GOOD, Level.WARNING]
    assert "fsync=off" in findings[1].text
