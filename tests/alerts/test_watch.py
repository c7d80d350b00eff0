"""The watch over a service: what it sees in events and figures, and how often it tells."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from admin.support import LOGGER, ProbedRelay, Token, composition
from alerts.support import DAY, HOUR, MINUTE, NOW, Usage, Watched
from legacy_email_proxy import log
from legacy_email_proxy.accounts.rules import Rule
from legacy_email_proxy.admin.outcomes import Backend, Outcome
from legacy_email_proxy.alerts.memory import FILE_NAME
from legacy_email_proxy.alerts.sampling import NEARLY_FULL_OCTETS
from legacy_email_proxy.build import Account, Composition
from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Failure,
    Figure,
    Finding,
    Level,
    NoCredentials,
    Queue,
    Unreachable,
    Unverified,
)
from legacy_email_proxy.settings import read

DOWN = Unreachable("no connection to smtp.example", look_at="BACKEND_SMTP_HOST")


def fails(failure: Failure = DOWN) -> None:
    log.failure(LOGGER, "message refused", failure, client="192.0.2.1")


def works(client: str = "192.0.2.1") -> None:
    log.event(LOGGER, logging.INFO, "message relayed", client=client)


# Backends.


async def test_a_backend_that_fails_for_a_quarter_of_an_hour(tmp_path: Path) -> None:
    async with Watched(tmp_path) as watched:
        for _ in range(15):
            fails()
            assert await watched.after(MINUTE) == []
        fails()
        (text,) = await watched.after(MINUTE)
        title, line = text.splitlines()
        assert title.endswith(": 1 new trouble")
        assert line.startswith(
            "NEW: mail can not be sent: no connection to smtp.example (see BACKEND_SMTP_HOST) -> run "
        )
        fails()
        assert await watched.after(MINUTE) == []
        works()
        (text,) = await watched.after(MINUTE)
        assert (
            text.splitlines()[1] == "OVER: mail can not be sent: no connection to smtp.example (see BACKEND_SMTP_HOST)"
        )


async def test_a_backend_that_works_now_and_then_is_no_trouble(tmp_path: Path) -> None:
    async with Watched(tmp_path) as watched:
        for minute in range(60):
            if minute % 10 == 5:
                works()
            fails()
            assert await watched.after(MINUTE) == []


async def test_one_failure_and_then_no_mail_is_found_out_by_a_probe(tmp_path: Path) -> None:
    async with Watched(tmp_path) as watched:
        fails()
        for _ in range(17):
            assert await watched.after(MINUTE) == []
        assert watched.relay.probes == 1  # it worked, so there was no trouble
        watched.relay.found = [Finding(Level.BAD, "no route to host")]
        fails()
        told = [text for _ in range(17) for text in await watched.after(MINUTE)]
        assert len(told) == 1
        assert "no route to host" in told[0]
        watched.relay.found = ()
        over = [text for _ in range(16) for text in await watched.after(MINUTE)]
        assert len(over) == 1
        assert "OVER" in over[0]
        assert watched.relay.probes == 3


async def test_a_backend_that_is_left_alone_is_not_probed(tmp_path: Path) -> None:
    async with Watched(tmp_path) as watched:
        watched.relay.told = [Figure("backend_paused_seconds", 3600.0)]
        fails(CredentialsRefused("535 5.7.8 wrong password"))
        told = [text for _ in range(60) for text in await watched.after(MINUTE)]
        assert len(told) == 1
        assert "535 5.7.8 wrong password" in told[0]
        assert watched.relay.probes == 0


async def test_one_backend_that_does_not_answer_holds_up_no_other(tmp_path: Path) -> None:
    asked: list[asyncio.Event] = []

    class Meeting(ProbedRelay):
        """Its probe ends when both are under way."""

        async def probe(self) -> Sequence[Finding]:
            asked.append(asyncio.Event())
            if len(asked) == 2:
                for one in asked:
                    one.set()
            await asked[-1].wait()
            return [Finding(Level.GOOD, "reached")]

    both = [composition(tmp_path, Meeting(), name) for name in ("one", "two")]
    accounts = tuple(account for made in both for account in made.accounts)
    async with Watched(tmp_path, replace(both[0], accounts=accounts)) as watched:
        for name in ("one", "two"):
            log.failure(LOGGER, "message refused", DOWN, account=name)
        assert await watched.after(15 * MINUTE) == []
        assert [watched.outcomes.last(Backend(name, "smtp")) for name in ("one", "two")] == [
            Outcome(watched.clock.now)
        ] * 2


# Tokens and what ends.


async def test_a_dead_token(tmp_path: Path) -> None:
    async with Watched(tmp_path) as watched:
        revoked = NoCredentials("the refresh token was revoked")
        log.failure(logging.getLogger("legacy_email_proxy.credentials.oauth2"), "no token", revoked)
        (text,) = await watched.after(MINUTE)
        assert "NEW: no OAuth2 token: the refresh token was revoked -> run `legacy-email-proxy authorize`" in text
        log.event(LOGGER, logging.INFO, "token renewed")
        assert "OVER: no OAuth2 token" in (await watched.after(MINUTE))[0]


async def test_a_token_that_another_process_got(tmp_path: Path) -> None:
    made = composition(tmp_path, ProbedRelay(), environ={"BACKEND_SMTP_CREDENTIALS": "oauth2"})
    async with Watched(tmp_path, made) as watched:
        fails(NoCredentials("nobody has consented yet"))
        assert len(await watched.after(MINUTE)) == 1
        works()
        assert "OVER" in (await watched.after(MINUTE))[0]


class EndingToken(Token):
    """Credentials of which a certificate ends, and a server whose clock differs."""

    def __init__(self, ends: float, offset: float = 0.0) -> None:
        super().__init__()
        self.ends, self.offset = ends, offset

    async def figures(self) -> list[Figure]:
        return [
            Figure("credential_expiry_timestamp_seconds", self.ends), Figure("clock_offset_seconds", self.offset)
        ]  # fmt: skip


async def test_a_certificate_of_oauth2_that_ends_within_a_month(tmp_path: Path) -> None:
    made = composition(tmp_path, ProbedRelay(), token=EndingToken(NOW + 31 * DAY))
    async with Watched(tmp_path, made) as watched:
        assert await watched.after(MINUTE) == []
        assert "NEW: the OAuth2 certificate or consent ends on 2027-02-1" in (await watched.after(DAY))[0]


async def test_a_client_secret_that_ends_within_a_month(tmp_path: Path) -> None:
    day = (datetime.fromtimestamp(NOW, UTC) + timedelta(days=29)).date()
    given = {"OAUTH2_CLIENT_SECRET": "s3cret", "OAUTH2_CLIENT_SECRET_EXPIRES": day.isoformat()}
    made = composition(tmp_path, ProbedRelay(), environ=given)
    async with Watched(tmp_path, made) as watched:
        (text,) = await watched.after(MINUTE)
        assert f"NEW: the OAuth2 client secret ends on {day}" in text
        assert "s3cret" not in text


async def test_the_own_certificate_that_ends(tmp_path: Path) -> None:
    file = tmp_path / "certificate.pem"
    ends = datetime.fromtimestamp(NOW + 30 * DAY + HOUR, UTC)
    trustme.CA().issue_cert("localhost", not_after=ends).cert_chain_pems[0].write_to_path(file)
    made = composition(tmp_path, ProbedRelay(), environ={"TLS_CERT_FILE": str(file)})
    async with Watched(tmp_path, made) as watched:
        assert await watched.after(MINUTE) == []
        assert "NEW: the certificate that devices are shown ends on 2027-02-1" in (await watched.after(HOUR))[0]
        assert "STILL: the certificate that devices are shown ended on" in (await watched.after(31 * DAY))[0]


@pytest.mark.parametrize(("offset", "words"), [(400.0, "400 s ahead of"), (-400.0, "400 s behind")])
async def test_a_clock_that_is_wrong(tmp_path: Path, offset: float, words: str) -> None:
    token = EndingToken(NOW + 400 * DAY, offset)
    made = composition(tmp_path, ProbedRelay(), token=token)
    async with Watched(tmp_path, made) as watched:
        assert words in (await watched.after(MINUTE))[0]
        token.offset = 299.0
        assert "OVER" in (await watched.after(MINUTE))[0]


async def test_a_certificate_of_the_future(tmp_path: Path) -> None:
    async with Watched(tmp_path) as watched:
        fails(Unverified("the certificate does not verify: certificate is not yet valid"))
        assert "a server's certificate is not yet valid" in (await watched.after(MINUTE))[0]


# Spool and disk.


class Spooling(ProbedRelay):
    queue_name = "sqlite:///spool.db"


def spool(folder: Path, relay: Spooling) -> Composition:
    settings = read({"STATE_DIR": str(folder), "RELAY_PLUGIN": "spool"})
    account = Account("", settings, None, relay, queue=cast(Queue, relay))
    return Composition(settings, None, relay, accounts=(account,))


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (Figure("spool_oldest_seconds", HOUR + 1), "the oldest message in the spool has waited for 60 minutes"),
        (Figure("spool_messages", 2, {"state": "dead"}), "wait for somebody to decide: 2 dead"),
        (Figure("spool_messages", 1, {"state": "set_aside"}), "wait for somebody to decide: 1 set aside"),
        (Figure("spool_room_octets", (1 << 30) - 1), "the spool takes only 1023 MiB more"),
    ],
)
async def test_the_spool(tmp_path: Path, figure: Figure, words: str) -> None:
    relay = Spooling()
    async with Watched(tmp_path, spool(tmp_path, relay)) as watched:
        relay.told = [Figure("spool_oldest_seconds", HOUR), Figure("spool_room_octets", 9 << 30)]
        assert await watched.after(MINUTE) == []
        relay.told = [figure]
        assert words in (await watched.after(MINUTE))[0]
        relay.told = Failure("the spool is not open")
        assert await watched.after(MINUTE) == []
        relay.told = []
        assert "OVER" in (await watched.after(MINUTE))[0]


async def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    usage = Usage(1 << 40, NEARLY_FULL_OCTETS)
    async with Watched(tmp_path, disk=lambda _: usage) as watched:
        assert await watched.after(MINUTE) == []
        usage = Usage(1 << 40, NEARLY_FULL_OCTETS - 1)
        assert "NEW: 1023 MiB are left on the disk" in (await watched.after(MINUTE))[0]


async def test_a_small_disk_is_judged_by_its_size(tmp_path: Path) -> None:
    usage = Usage(1 << 30, 200 << 20)
    async with Watched(tmp_path, disk=lambda _: usage) as watched:
        assert await watched.after(MINUTE) == []
        usage = Usage(1 << 30, 100 << 20)
        assert "NEW: 100 MiB are left" in (await watched.after(MINUTE))[0]


async def test_a_plugin_that_tells_nonsense_stops_no_alert(tmp_path: Path) -> None:
    relay = Spooling()
    nonsense: list[Any] = [None, [("spool_messages", 2)], [Figure("spool_messages", float("inf"), {"state": "dead"})]]
    async with Watched(tmp_path, spool(tmp_path, relay), disk=lambda _: Usage(1 << 40, 0)) as watched:
        for relay.told in nonsense:
            await watched.after(MINUTE)
        assert len(watched.channel.texts) == 1


# Devices.


def expecting(folder: Path) -> Composition:
    rule = Rule("", networks=(ipaddress.ip_network("192.168.1.40"),), expect_seconds=DAY)
    made = composition(folder, ProbedRelay())
    return Composition(made.settings, None, made.relay, accounts=made.accounts, rules=(rule,))


async def test_a_device_that_falls_silent(tmp_path: Path) -> None:
    async with Watched(tmp_path, expecting(tmp_path)) as watched:
        await watched.after(MINUTE)
        assert await watched.after(DAY) == []
        works("192.168.1.40")
        works("192.168.1.41")
        assert await watched.after(DAY) == []
        works("192.168.1.41")
        (text,) = await watched.after(MINUTE)
        assert "NEW: nothing was sent by 192.168.1.40 for more than 24 hours" in text
        works("192.168.1.40")
        assert "OVER" in (await watched.after(MINUTE))[0]


async def test_the_time_without_a_service_is_nobodys_silence(tmp_path: Path) -> None:
    async with Watched(tmp_path, expecting(tmp_path)) as watched:
        await watched.after(MINUTE)
        await watched.after(DAY / 2)
    async with Watched(tmp_path, expecting(tmp_path), NOW + 10 * DAY) as watched:
        assert await watched.after(DAY / 3) == []
        assert len(await watched.after(DAY / 3)) == 1


async def test_a_clock_that_is_set_makes_nobody_silent(tmp_path: Path) -> None:
    async with Watched(tmp_path, expecting(tmp_path), now=1000.0) as watched:
        await watched.after(MINUTE)
        watched.clock.now = NOW
        assert await watched.after(MINUTE) == []
        assert len(await watched.after(DAY)) == 1


# Telling.


async def test_one_message_for_all_that_is_due(tmp_path: Path) -> None:
    async with Watched(tmp_path, disk=lambda _: Usage(1 << 40, 0)) as watched:
        fails(NoCredentials("revoked"))
        (text,) = await watched.after(MINUTE)
        title, *lines = text.splitlines()
        assert title.endswith(": 2 new troubles")
        assert [line[:12] for line in lines] == ["NEW: no OAut", "NEW: 0 MiB a"]


async def test_a_message_that_nobody_took_is_tried_again_with_pauses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Watched(tmp_path, disk=lambda _: Usage(1 << 40, 0)) as watched:
        watched.channel.fails = True
        for _ in range(100):
            await watched.after(MINUTE)
        assert 5 < watched.channel.tries < 12
        assert [record.msg for record in caplog.records if record.msg.startswith("alert")] == ["alert not sent"]
        watched.channel.fails = False
        told = [text for _ in range(20) for text in await watched.after(MINUTE)]
        assert len(told) == 1


async def test_what_began_before_there_was_a_way_is_told_when_there_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Watched(tmp_path, disk=lambda _: Usage(1 << 40, 0)) as watched:
        watched.channels = []
        for _ in range(3):
            await watched.after(MINUTE)
        watched.channels = [watched.channel]
        (text,) = await watched.after(MINUTE)
        assert "NEW: 0 MiB are left" in text
        assert await watched.after(MINUTE) == []
    assert [record.msg for record in caplog.records if record.msg.startswith("trouble")] == ["trouble begins"]


async def test_a_reload_that_mends_the_way_is_tried_at_once(tmp_path: Path) -> None:
    async with Watched(tmp_path, disk=lambda _: Usage(1 << 40, 0)) as watched:
        watched.channel.fails = True
        for _ in range(20):
            await watched.after(MINUTE)
        watched.channel.fails = False
        assert await watched.after(MINUTE) == []
        watched.composition = replace(watched.composition)
        assert len(await watched.after(MINUTE)) == 1


async def test_a_restart_tells_nothing_again(tmp_path: Path) -> None:
    async with Watched(tmp_path, disk=lambda _: Usage(1 << 40, 0)) as watched:
        assert len(await watched.after(MINUTE)) == 1
    file = tmp_path / FILE_NAME
    assert file.stat().st_mode & 0o777 == 0o600
    async with Watched(tmp_path, now=NOW + HOUR, disk=lambda _: Usage(1 << 40, 0)) as watched:
        assert await watched.after(MINUTE) == []
        assert len(await watched.after(DAY)) == 1
    async with Watched(tmp_path, now=NOW + 2 * DAY) as watched:
        assert "OVER" in (await watched.after(MINUTE))[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"troubles": [{}]}', json.dumps({"troubles": 5})])
async def test_a_memory_that_nobody_can_read(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    async with Watched(tmp_path, disk=lambda _: Usage(1 << 40, 0)) as watched:
        assert len(await watched.after(MINUTE)) == 1
    assert "alerts are not remembered" in caplog.text
    assert json.loads((tmp_path / FILE_NAME).read_text())["troubles"]


async def test_a_backend_of_before_the_restart_is_probed_for_its_end(tmp_path: Path) -> None:
    async with Watched(tmp_path) as watched:
        for _ in range(17):
            fails()
            await watched.after(MINUTE)
        assert len(watched.channel.texts) == 1
    async with Watched(tmp_path, now=NOW + DAY / 2) as watched:
        assert "OVER" in (await watched.after(MINUTE))[0]
        assert watched.relay.probes == 1


async def test_the_log_tells_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    usage = Usage(1 << 40, 0)
    async with Watched(tmp_path, disk=lambda _: usage) as watched:
        await watched.after(MINUTE)
        await watched.after(MINUTE)
        usage = Usage(1 << 40, 1 << 39)
        await watched.after(MINUTE)
    words = [record.msg for record in caplog.records if record.msg.startswith("trouble")]
    assert words == ["trouble begins", "trouble is over"]


async def test_commands_can_ask(tmp_path: Path) -> None:
    async with Watched(tmp_path, disk=lambda _: Usage(1 << 40, 0)) as watched:
        await watched.after(MINUTE)
        (answer,) = [one async for one in watched.watch.answer({}, "")]
        assert isinstance(answer, dict)
        assert (answer["condition"], answer["severity"]) == ("disk", "warning")
        json.dumps(answer)
