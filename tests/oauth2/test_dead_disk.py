"""A disk that does not answer: nobody waits for it without limit, and what was begun is finished in its order."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from fakes.oauth2 import FakeAuthorizationServer
from interop.proxy import run
from legacy_email_proxy.contracts import Failure, StorageFull
from legacy_email_proxy_plugins.oauth2.records import TokenStore
from legacy_email_proxy_plugins.oauth2.store import Damaged, Store
from legacy_email_proxy_plugins.slow_calls import SlowCalls
from oauth2.support import IMAP, SECRET, credentials_for, pair, server_tls, variables
from oauth2.test_store import RECORD, names_in, store_in
from realservers.certificates import Certificates
from waiting import until

SECONDS = 50.0


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, *methods: str, seconds: float = 0.1) -> Iterator[list[str]]:
    """Whatever of the store touches the disk hangs until the end; what is given are the calls that were begun.

    With single methods the others have to answer within `seconds`.
    """
    begun: list[str] = []
    alive = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(SlowCalls, "seconds", seconds)
        for name in methods or ("_load", "_save", "_reserve", "_open_lock"):
            real = getattr(Store, name)

            def hang(*args: object, name: str = name, real: object = real) -> object:
                begun.append(name)
                alive.wait(SECONDS)
                return real(*args)  # type: ignore[operator]

            patched.setattr(Store, name, hang)
        try:
            yield begun
        finally:
            alive.set()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def awake(store: TokenStore) -> None:
    """Until the disk has done all that it was asked for."""
    assert isinstance(store, Store)
    while store._disk._pending:
        await asyncio.wait(store._disk._pending)


async def test_what_was_seen_last_is_used_and_one_thread_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    await store.save(RECORD)
    assert await store.load() == RECORD
    with hanging(monkeypatch) as begun:
        with anyio.fail_after(50):
            for _ in range(100):
                assert await store.load() == RECORD
        assert begun == ["_load"]
        with pytest.raises(StorageFull, match=r"the token can not be stored: the disk does not answer .see STATE_DIR"):
            await store.save(RECORD)
    await awake(store)
    await store_in(tmp_path).save(replace(RECORD, scope="other"))
    assert (await store.load()).scope == "other"


async def test_nothing_was_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    with hanging(monkeypatch):
        with anyio.fail_after(50), pytest.raises(Damaged, match=r"can not be read: the disk does not answer"):
            await store.load()
    await awake(store)


async def test_the_lock_is_held_until_the_last_save_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = store_in(tmp_path), store_in(tmp_path)
    with hanging(monkeypatch, "_save", seconds=1.0):
        with pytest.raises(StorageFull):
            async with store.locked():
                await store.save(RECORD)
        order: list[str] = []

        async def lock() -> None:
            async with other.locked():
                order.append((await other.load()).scope)

        waiting = asyncio.create_task(lock())
        await asyncio.wait({waiting}, timeout=0.3)
        assert order == [], "else the save, when the disk comes back, would undo what the other has stored"
    await waiting
    assert order == [RECORD.scope]
    await awake(store)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("step", ["_open_lock", "_reserve"])
async def test_what_nobody_waits_for_any_more_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, cancelled: bool
) -> None:
    store = store_in(tmp_path)
    before = _descriptors()

    async def use() -> None:
        async with store.locked(), store.room():
            pass

    with hanging(monkeypatch, step, seconds=SECONDS if cancelled else 1.0) as begun:
        using = asyncio.create_task(use())
        if cancelled:
            await until(lambda: bool(begun))
            using.cancel()
            await asyncio.sleep(0)
        else:
            await asyncio.wait({using})
    with pytest.raises(asyncio.CancelledError if cancelled else StorageFull):
        await using
    await awake(store)
    await asyncio.sleep(0)
    assert not [name for name in names_in(tmp_path) if name.endswith(".part")]
    assert _descriptors() <= before
    async with store_in(tmp_path).locked():
        pass


async def test_a_login_goes_on_with_the_token_that_is_known(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token") as (credentials, fake):
        token = await credentials.secret(IMAP)
        with hanging(monkeypatch), anyio.fail_after(50):
            for _ in range(20):
                assert await credentials.secret(IMAP) == token
            started = credentials_for(fake, certificates.ca_file, tmp_path, "refresh_token")
            with pytest.raises(Failure, match="the disk does not answer"):
                await started.secret(IMAP)
        await awake(credentials._keeper._store)
        await awake(started._keeper._store)
        assert fake.times("token") == 1


@pytest.mark.long
async def test_check_says_so_and_ends(certificates: Certificates, tmp_path: Path) -> None:
    folder = tmp_path / "credentials.oauth2"
    folder.mkdir()
    # Whoever opens it waits for a writer, for ever.
    os.mkfifo(folder / "default.json")
    async with FakeAuthorizationServer(tls=server_tls(certificates.good)) as fake:
        given = variables(fake, certificates.ca_file, "refresh_token", STATE_DIR=str(tmp_path), MAILDROP_PLUGIN="none")
        given |= {"OAUTH2_REFRESH_TOKEN": fake.issue_refresh_token(), "BACKEND_SMTP_CREDENTIALS": "oauth2"}
        given |= {"BACKEND_SMTP_HOST": "localhost", "BACKEND_SMTP_PORT": "1", "BACKEND_SMTP_USER": "alice"}
        checked = await run_sync(lambda: run("check", **given))
        assert checked.returncode == 1
        assert (
            "FAILED   credentials oauth2: the stored token can not be read: the disk does not answer" in checked.stdout
        )
        assert fake.times("token") == 0


async def test_an_application_does_without(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(certificates.good, tmp_path, "client_credentials", **given) as (credentials, fake):
        with hanging(monkeypatch), anyio.fail_after(50):
            token = await credentials.secret(IMAP)
            assert await credentials.secret(IMAP) == token
        await awake(credentials._keeper._store)
        assert fake.times("token") == 1
