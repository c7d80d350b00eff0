"""`spool move`: all messages go to a spool of the other kind, as they are, and nothing is delivered from both."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from interop.proxy import run
from legacy_email_proxy.contracts import Failure, Refused, Secret, SettingsMistake, Unreachable
from legacy_email_proxy_plugins.spool import moving
from realservers.postgres import Postgres
from spool import stores, support
from spool.stores import PostgreSQL, SQLite
from spool.support import CONTENT, RECIPIENT, SENDER, Backend, listed, operate, send, spool_to, spooling, until_states

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000


def url(tested: stores.TestedStore, folder: Path) -> Secret:
    return Secret(tested.url if isinstance(tested, PostgreSQL) else f"sqlite://{folder}/there/spool.db")


def other(tested: stores.TestedStore, server: Postgres) -> stores.TestedStore:
    return PostgreSQL(server.new_database()) if isinstance(tested, SQLite) else SQLite()


def refuse(path: str) -> None:
    if path == "nobody@example.test":
        raise Refused(550, "5.1.1", "no such user")
    if path == "later@example.test":
        raise Refused(451, "4.3.0", "come back")


async def fill(folder: Path) -> None:
    """Two accounts with mail in every state, and with every kind of content."""
    backend = Backend(recipient=refuse)
    async with spooling(backend, folder, SPOOL_NOTIFY="both") as spool:
        await send(spool, RECIPIENT, "later@example.test", content=LARGE, parameters={"BODY": "8BITMIME"})
        await send(spool, "later@example.test", recipient_parameters={"NOTIFY": "FAILURE", "ORCPT": "rfc822;x"})
        await send(spool, "nobody@example.test", reverse_path="later@example.test")

        def refuse_all(path: str) -> None:
            raise Refused(550, "5.7.1", "no")

        await until_states(spool, "queued", "queued", "notifying", "queued")
        backend.recipient = refuse_all
        backend.sender = refuse
        await send(spool, content=b"x\r\n", reverse_path="")
        await until_states(spool, "queued", "queued", "notifying", "queued", "dead")
        await operate(spool, "hold", 2)
    async with spooling(Backend(sender=away), folder, "branch") as spool:
        await send(spool)
    async with spooling(Backend(), folder, "third") as spool:
        # The highest number is that of a message which is gone.
        await send(spool)
        await until_states(spool, "queued", "held", "notifying", "queued", "dead", "queued")


def away(path: str) -> None:
    raise Unreachable("away")


async def shown(folder: Path, **variables: str) -> list[Mapping[str, Any]]:
    spool = spool_to(Backend(), folder, **variables)
    try:
        return sorted(await listed(spool), key=lambda each: int(each["number"]))
    finally:
        await spool.aclose()


async def test_every_message_arrives_as_it_was(
    store: stores.TestedStore, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "here")
    before = await shown(tmp_path / "here")
    assert {each["state"] for each in before} == {"queued", "held", "notifying", "dead"}
    assert {each["account"] for each in before} == {"", "branch"}
    target = other(store, postgres)
    done = await spool_to(Backend(), tmp_path / "here").move(url(target, tmp_path))
    assert (done["messages"], done["missing"]) == (len(before), [])
    assert await shown(tmp_path / "here") == []
    assert store.bodies(tmp_path / "here") == []
    monkeypatch.setattr(support, "store", target)
    assert await shown(tmp_path / "there") == before
    backend = Backend()
    async with spooling(backend, tmp_path / "there") as spool:
        # When the notification has arrived, the message that it is about goes too.
        mine = [each for each in before if each["account"] == "" and each["state"] != "notifying"]
        await operate(spool, "retry", *(int(each["number"]) for each in mine))
        await until_states(spool, "queued")
        # Its number is a new one, so the history never tells of two messages under one number.
        receipt = await send(spool)
        assert int(receipt.queue_id or 0) > max(int(each["number"]) for each in before) + 1
    large = next(each for each in backend.delivered if each.content == LARGE)
    assert (large.reverse_path, large.forward_paths) == (SENDER, ("later@example.test",))
    assert large.parameters["BODY"] == "8BITMIME"
    assert CONTENT in backend.contents


async def test_a_move_that_is_interrupted_has_changed_nothing_and_is_begun_again(
    store: stores.TestedStore, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "here")
    before = await shown(tmp_path / "here")
    target = other(store, postgres)

    def killed(*_: Any) -> None:
        raise Failure("the power is gone")

    with monkeypatch.context() as interrupted:
        interrupted.setattr(moving, "_arrive", killed)
        with pytest.raises(Failure, match="the power is gone"):
            await spool_to(Backend(), tmp_path / "here").move(url(target, tmp_path))
    assert await shown(tmp_path / "here") == before
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(support, "store", target)
        backend = Backend()
        async with spooling(backend, tmp_path / "there") as spool:
            # A message that is sent there meanwhile is delivered, and no other one.
            with pytest.raises(Failure, match="no message"):
                await operate(spool, "show", 99)
        assert backend.delivered == []
    await spool_to(Backend(), tmp_path / "here").move(url(target, tmp_path))
    monkeypatch.setattr(support, "store", target)
    assert await shown(tmp_path / "there") == before


async def test_what_can_not_be_read_stays(tmp_path: Path) -> None:
    async with spooling(Backend(sender=away), tmp_path / "here") as spool:
        await send(spool, content=LARGE)
        await send(spool)
        await send(spool, content=LARGE)
    (SQLite().bodies(tmp_path / "here")[0]).write_bytes(b"short")
    done = await spool_to(Backend(), tmp_path / "here").move(url(SQLite(), tmp_path))
    (left,) = await shown(tmp_path / "here")
    assert (done["messages"], done["missing"]) == (2, [left["number"]])
    assert len(await shown(tmp_path / "there")) == 2


async def test_nothing_is_moved_onto_mail_or_away_from_a_service(
    store: stores.TestedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    async with spooling(Backend(sender=away), here) as spool:
        await send(spool)
        if isinstance(store, PostgreSQL):
            # The service that moves must not be taken for one that listens, and that one takes a moment to listen.
            with anyio.fail_after(50):
                while not await _listening(store):  # noqa: ASYNC110 (no event tells)
                    await anyio.sleep(0.01)
        with pytest.raises((Failure, SettingsMistake), match=r"has the spool|services have it open"):
            await spool_to(Backend(), here).move(url(SQLite(), tmp_path))
    with pytest.raises(Failure, match="already"):
        await spool_to(Backend(), here).move(Secret(store.url) if isinstance(store, PostgreSQL) else _file(here))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(support, "store", SQLite())
        async with spooling(Backend(sender=away), there) as spool:
            await send(spool)
    with pytest.raises(Failure, match="there are 1 messages where they are to go"):
        await spool_to(Backend(), here).move(_file(there))
    assert len(await shown(here)) == 1


def _file(folder: Path) -> Secret:
    return Secret(f"sqlite://{folder}/spool.db")


async def _listening(store: PostgreSQL) -> bool:
    def ask() -> bool:
        with store.connect() as connection:
            statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s"
            (count,) = connection.execute(statement, ("LISTEN %",)).fetchone() or (0,)
        return bool(count)

    return await anyio.to_thread.run_sync(ask)


def test_the_command(tmp_path: Path) -> None:
    variables = {
        "STATE_DIR": str(tmp_path / "here"), "MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "spool",
        "BACKEND_SMTP_HOST": "127.0.0.1",
    }  # fmt: skip

    async def one() -> None:
        async with spooling(Backend(sender=away), tmp_path / "here") as spool:
            await send(spool)

    anyio.run(one)
    new = tmp_path / "new-url"
    new.write_text(f"sqlite://{tmp_path}/there/spool.db\n")
    done = run("spool", "move", str(new), **variables)
    said = f"1 messages moved from {tmp_path}/here/spool.db to {tmp_path}/there/spool.db: now set SPOOL_URL to that\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    done = run("spool", "move", f"sqlite://{tmp_path}/here/spool.db", "--json", SPOOL_URL_FILE=str(new), **variables)
    assert done.returncode == 0, done.stderr
    assert '"messages": 1' in done.stdout
    for arguments, status, line in (
        ((), 2, "spool move: name one place, as SPOOL_URL would"),
        ((f"{tmp_path}/nowhere",), 2, "is no URL, and no file that has one: No such file"),
        (("https://x",), 2, "SPOOL_URL: write sqlite:///"),
    ):
        done = run("spool", "move", *arguments, **variables)
        assert done.returncode == status, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert line in done.stderr
    with sqlite3.connect(tmp_path / "there" / "spool.db") as database:
        assert database.execute("SELECT count(*) FROM message").fetchone() == (0,)
    database.close()
