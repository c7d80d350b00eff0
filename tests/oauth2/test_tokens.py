"""One account's token over its life: one renewal for all who wait, rotation, refusal, pauses, and other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.oauth2 import Drop, Hang, Status
from legacy_email_proxy.contracts import CredentialsRefused, Failure, NoCredentials, StorageFull, logged_in
from legacy_email_proxy_plugins.backoff import Pause
from legacy_email_proxy_plugins.oauth2 import OAuth2Credentials
from legacy_email_proxy_plugins.oauth2.errors import GrantRefused
from legacy_email_proxy_plugins.oauth2.tokens import Keeper
from oauth2.support import IMAP, SECRET, SMTP, Person, credentials_for, pair
from realservers.certificates import Certificates


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def keeper_of(credentials: OAuth2Credentials, clock: Callable[[], float]) -> Keeper:
    """The account's, going by this clock."""
    store, logger = credentials._store(), credentials._context.logger
    keeper = Keeper(credentials._configuration, credentials._grants, store, logger, clock)
    credentials.__dict__["_keeper"] = keeper
    return keeper


async def settled(keeper: Keeper) -> None:
    if keeper._task is not None:
        await asyncio.wait({keeper._task}, timeout=50)


async def test_fifty_wait_for_one_renewal(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token", server={"rotate": True}) as (credentials, fake):
        fake.may_answer.clear()
        waiting = [asyncio.create_task(credentials.secret(account)) for account in (IMAP, SMTP) * 25]
        await fake.arrived.wait()
        await asyncio.sleep(0)
        for task in waiting[:10]:
            task.cancel()
        fake.may_answer.set()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends[:10])
        assert {str(end) for end in ends[10:]} == {"***"}
        assert len(set(ends[10:])) == 1
        assert fake.times("token") == 1


async def test_all_who_waited_cancelled_and_the_rotated_token_is_stored(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token", server={"rotate": True}) as (credentials, fake):
        fake.may_answer.clear()
        task = asyncio.create_task(credentials.secret(IMAP))
        await fake.arrived.wait()
        task.cancel()
        fake.may_answer.set()
        await credentials.aclose()
        (stored,) = fake.refresh_tokens
        record = await credentials._store().load()
        assert record.refresh_token is not None
        assert record.refresh_token.reveal() == stored


@pytest.mark.fault("B27")
async def test_fifty_wait_for_one_failure(certificates: Certificates, tmp_path: Path) -> None:
    server = {"script": {"token": Status(400, {"error": "invalid_grant"})}}
    async with pair(certificates.good, tmp_path, "refresh_token", server=server) as (credentials, fake):
        ends = await asyncio.gather(*(credentials.secret(IMAP) for _ in range(50)), return_exceptions=True)
        assert {type(end) for end in ends} == {GrantRefused}
        assert fake.times("token") == 1


async def test_renewed_from_four_fifths_of_its_life_while_it_still_serves(
    certificates: Certificates, tmp_path: Path
) -> None:
    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token", server={"lifetime": 1000}) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        first = await keeper.token()
        clock.now += 799
        assert await keeper.token() == first
        assert fake.times("token") == 1
        clock.now += 1
        fake.may_answer.clear()
        assert await keeper.token() == first, "nobody waits while it is good"
        fake.may_answer.set()
        await settled(keeper)
        assert await keeper.token() != first
        assert fake.times("token") == 2


async def test_a_token_that_is_good_outlives_a_provider_that_is_not(certificates: Certificates, tmp_path: Path) -> None:
    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token", server={"lifetime": 1000}) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        first = await keeper.token()
        fake.script["token"] = Drop()
        clock.now += 900
        for _ in range(5):
            assert await keeper.token() == first
            await settled(keeper)
        assert fake.times("token") == 2, "asked once, then a pause"
        clock.now += 95
        with pytest.raises(Failure):
            await keeper.token()
        del fake.script["token"]
        clock.now += 60
        assert await keeper.token() != first


async def test_a_pause_grows_and_ends(certificates: Certificates, tmp_path: Path) -> None:
    clock = Clock()
    server = {"script": {"token": Status(400, {"error": "invalid_grant"})}}
    async with pair(certificates.good, tmp_path, "refresh_token", server=server) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        asked = []
        for _ in range(24 * 60):
            with pytest.raises(CredentialsRefused):
                await keeper.token()
            asked.append(fake.times("token"))
            clock.now += 60
        assert asked[0] == 1
        assert asked[9] <= 5, "in the first ten minutes"
        assert asked[-1] <= 32, "in a day"


async def test_a_pause_does_not_outlast_a_consent(certificates: Certificates, tmp_path: Path) -> None:
    clock = Clock()
    async with pair(certificates.good, tmp_path, "authorization_code", server={"lifetime": 100}) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        for _ in range(3):
            with pytest.raises(NoCredentials, match=r"^nobody has consented yet -> run: legacy-email-proxy authorize"):
                await keeper.token()
        assert fake.times("token") == 0
        await credentials.authorize(Person(fake.browse), listen=False)
        fake.refresh_tokens.clear()
        clock.now += 200
        for _ in range(8):
            with pytest.raises(NoCredentials):
                await keeper.token()
            clock.now += keeper._act_pause.left
        with pytest.raises(NoCredentials):
            await keeper.token()
        assert keeper._act_pause.left == 3600
        with pytest.raises(NoCredentials, match=r"no longer valid; not asked again for 3600 s -> run: legacy-"):
            await keeper.token()
        await credentials.authorize(Person(fake.browse), listen=False)
        first = await keeper.token()
        clock.now += 200
        assert await keeper.token() != first, "the hour isn't over"


@pytest.mark.parametrize("rotate", [True, False])
async def test_rotation(certificates: Certificates, tmp_path: Path, rotate: bool) -> None:
    clock = Clock()
    server = {"rotate": rotate, "lifetime": 1000}
    async with pair(certificates.good, tmp_path, "refresh_token", server=server) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        for _ in range(3):
            await keeper.token()
            clock.now += 2000
        used = [form["refresh_token"] for form in fake.forms]
        assert len(set(used)) == (3 if rotate else 1)
        # A restart goes on with the stored one, although the variable still holds the first.
        again = keeper_of(credentials_for(
            fake, certificates.ca_file, tmp_path, "refresh_token", OAUTH2_REFRESH_TOKEN=used[0]
        ), clock)  # fmt: skip
        await again.token()
        assert fake.forms[3]["refresh_token"] not in used or not rotate


async def test_a_variable_that_changed_wins(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token", server={"rotate": True}) as (credentials, fake):
        first = await credentials.secret(IMAP)
        new = fake.issue_refresh_token()
        changed = credentials_for(fake, certificates.ca_file, tmp_path, "refresh_token", OAUTH2_REFRESH_TOKEN=new)
        assert await changed.secret(IMAP) != first, "the access token of the old one isn't used either"
        assert fake.forms[1]["refresh_token"] == new


async def test_other_settings_mean_another_token(certificates: Certificates, tmp_path: Path) -> None:
    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(certificates.good, tmp_path, "client_credentials", **given) as (credentials, fake):
        first = await credentials.secret(IMAP)
        same = credentials_for(fake, certificates.ca_file, tmp_path, "client_credentials", **given)
        assert await same.secret(IMAP) == first, "a restart asks for none"
        other = credentials_for(
            fake, certificates.ca_file, tmp_path, "client_credentials", **given | {"OAUTH2_SCOPE": "other"}
        )
        assert await other.secret(IMAP) != first


async def test_authorize_reaches_the_process_that_is_running(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "authorization_code") as (service, fake):
        with pytest.raises(CredentialsRefused):
            await service.secret(IMAP)
        beside = credentials_for(fake, certificates.ca_file, tmp_path, "authorization_code")
        await beside.authorize(Person(fake.browse), listen=False)
        first = await service.secret(IMAP)
        await beside.authorize(Person(fake.browse), listen=False)
        assert await service.secret(IMAP) != first
        assert fake.times("token") == 2


async def test_two_processes_never_spend_one_refresh_token_twice(certificates: Certificates, tmp_path: Path) -> None:
    server = {"rotate": True}
    async with pair(certificates.good, tmp_path, "refresh_token", server=server) as (one, fake):
        (seed,) = fake.refresh_tokens
        two = credentials_for(fake, certificates.ca_file, tmp_path, "refresh_token", OAUTH2_REFRESH_TOKEN=seed)
        secrets = await asyncio.gather(*(each.secret(IMAP) for each in (one, two) * 10))
        assert len(set(secrets)) == 1
        assert fake.times("token") == 1
        assert fake.refresh_tokens, "no family was revoked"


# A backend that refuses.


async def test_a_refused_token_is_renewed_once_and_the_login_repeated(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token") as (credentials, fake):
        old = await credentials.secret(IMAP)
        tried = []

        async def attempt(secret: object) -> str:
            tried.append(secret)
            if secret == old:
                raise CredentialsRefused("no")
            return "in"

        assert await logged_in(credentials, IMAP, attempt) == "in"
        assert await logged_in(credentials, SMTP, attempt) == "in"
        assert tried[0] == old
        assert tried[1] == tried[2] != old
        assert fake.times("token") == 2


async def test_ten_refused_at_once_are_one_renewal(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token") as (credentials, fake):
        old = await credentials.secret(IMAP)

        async def attempt(secret: object) -> None:
            await asyncio.sleep(0)
            if secret == old:
                raise CredentialsRefused("no")

        await asyncio.gather(*(logged_in(credentials, IMAP, attempt) for _ in range(10)))
        assert fake.times("token") == 2


async def test_a_backend_that_always_refuses_is_no_reason_to_hammer(certificates: Certificates, tmp_path: Path) -> None:
    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token", server={"lifetime": 1e6}) as (credentials, fake):
        keeper_of(credentials, clock)
        logins = 0

        async def attempt(secret: object) -> None:
            nonlocal logins
            logins += 1
            raise CredentialsRefused("no such mailbox")

        for _ in range(24 * 60):
            with pytest.raises(CredentialsRefused, match="no such mailbox"):
                await logged_in(credentials, IMAP, attempt)
            clock.now += 60
        assert fake.times("token") <= 32
        assert logins <= 24 * 60 + 32


async def test_a_provider_that_gives_the_refused_token_again_is_not_hammered(
    certificates: Certificates, tmp_path: Path
) -> None:
    same = Status(200, {"access_token": "the-same", "expires_in": 3600})
    async with pair(certificates.good, tmp_path, "refresh_token", server={"script": {"token": same}}) as (
        credentials,
        fake,
    ):

        async def attempt(secret: object) -> None:
            raise CredentialsRefused("no")

        for _ in range(10):
            with pytest.raises(CredentialsRefused, match="no"):
                await logged_in(credentials, IMAP, attempt)
        assert fake.times("token") == 2


@pytest.mark.fault("D7")
async def test_a_clock_that_is_set_back_does_not_make_a_pause_longer() -> None:
    clock = Clock()
    pause = Pause(60.0, 3600.0, clock)
    pause.lengthen()
    assert pause.left == 60
    clock.now -= 86400
    assert pause.left == 0
    pause.lengthen()
    assert pause.left == 120


# Storing.


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("legacy_email_proxy_plugins.oauth2.store._write", full)


async def test_without_room_for_a_new_refresh_token_the_old_one_is_not_spent(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    server = {"rotate": True, "lifetime": 1000}
    async with pair(certificates.good, tmp_path, "refresh_token", server=server) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        await keeper.token()
        clock.now += 2000
        with monkeypatch.context() as patched:
            fill_disk(patched)
            with pytest.raises(StorageFull, match="can not be stored: No space left on device"):
                await keeper.token()
            assert fake.times("token") == 1
        again = keeper_of(credentials, clock)
        await again.token()
        assert fake.times("token") == 2


async def test_no_consent_is_asked_for_that_could_not_be_stored(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(certificates.good, tmp_path, "authorization_code") as (credentials, fake):
        fill_disk(monkeypatch)
        person = Person(fake.browse)
        with pytest.raises(StorageFull):
            await credentials.authorize(person, listen=False)
        assert not person.said


async def test_a_rotated_token_is_not_used_before_it_is_stored(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token", server={"rotate": True}) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", fail)
            for _ in range(3):
                with pytest.raises(StorageFull, match="can not be stored: Input/output error"):
                    await keeper.token()
            assert fake.times("token") == 1, "what is held in memory is stored, not asked for again"
        clock.now += 60
        assert (await keeper.token()).reveal() == fake.tokens[0].text
        assert fake.times("token") == 1
        assert (await credentials._store().load()).refresh_token is not None


@pytest.mark.parametrize("helped", [True, False])
async def test_what_is_still_held_at_the_stop_is_stored_then(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helped: bool, caplog: Any
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    async with pair(certificates.good, tmp_path, "refresh_token", server={"rotate": True}) as (credentials, fake):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", fail)
            with pytest.raises(StorageFull):
                await credentials.secret(IMAP)
            if not helped:
                await credentials.aclose()
        if helped:
            await credentials.aclose()
        stored = (await credentials._store().load()).refresh_token
        assert (stored is not None and {stored.reveal()} == fake.refresh_tokens) == helped
        assert ("the new refresh token is lost" in caplog.text) != helped


@pytest.mark.parametrize("grant", ["client_credentials", "refresh_token"])
async def test_what_can_be_had_again_is_used_unstored(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grant: str
) -> None:
    clock = Clock()
    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(certificates.good, tmp_path, grant, server={"lifetime": 1000}, **given) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        # From this the keeper knows that the provider leaves the refresh token as it is.
        first = await keeper.token()
        clock.now += 2000
        fill_disk(monkeypatch)
        second = await keeper.token()
        assert second != first
        assert await keeper.token() == second
        assert fake.times("token") == 2


async def test_an_application_needs_no_folder_at_all(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(certificates.good, tmp_path / "file", "client_credentials", **given) as (credentials, fake):
        assert await credentials.secret(IMAP) == await credentials.secret(SMTP)
        assert fake.times("token") == 1
        (finding,) = await credentials.probe()
        assert "there is a token by client_credentials, good for 3" in finding.text


async def test_status_tells_the_last_error_and_no_secret(certificates: Certificates, tmp_path: Path) -> None:
    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token", server={"lifetime": 1000}) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        await keeper.token()
        fake.refresh_tokens.clear()
        clock.now += 2000
        with pytest.raises(CredentialsRefused):
            await keeper.token()
        beside = credentials_for(fake, certificates.ca_file, tmp_path, "refresh_token")
        status = await beside.status()
        assert (status.grant, status.scope) == ("refresh_token", "mail")
        assert status.expires is not None
        assert status.refreshed is not None
        assert (status.expires - status.refreshed).total_seconds() == 1000
        assert "status 400 invalid_grant *** has been expired or revoked." in status.error


async def test_an_error_is_not_noted_of_what_another_process_has_stored_meanwhile(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody consents again at the moment at which the service is told that the old consent has ended."""
    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token", server={"lifetime": 1000}) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        await keeper.token()
        beside, locked, locks = credentials._store(), keeper._store.locked, iter(range(2))

        @asynccontextmanager
        async def locked_after_another() -> AsyncIterator[None]:
            if next(locks):
                await beside.save(replace(await beside.load(), obtained=clock.now, expires=clock.now + 1000))
            async with locked():
                yield

        monkeypatch.setattr(keeper._store, "locked", locked_after_another)
        fake.refresh_tokens.clear()
        clock.now += 2000
        with pytest.raises(CredentialsRefused):
            await keeper.token()
        await settled(keeper)
        assert next(locks, None) is None
        assert not (await credentials.status()).error


async def test_a_renewal_that_hangs_stops_nobody_else_for_ever(certificates: Certificates, tmp_path: Path) -> None:
    server = {"script": {"token": Hang()}}
    async with pair(certificates.good, tmp_path, "refresh_token", seconds=0.2, server=server) as (credentials, _):
        with anyio.fail_after(50), pytest.raises(Failure, match=r"did not answer within 0.2 s"):
            await credentials.secret(IMAP)
