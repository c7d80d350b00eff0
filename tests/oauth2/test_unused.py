"""A refresh token that nobody needs for months is used all the same, once a day, and the log tells when that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fakes.oauth2 import Drop, FakeAuthorizationServer, Status
from legacy_email_proxy import service
from legacy_email_proxy.build import compose
from legacy_email_proxy.log import facts_of
from legacy_email_proxy_plugins.oauth2 import tokens
from legacy_email_proxy_plugins.oauth2.tokens import Keeper
from oauth2.support import SECRET, Person, credentials_for, pair, server_tls, variables
from oauth2.test_tokens import Clock, fill_disk, keeper_of
from realservers.certificates import Certificates
from waiting import until

HOUR, DAY = 3600.0, 86400.0
ENDED = Status(400, {"error": "invalid_grant", "error_description": "ended: unused"})


async def look(keeper: Keeper, clock: Clock, hours: float) -> None:
    """The hourly looks of so long a time."""
    for _ in range(int(hours)):
        clock.now += HOUR
        await keeper.keep_alive()


@pytest.mark.parametrize("rotate", [True, False])
async def test_it_is_used_once_a_day(certificates: Certificates, tmp_path: Path, rotate: bool) -> None:
    clock, server = Clock(), {"rotate": rotate, "lifetime": 30 * DAY}
    async with pair(certificates.good, tmp_path, "refresh_token", server=server) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        await keeper.keep_alive()
        assert fake.times("token") == 1, "one that was never used counts as unused"
        await look(keeper, clock, 23)
        assert fake.times("token") == 1
        await look(keeper, clock, 24 * 10)
        assert 10 <= fake.times("token") <= 11, "though the access token is good for a month"
        assert len({form["refresh_token"] for form in fake.forms}) == (fake.times("token") if rotate else 1)


async def test_one_that_is_used_anyway_is_left_alone(certificates: Certificates, tmp_path: Path) -> None:
    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token", server={"lifetime": HOUR}) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        for _ in range(48):
            await keeper.token()
            await look(keeper, clock, 1)
        assert fake.times("token") == 48


async def test_another_process_has_just_used_it(certificates: Certificates, tmp_path: Path) -> None:
    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token", server={"lifetime": 3 * DAY}) as (credentials, fake):
        ours, theirs = keeper_of(credentials, clock), keeper_of(credentials, clock)
        await ours.token()
        clock.now += DAY
        await asyncio.gather(ours.keep_alive(), theirs.keep_alive())
        assert fake.times("token") == 2


async def test_a_failure_is_told_and_tried_again_in_an_hour(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token", server={"lifetime": HOUR}) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        await keeper.token()
        fake.script["token"] = Drop()
        await look(keeper, clock, 24 + 3)
        assert fake.times("token") == 5
        errors = [facts_of(record) for record in caplog.records if record.msg == "no token"]
        assert errors == [{"cause": "the connection to localhost broke: RemoteProtocolError"}] * 4
        del fake.script["token"]
        await look(keeper, clock, 24)
        assert fake.times("token") == 6


async def test_one_that_has_ended_is_told_once_a_day(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, server = Clock(), {"lifetime": HOUR}
    async with pair(certificates.good, tmp_path, "authorization_code", server=server) as (
        credentials,
        fake,
    ):
        keeper = keeper_of(credentials, clock)
        await keeper.keep_alive()
        assert fake.times("token") == 0, "nobody has consented, and there is nothing to keep alive"
        await credentials.authorize(Person(fake.browse), listen=False)
        fake.script["token"] = ENDED
        await look(keeper, clock, 24 * 4)
        assert 4 <= fake.times("token") <= 5
        errors = [facts_of(record) for record in caplog.records if record.msg == "no token"]
        assert len(errors) == fake.times("token") - 1
        assert "ended: unused; the refresh token or the consent is no longer valid -> run: leg" in errors[0]["cause"]
        del fake.script["token"]
        await credentials.authorize(Person(fake.browse), listen=False)
        await look(keeper, clock, 25)
        assert fake.forms[-1]["grant_type"] == "refresh_token"
        assert (await credentials._store().load()).obtained == pytest.approx(clock.now, abs=HOUR)


async def test_a_clock_that_was_ahead_does_not_let_it_die(certificates: Certificates, tmp_path: Path) -> None:
    clock = Clock()
    async with pair(certificates.good, tmp_path, "refresh_token") as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        await keeper.token()
        clock.now -= 3 * 365 * DAY
        await look(keeper, clock, 24)
        assert fake.times("token") == 2


async def test_what_could_not_be_stored_is_stored_when_it_can_be(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, server = Clock(), {"lifetime": HOUR}
    async with pair(certificates.good, tmp_path, "refresh_token", server=server) as (credentials, fake):
        keeper = keeper_of(credentials, clock)
        await keeper.token()
        clock.now += HOUR
        with monkeypatch.context() as patched:
            fill_disk(patched)
            await keeper.token()
        assert (await credentials._store().load()).obtained == clock.now - HOUR
        await keeper.keep_alive()
        assert (await credentials._store().load()).obtained == clock.now
        assert fake.times("token") == 2


async def test_an_application_has_nothing_to_keep_alive(certificates: Certificates, tmp_path: Path) -> None:
    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(certificates.good, tmp_path, "client_credentials", **given) as (credentials, _):
        await credentials.start()
        assert credentials._keeper._keeping_alive is None


@pytest.mark.parametrize("leg", ["SMTP", "IMAP"])
async def test_the_service_does_it_by_itself(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leg: str
) -> None:
    monkeypatch.setattr(tokens, "_FIRST_LOOK_SECONDS", 0.0)
    async with FakeAuthorizationServer(tls=server_tls(certificates.good), rotate=True) as fake:
        given = variables(fake, certificates.ca_file, "refresh_token", STATE_DIR=str(tmp_path))
        given |= {"OAUTH2_REFRESH_TOKEN": fake.issue_refresh_token(), f"BACKEND_{leg}_CREDENTIALS": "oauth2"}
        given |= {f"BACKEND_{leg}_HOST": "localhost", f"BACKEND_{leg}_USER": "alice"}
        given["MAILDROP_PLUGIN" if leg == "SMTP" else "RELAY_PLUGIN"] = "none"
        composition = compose(given)
        fake.may_answer.clear()
        await service._start(composition)
        await fake.arrived.wait()
        fake.may_answer.set()
        await service._close(*service._own_plugins(composition))
        again = credentials_for(fake, certificates.ca_file, tmp_path, "refresh_token")
        record = await again._store().load()
        assert record.refresh_token is not None
        assert {record.refresh_token.reveal()} == fake.refresh_tokens


async def test_a_bug_does_not_end_it(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("_FIRST_LOOK_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(tokens, name, 0.0)
    looks: list[None] = []

    async def failing(self: Keeper) -> None:
        looks.append(None)
        raise ZeroDivisionError

    monkeypatch.setattr(Keeper, "keep_alive", failing)
    async with pair(certificates.good, tmp_path, "refresh_token") as (credentials, _):
        await credentials.start()
        await until(lambda: len(looks) > 1)
    assert "the refresh token is not kept alive" in caplog.text
