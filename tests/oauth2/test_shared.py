"""Tokens of several proxies at one database: one consent, one renewal at a time, no refresh token used twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from legacy_email_proxy import plugins
from legacy_email_proxy.contracts import Failure, Overloaded, Secret, StorageFull
from legacy_email_proxy_plugins.oauth2 import OAuth2Credentials, shared_store
from legacy_email_proxy_plugins.oauth2.grants import Granted
from legacy_email_proxy_plugins.oauth2.records import Damaged
from legacy_email_proxy_plugins.oauth2.shared_store import SharedStore
from oauth2.support import IMAP, STORE_KEY, context, disguises
from oauth2.test_against_authlib import SCOPE, provider, settings
from oauth2.test_tokens import settled
from realservers.authorization import REFRESH_TOKEN, AuthorizationServer
from realservers.certificates import Certificates
from realservers.postgres import Postgres

PUBLIC, CONFIDENTIAL = "a public client", "a secret in the form"


@asynccontextmanager
async def proxies(
    count: int,
    server: AuthorizationServer,
    certificates: Certificates,
    folder: Path,
    url: str,
    *,
    proof: str = PUBLIC,
    **given: str,
) -> AsyncIterator[list[OAuth2Credentials]]:
    """As many, each with a STATE_DIR and a connection of its own."""
    made = []
    for number in range(count):
        variables = settings(server, certificates, proof, REFRESH_TOKEN) | given
        made.append(OAuth2Credentials(context(folder / str(number), STATE_URL=url, **variables)))
        plugins._states.clear()
    try:
        yield made
    finally:
        for each in made:
            await each.aclose()


def store_of(credentials: OAuth2Credentials) -> SharedStore:
    store = credentials._keeper._store
    assert isinstance(store, SharedStore)
    return store


def seen_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each proxy looks at the database for each login."""
    monkeypatch.setattr(shared_store, "_FRESH_SECONDS", 0.0)


async def test_many_proxies_renew_once(certificates: Certificates, tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.new_database()
    with provider(certificates, PUBLIC) as server:
        given = {"OAUTH2_REFRESH_TOKEN": server.issue(SCOPE)}
        async with proxies(6, server, certificates, tmp_path, url, **given) as all_of_them:
            tokens = await asyncio.gather(*(each.secret(IMAP) for each in all_of_them * 3))
            assert len(set(tokens)) == 1
            assert server.times(REFRESH_TOKEN) == 1


async def test_a_rotated_refresh_token_is_never_used_twice(
    certificates: Certificates, tmp_path: Path, postgres: Postgres
) -> None:
    """All renew all the time; the server ends the consent at the first token that comes again."""
    url = postgres.new_database()
    with provider(certificates, PUBLIC) as server:
        given = {"OAUTH2_REFRESH_TOKEN": server.issue(SCOPE)}
        async with proxies(3, server, certificates, tmp_path, url, **given) as all_of_them:
            for _ in range(3):
                await asyncio.gather(*(each._keeper.fresh() for each in all_of_them))
            assert not server.revoked
            assert 3 <= server.times(REFRESH_TOKEN) <= 9
            record = await all_of_them[0]._store().load()
            assert record.refresh_token is not None
            assert {record.refresh_token.reveal()} == server.usable


async def test_one_consent_serves_all(
    certificates: Certificates, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_by_all(monkeypatch)
    url = postgres.new_database()
    with provider(certificates, PUBLIC) as server:
        given = {"OAUTH2_GRANT": "device_code"}
        async with proxies(2, server, certificates, tmp_path, url, **given) as (ours, theirs):
            with pytest.raises(Failure, match="nobody has consented yet"):
                await theirs.secret(IMAP)
            granted = await ours._grants.refreshed(Secret(server.issue(SCOPE)), "")
            assert isinstance(granted, Granted)
            await ours._keeper.adopt(granted)
            assert await theirs.secret(IMAP) == granted.access_token == await ours.secret(IMAP)


async def test_a_proxy_that_dies_while_it_renews(
    certificates: Certificates, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider has replaced the refresh token, and its answer is lost: nobody may use the old one now."""
    seen_by_all(monkeypatch)
    monkeypatch.setattr(shared_store, "LOCK_SECONDS", 0.5)
    url = postgres.new_database()
    with provider(certificates, PUBLIC) as server:
        given = {"OAUTH2_REFRESH_TOKEN": server.issue(SCOPE)}
        async with proxies(2, server, certificates, tmp_path, url, **given) as (dying, other):
            await dying.secret(IMAP)
            good = await other.secret(IMAP)
            server.may_answer.clear()
            renewing = asyncio.create_task(dying._keeper.fresh())
            with anyio.fail_after(50):
                while server.times(REFRESH_TOKEN) < 2:  # noqa: ASYNC110 (the server runs in a thread)
                    await asyncio.sleep(0.005)
            with pytest.raises(Overloaded, match="another proxy is busy"):
                await other._keeper.fresh()
            assert await other.secret(IMAP) == good, "its access token is still good"
            assert server.times(REFRESH_TOKEN) == 2
            # It was not dead after all.
            server.may_answer.set()
            await renewing
            assert await other.secret(IMAP) == await dying.secret(IMAP) != good
            assert not server.revoked


async def test_a_new_token_that_could_not_be_stored_keeps_the_others_from_the_old_one(
    certificates: Certificates, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database breaks off in the moment of storing, and is there again at once."""
    seen_by_all(monkeypatch)
    monkeypatch.setattr(shared_store, "LOCK_SECONDS", 0.0)
    url = postgres.new_database()
    with provider(certificates, PUBLIC) as server:
        given = {"OAUTH2_REFRESH_TOKEN": server.issue(SCOPE)}
        async with proxies(2, server, certificates, tmp_path, url, **given) as (ours, other):
            await ours.secret(IMAP)
            state = store_of(ours)._state
            change, changes = state.change, 0

            async def breaks_off(*arguments: Any) -> bytes | None:
                nonlocal changes
                changes += 1
                if changes == 2:  # the first one tries whether there is room
                    raise Failure("the connection broke", look_at="STATE_URL")
                return await change(*arguments)

            monkeypatch.setattr(state, "change", breaks_off)
            with pytest.raises(StorageFull):
                await ours._keeper.fresh()
            with pytest.raises(Overloaded, match="another proxy is busy"):
                await other._keeper.fresh()
            await ours.secret(IMAP)
            await other._keeper.fresh()
            assert not server.revoked
            assert server.times(REFRESH_TOKEN) == 3


async def test_a_lock_that_was_waited_for_in_vain_is_free(
    certificates: Certificates, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service stops while the database takes the lock for it."""
    monkeypatch.setattr(shared_store, "LOCK_SECONDS", 0.0)
    url = postgres.new_database()
    with provider(certificates, PUBLIC) as server:
        async with proxies(2, server, certificates, tmp_path, url) as both:
            ours, other = map(store_of, both)
            with anyio.CancelScope() as scope:
                scope.cancel()
                async with ours.locked():
                    pytest.fail("it was cancelled")
            await ours._state.read("what is asked after that", "has its answer later")
            async with other.locked():
                pass


async def test_while_the_database_is_away_what_is_in_memory_serves(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_by_all(monkeypatch)
    with provider(certificates, CONFIDENTIAL) as server, Postgres.start() as database:
        token, grant = {"OAUTH2_REFRESH_TOKEN": server.issue(SCOPE)}, {"OAUTH2_GRANT": "client_credentials"}
        made: Any = partial(proxies, server=server, certificates=certificates, folder=tmp_path, proof=CONFIDENTIAL)
        async with (
            made(2, url=database.new_database(), **token) as (user, late),
            made(1, url=database.new_database(), **grant) as (app,),
        ):
            good = await user.secret(IMAP)
            await anyio.to_thread.run_sync(database.kill)
            with anyio.fail_after(50):
                assert await user.secret(IMAP) == good
                with pytest.raises(Failure, match="the token can not be stored: "):
                    await user._keeper.fresh()
                assert await user.secret(IMAP) == good
                with pytest.raises(Damaged, match="the stored token can not be read: "):
                    await late.secret(IMAP)
                assert server.times(REFRESH_TOKEN) == 1, "nobody renews what could not be stored"
                # An application gets another token whenever it asks.
                assert (await app.secret(IMAP)).reveal() in server.access_tokens
            await anyio.to_thread.run_sync(database.start_again)


async def test_what_a_proxy_alone_had_is_taken_over(
    certificates: Certificates, tmp_path: Path, postgres: Postgres
) -> None:
    with provider(certificates, PUBLIC) as server:
        variables = settings(server, certificates, PUBLIC, "device_code")
        alone = OAuth2Credentials(context(tmp_path / "0", **variables))
        await alone._keeper.adopt(await alone._grants.refreshed(Secret(server.issue(SCOPE)), ""))
        await alone.aclose()
        url = postgres.new_database()
        given = {"OAUTH2_GRANT": "device_code"}
        async with proxies(2, server, certificates, tmp_path, url, **given) as (same, other):
            await same._keeper.fresh()
            assert await other.secret(IMAP) == await same.secret(IMAP)
            assert not server.revoked


async def test_with_a_key_no_secret_is_in_the_database(
    certificates: Certificates, tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.new_database()
    with provider(certificates, PUBLIC) as server:
        given = {"OAUTH2_REFRESH_TOKEN": server.issue(SCOPE)}
        async with proxies(2, server, certificates, tmp_path, url, OAUTH2_STORE_KEY=STORE_KEY, **given) as (ours, _):
            token = await ours.secret(IMAP)
            await settled(ours._keeper)
        ((octets,),) = postgres.execute("SELECT value FROM legacy_email_proxy.state", url)
        assert isinstance(octets, bytes)
        for secret in (token.reveal(), *server.refresh_tokens):
            assert not [form for form in disguises(secret) if form.encode() in octets]
        async with proxies(1, server, certificates, tmp_path, url, OAUTH2_STORE_KEY="another", **given) as (wrong,):
            with pytest.raises(Damaged, match=r"encrypted with another key.* its row in the table state"):
                await wrong.secret(IMAP)
