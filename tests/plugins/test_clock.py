"""A wrong clock is noticed where a server tells the time: in SMTP greetings and in the answers of OAuth2 servers."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path

import pytest

from fakes.oauth2 import Status
from legacy_email_proxy_plugins.clock import clock_offset
from oauth2.support import IMAP, pair
from oauth2.test_tokens import Clock, keeper_of
from realservers.certificates import Certificates
from smtps.support import relaying

NOW = 1_800_000_000.0
ANSWER = {"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}
EXCHANGE = "220 AM0PR04.outlook.example Microsoft ESMTP MAIL Service ready at Fri, 15 Jan 2027 08:00:00 +0000 [08DE]"


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        (EXCHANGE, 0.0),
        ("220 mx.example ESMTP; Fri, 15 Jan 2027 09:10:00 +0100", -600.0),
        ("Fri, 15 Jan 2027 07:59:00 GMT", 60.0),
        ("220 mx.example ESMTP Postfix", None),
        ("", None),
        ("Fri, 99 Jan 2027 08:00:00 +0000", None),
        ("Fri, 15 Foo 2027 08:00:00 +9999", None),
    ],
)
def test_the_date_in_a_text(text: str, offset: float | None) -> None:
    assert clock_offset(text, lambda: NOW) == offset


async def figures(relay: object) -> dict[str, float]:
    told = await relay.figures()  # type: ignore[attr-defined]
    return {one.name: one.value for one in told}


async def test_a_greeting_that_tells_the_time(certificates: Certificates) -> None:
    script = {"GREETING": f"220 mx.example ESMTP ready at {formatdate(1000.0)}"}
    async with relaying(certificates.good, script) as (_, relay):  # type: ignore[arg-type]
        assert "clock_offset_seconds" not in await figures(relay)
        await relay.probe()
        assert (await figures(relay))["clock_offset_seconds"] > 1e9


async def test_an_answer_of_an_oauth2_server_that_tells_the_time(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token") as (credentials, fake):
        fake.script["token"] = Status(200, ANSWER, {"Date": formatdate(1000.0, usegmt=True)})
        await credentials.secret(IMAP)
        assert (await figures(credentials))["clock_offset_seconds"] > 1e9


async def test_a_consent_that_ends(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token") as (credentials, fake):
        clock = Clock()
        keeper = keeper_of(credentials, clock)
        fake.script["token"] = Status(200, {**ANSWER, "refresh_token_expires_in": 604800})
        await keeper.token()
        ends = clock.now + 604800
        assert (await figures(credentials))["credential_expiry_timestamp_seconds"] == ends
        clock.now += 4000
        fake.script["token"] = Status(200, {**ANSWER, "access_token": "t2"})
        await keeper.token()
        assert (await figures(credentials))["credential_expiry_timestamp_seconds"] == ends
