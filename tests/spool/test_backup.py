"""A backup is whole while the service takes and delivers mail, and what it holds is delivered when it is put back."""

from __future__ import annotations

import asyncio
import logging
import os
import smtplib
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from interop.proxy import run, running
from legacy_email_proxy.contracts import Failure
from legacy_email_proxy_plugins.spool import backup as backup_module
from legacy_email_proxy_plugins.spool import sqlite_store as sqlite_module
from realservers.postgres import Postgres, require_programs
from realservers.processes import wait_until
from spool import support
from spool.stores import PostgreSQL
from spool.support import CONTENT, Backend, bodies, listed, send, spool_to, spooling, until_states
from waiting import until

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 10_000


def numbered(number: int) -> bytes:
    """Every other one is too large for a row."""
    return b"%d\r\n" % number + (LARGE if number % 2 else b"small\r\n")


def number_of(content: bytes) -> int:
    return int(content.partition(b"\r")[0])


def away() -> Backend:
    """One that never comes to the final dot; what it was given is due at once afterwards."""
    return Backend(before_dot=lambda _: anyio.sleep_forever())


async def test_a_backup_is_whole_while_mail_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_module, "_PAGES", 2)  # many turns for the others
    stop, sent = False, 0
    accepted: set[int] = set()
    there: list[tuple[set[int], set[int], int]] = []

    async def device(spool: Any) -> None:
        nonlocal sent
        while not stop:
            number, sent = sent, sent + 1
            await send(spool, content=numbered(number))
            accepted.add(number)

    backend = Backend(before_dot=lambda _: anyio.sleep(0.002))
    async with spooling(backend, tmp_path / "here", BACKEND_SMTP_MAX_CONNECTIONS="3") as spool:
        async with anyio.create_task_group() as devices:
            for _ in range(4):
                devices.start_soon(device, spool)
            for turn in range(5):
                await until(lambda turn=turn: len(accepted) > 30 * (turn + 1))  # type: ignore[misc]
                before, gone = set(accepted), set(map(number_of, backend.contents[:-10]))
                done = await spool.back_up(tmp_path / f"backup{turn}")
                assert done["missing"] == []
                # All that had its 250 before and was not delivered meanwhile has to be in it.
                there.append((before - set(map(number_of, backend.contents)), gone, done["messages"]))
            stop = True
        await until_states(spool, seconds=30)
        await until(lambda: not bodies(tmp_path / "here"))
    assert {number_of(each) for each in backend.contents} == set(range(sent))
    for turn, (least, gone, messages) in enumerate(there):
        restored = await _delivered_from(tmp_path / f"backup{turn}", tmp_path / f"there{turn}")
        assert len(restored) == messages
        assert least <= restored.keys()
        assert not restored.keys() & gone
        assert all(content == numbered(number) for number, content in restored.items())
    assert sum(messages for _, _, messages in there) > 0


async def _delivered_from(folder: Path, state_dir: Path) -> dict[int, bytes]:
    backend = Backend()
    done = await spool_to(Backend(), state_dir).restore(folder)
    assert done["missing"] == []
    async with spooling(backend, state_dir) as spool:
        await until_states(spool, seconds=30)
    assert len(backend.contents) == done["messages"]
    return {number_of(content): content for content in backend.contents}


async def test_what_is_delivered_meanwhile_is_removed_behind_the_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, go = backup_module.copy_out, anyio.Event()
    async with spooling(Backend(before_dot=lambda _: go.wait()), tmp_path / "here") as spool:
        await send(spool, content=LARGE)

        def after_it_was_delivered(*arguments: Any) -> Any:
            anyio.from_thread.run_sync(go.set)
            anyio.from_thread.run(until_states, spool)
            return copy(*arguments)

        monkeypatch.setattr("legacy_email_proxy_plugins.spool.sqlite_store.copy_out", after_it_was_delivered)
        done = await spool.back_up(tmp_path / "backup")
        assert (done["messages"], done["missing"]) == (1, [])
        await until(lambda: not bodies(tmp_path / "here"))


async def test_a_backup_by_the_socket_and_by_oneself(tmp_path: Path) -> None:
    async with spooling(away(), tmp_path / "here") as service:
        await send(service, content=LARGE)
        done = await spool_to(Backend(), tmp_path / "here").back_up(tmp_path / "one")
        assert done == {"done": "backup", "folder": str(tmp_path / "one"), "messages": 1, "missing": [], "aside": ""}
    done = await spool_to(Backend(), tmp_path / "here").back_up(tmp_path / "two")
    assert done["messages"] == 1
    for folder in ("one", "two"):
        (body,) = (tmp_path / folder / "spool.db.bodies").iterdir()
        assert body.read_bytes() == LARGE
        assert [path.stat().st_mode & 0o077 for path in (tmp_path / folder, body, body.parent)] == [0, 0, 0]
        assert {path.name for path in (tmp_path / folder).iterdir()} == {"spool.db", "spool.db.bodies"}


async def test_a_body_that_is_missing_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    async with spooling(away(), tmp_path / "here") as spool:
        await send(spool, content=LARGE)
        await send(spool, content=CONTENT)
        await send(spool, content=LARGE + LARGE)
        await until_states(spool, "queued", "queued", "queued")
        min(bodies(tmp_path / "here"), key=lambda path: path.stat().st_size).unlink()
        done = await spool.back_up(tmp_path / "backup")
        assert (done["messages"], done["missing"]) == (3, [1])
    done = await spool_to(Backend(), tmp_path / "there").restore(tmp_path / "backup")
    assert (done["messages"], done["missing"]) == (3, [1])
    backend = Backend()
    async with spooling(backend, tmp_path / "there") as spool:
        await until_states(spool, "set aside")
    assert sorted(backend.contents, key=len) == [CONTENT, LARGE + LARGE]


async def test_a_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    async with spooling(away(), tmp_path / "here") as spool:
        await send(spool, content=LARGE)
        with pytest.raises(Failure, match="full is not empty"):
            await spool.back_up(tmp_path / "full")
        with pytest.raises(Failure, match="Not a directory"):
            await spool.back_up(tmp_path / "file" / "backup")
        assert (await spool.back_up(tmp_path / "backup"))["messages"] == 1
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["holiday.jpg"]


async def test_a_backup_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "x")

    async with spooling(away(), tmp_path / "here") as spool:
        await send(spool, content=LARGE)
        with monkeypatch.context() as broken:
            broken.setattr("shutil.copyfileobj", full)
            with pytest.raises(Failure, match="No space left on device"):
                await spool.back_up(tmp_path / "backup")
        assert list((tmp_path / "backup").iterdir()) == []
        assert not (tmp_path / "here" / "spool.db.backup").exists()
        assert (await spool.back_up(tmp_path / "backup"))["messages"] == 1


async def test_a_backup_that_was_given_up_never_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread hangs at a slow disk, and goes on when the records of the next backup lie where its own did."""
    copy_bodies, begun, go_on = backup_module._copy_bodies, threading.Event(), threading.Event()

    def slow(source: Path, target: Path, found: Any) -> list[int]:
        if target.parent.name == "first":
            begun.set()
            go_on.wait(10)
        else:
            # As slow as that one.
            go_on.set()
            ended.wait(10)
        return copy_bodies(source, target, found)

    ended = threading.Event()
    copy_out = backup_module.copy_out

    def copying(*given: Any) -> Any:
        try:
            return copy_out(*given)
        finally:
            ended.set()

    monkeypatch.setattr(backup_module, "_copy_bodies", slow)
    monkeypatch.setattr(sqlite_module, "copy_out", copying)
    async with spooling(away(), tmp_path / "here") as spool:
        await send(spool, content=LARGE)
        async with anyio.create_task_group() as first:
            first.start_soon(spool.back_up, tmp_path / "first")
            await until(begun.is_set)
            first.cancel_scope.cancel()
        await send(spool, content=LARGE)
        assert (await spool.back_up(tmp_path / "second"))["messages"] == 2
        assert [path.name for path in (tmp_path / "first").iterdir()] == []


async def test_a_service_that_stops_does_not_wait_for_a_backup(tmp_path: Path) -> None:
    spool = spool_to(away(), tmp_path / "here")
    await spool.start()
    spool.grace_seconds = 0.05
    await send(spool, content=LARGE)
    writer: Any = spool._spool.store._writer  # type: ignore[attr-defined]
    begun = asyncio.Event()

    def endless(_: Any, between: Any) -> None:
        writer._loop.call_soon_threadsafe(begun.set)
        while True:
            between()

    backing_up = asyncio.create_task(writer.run_outside(endless))
    await begun.wait()
    await send(spool, content=CONTENT)  # commits go on
    with anyio.fail_after(50):
        await spool.aclose()
    with pytest.raises(Failure, match="being closed"):
        await backing_up


async def test_nothing_is_restored_over_mail(tmp_path: Path) -> None:
    async with spooling(away(), tmp_path / "here") as spool:
        await send(spool, content=LARGE)
        await spool.back_up(tmp_path / "backup")
        with pytest.raises(Failure, match=rf"process {os.getpid()} has the spool .* open; stop it first"):
            await spool_to(Backend(), tmp_path / "here").restore(tmp_path / "backup")
    with pytest.raises(Failure, match="there are 1 messages in the spool"):
        await spool_to(Backend(), tmp_path / "here").restore(tmp_path / "backup")
    with pytest.raises(Failure, match="holds no backup of a spool"):
        await spool_to(Backend(), tmp_path / "there").restore(tmp_path / "nowhere")
    async with spooling(away(), tmp_path / "here") as spool:
        await until_states(spool, "queued")


async def test_restored_where_a_spool_was_that_is_empty_or_damaged(tmp_path: Path) -> None:
    async with spooling(away(), tmp_path / "here") as spool:
        await send(spool, content=LARGE)
        await spool.back_up(tmp_path / "backup")
    async with spooling(Backend(), tmp_path / "empty") as spool:
        for _ in range(3):
            await send(spool)
        await until_states(spool)
    # As after a crash in the middle of a try, and with a log that is not yet worked in.
    (tmp_path / "empty" / "spool.db.trying").write_bytes((1).to_bytes(8, "little") + bytes(8 * 511))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "spool.db").write_bytes(b"no database" * 1000)
    for folder in ("empty", "damaged"):
        done = await spool_to(Backend(), tmp_path / folder).restore(tmp_path / "backup")
        assert done["messages"] == 1
        assert ("unreadable" in done["aside"]) == (folder == "damaged")
        backend = Backend()
        async with spooling(backend, tmp_path / folder) as spool:
            await until_states(spool)
        assert backend.contents == [LARGE]
    assert len(list((tmp_path / "damaged").glob("spool.db.unreadable-*"))) == 1


def test_a_backup_of_another_version_is_refused(tmp_path: Path) -> None:
    for version in (0, 99):
        (tmp_path / "backup").mkdir(exist_ok=True)
        (tmp_path / "backup" / "spool.db").unlink(missing_ok=True)
        with sqlite3.connect(tmp_path / "backup" / "spool.db") as database:
            database.execute(f"PRAGMA user_version = {version}")
            database.execute("CREATE TABLE x (y)")
        database.close()
        with pytest.raises(Failure, match=f"version {version}, and this program knows"):
            backup_module.restore(tmp_path / "backup", tmp_path / "spool.db")
    assert not (tmp_path / "spool.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_restores_is_the_services(tmp_path: Path) -> None:
    asyncio.run(_backed_up(tmp_path))
    (tmp_path / "there").mkdir()
    os.chown(tmp_path / "there", 12345, 12345)
    backup_module.restore(tmp_path / "backup", tmp_path / "there" / "spool.db")
    assert {path.stat().st_uid for path in (tmp_path / "there").rglob("*")} == {12345}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_by_looking_is_the_services(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12345, 12345)
    (tmp_path / "others").write_text("not the service's")
    (state / "spool.db.reserve").symlink_to(tmp_path / "others")
    assert asyncio.run(listed(spool_to(Backend(), state))) == []
    made = list(state.rglob("*"))
    assert "spool.db" in {path.name for path in made}
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in made} == {(12345, 12345)}
    assert (tmp_path / "others").stat().st_uid == 0


async def _backed_up(tmp_path: Path) -> None:
    async with spooling(away(), tmp_path / "here") as spool:
        await send(spool, content=LARGE)
        await spool.back_up(tmp_path / "backup")


@pytest.mark.long
def test_the_command(tmp_path: Path) -> None:
    asyncio.run(_backed_up(tmp_path))
    variables = {
        "STATE_DIR": str(tmp_path / "here"), "MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "spool",
        "BACKEND_SMTP_HOST": "127.0.0.1",
    }  # fmt: skip
    done = run("spool", "backup", str(tmp_path / "again"), **variables)
    said = f"backup of {tmp_path}/here/spool.db in {tmp_path}/again: 1 messages\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    variables["STATE_DIR"] = str(tmp_path / "there")
    done = run("spool", "restore", str(tmp_path / "again"), "--json", **variables)
    assert done.returncode == 0, done.stderr
    assert '"messages": 1' in done.stdout
    assert "1  queued" in run("spool", "list", **variables).stdout
    for arguments, status, line in (
        (("backup",), 2, "spool backup: name one folder"),
        (("restore", "a", "b"), 2, "spool restore: name one folder"),
        (("drop", "x"), 2, "spool drop: 'x' is no number of a message"),
        (("restore", str(tmp_path / "again")), 1, "there are 1 messages in the spool"),
        (("backup", "/dev/null/x"), 1, "Not a directory: /dev/null/x"),
    ):
        done = run("spool", *arguments, **variables)
        assert done.returncode == status, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert line in done.stderr


@pytest.mark.long
@pytest.mark.timeout(120)
def test_the_command_beside_a_service_that_is_killed(tmp_path: Path) -> None:
    """What was backed up while the real service had it arrives from another machine, and here too."""
    mail = {name: tmp_path / name / "mail" for name in ("here", "there")}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    down = {
        "STATE_DIR": str(tmp_path / "here"), "MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "spool",
        "BACKEND_SMTP_HOST": "127.0.0.1", "BACKEND_SMTP_PORT": str(port), "SPOOL_RETRY_SECONDS": "1",
        "SMTP_ADD_RECEIVED": "false", "SMTP_ADD_MISSING": "false",
    }  # fmt: skip
    with pytest.raises(_Killed):
        _back_up_and_die(down, tmp_path / "backup")
    restored = run("spool", "restore", str(tmp_path / "backup"), **(down | {"STATE_DIR": str(tmp_path / "there")}))
    assert restored.returncode == 0, restored.stderr
    for name, folder in mail.items():
        up = {"STATE_DIR": str(tmp_path / name), "SPOOL_RELAY": "maildir", "RELAY_MAILDIR_PATH": str(folder)}
        with running(down | up):
            wait_until(lambda: len(list(folder.glob("new/*"))) == 2, f"both arrived {name}", 20)  # noqa: B023
        assert sorted(file.read_bytes() for file in (folder / "new").iterdir()) == sorted([CONTENT, LARGE])


class _Killed(Exception):
    pass


def _back_up_and_die(down: dict[str, str], folder: Path) -> None:
    with running(down) as proxy:
        with smtplib.SMTP(*proxy.smtp, timeout=50) as device:
            for content in (CONTENT, LARGE):
                device.sendmail("a@example.test", ["b@example.test"], content)
        done = run("spool", "backup", str(folder), **down)
        assert (done.returncode, done.stderr) == (0, "")
        refused = run("spool", "restore", str(folder), **down)
        assert refused.returncode == 1
        assert f"process {proxy.process.pid} has the spool" in refused.stderr
        proxy.process.kill()
        proxy.process.wait(10)
        raise _Killed


async def test_postgresql_has_tools_of_its_own(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they do it: what `pg_dump` saw while a service was at work is delivered from another database."""
    monkeypatch.setattr(support, "store", PostgreSQL(postgres.new_database()))
    dump = _program("pg_dump")
    async with spooling(Backend(before_dot=lambda _: anyio.sleep_forever()), tmp_path / "here") as spool:
        for number in range(4):
            await send(spool, content=numbered(number))
        for refused in (spool.back_up(tmp_path / "x"), spool.restore(tmp_path / "x")):
            with pytest.raises(Failure, match="pg_dump --schema=legacy_email_proxy"):
                await refused
        command = [dump, "--schema=legacy_email_proxy", _url()]
        done = await anyio.run_process(command)
    monkeypatch.setattr(support, "store", PostgreSQL(postgres.new_database()))
    await anyio.run_process([_program("psql"), "-q", "-v", "ON_ERROR_STOP=1", _url()], input=done.stdout)
    support.store.execute(tmp_path, "UPDATE message SET leased_until = now()")
    backend = Backend()
    monkeypatch.setattr("legacy_email_proxy_plugins.spool.postgres_store.LEASE_SECONDS", 2.0)
    async with spooling(backend, tmp_path / "there") as spool:
        await until_states(spool)
    assert sorted(backend.contents) == sorted(map(numbered, range(4)))


def _program(name: str) -> str:
    return str(require_programs() / name)


def _url() -> str:
    assert isinstance(support.store, PostgreSQL)
    return support.store.url


# A file that is missing.


def kept_of(folder: Path, name: str) -> list[Path]:
    return list(folder.glob(f"{name}.without-records-*"))


@pytest.mark.parametrize("how", ["missing", "empty"])
async def test_bodies_without_their_records_are_kept(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with spooling(away(), tmp_path) as spool:
        await send(spool, content=LARGE)
    (tmp_path / "spool.db").rename(tmp_path / "elsewhere.db")
    if how == "empty":
        (tmp_path / "spool.db").touch()
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        assert await listed(spool) == []
        await send(spool, content=LARGE)
        await until_states(spool)
    (kept,) = kept_of(tmp_path, "spool.db.bodies")
    assert [body.read_bytes() for body in kept.glob("[!.]*")] == [LARGE]
    (told,) = [record for record in caplog.records if "is missing" in record.message]
    assert told.levelno == logging.ERROR
    assert kept.name.removeprefix("spool.db.bodies") in told.message
    # Put back with its file, it is delivered.
    (tmp_path / "spool.db").unlink()
    (tmp_path / "elsewhere.db").rename(tmp_path / "spool.db")
    (tmp_path / "spool.db.bodies").rename(tmp_path / "away")
    kept.rename(tmp_path / "spool.db.bodies")
    async with spooling(backend, tmp_path) as spool:
        await until_states(spool)
    assert backend.contents == [LARGE, LARGE]


@pytest.mark.parametrize("copied", ["before the upgrade", "later"])
async def test_an_older_copy_of_the_file_costs_no_body(
    tmp_path: Path, copied: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The documentation once said that the spool is one file, so this is how it was put back."""
    async with spooling(Backend(), tmp_path):
        pass
    if copied == "before the upgrade":
        support.store.execute(tmp_path, "DROP TABLE start")
    (tmp_path / "copy.db").write_bytes((tmp_path / "spool.db").read_bytes())
    async with spooling(away(), tmp_path) as spool:
        await send(spool, content=LARGE)
    (tmp_path / "copy.db").rename(tmp_path / "spool.db")
    async with spooling(Backend(), tmp_path) as spool:
        assert await listed(spool) == []
    (kept,) = kept_of(tmp_path, "spool.db.bodies")
    assert [body.read_bytes() for body in kept.iterdir()] == [LARGE]
    assert f"1 of them are in no record, and are kept in {kept}" in caplog.text
    async with spooling(Backend(), tmp_path):
        pass
    assert kept_of(tmp_path, "spool.db.bodies") == [kept]


async def test_a_log_without_its_database_is_kept(tmp_path: Path) -> None:
    """SQLite itself would delete it, and all messages may be in it."""
    (tmp_path / "spool.db-wal").write_bytes(b"messages")
    async with spooling(Backend(), tmp_path):
        pass
    (kept,) = kept_of(tmp_path, "spool.db-wal")
    assert kept.read_bytes() == b"messages"
