"""Ready or not, and why; and when a backend is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from admin.support import LOGGER, Clock, ProbedRelay, Token, composition, observed
from legacy_email_proxy import log
from legacy_email_proxy.admin import readiness as module
from legacy_email_proxy.admin.outcomes import Outcomes
from legacy_email_proxy.admin.probes import Probes
from legacy_email_proxy.admin.readiness import Check, Readiness, Report
from legacy_email_proxy.contracts import Failure, Figure, Finding, Level, Unreachable

BAD = [Finding(Level.GOOD, "reached"), Finding(Level.BAD, "wrong password", "mend it")]


def of(relay: ProbedRelay, tmp_path: Path, clock: Clock, **more: object) -> Readiness:
    made = composition(tmp_path, relay, **more)  # type: ignore[arg-type]
    outcomes = Outcomes(clock)
    return Readiness(lambda: made, outcomes, Probes(outcomes), clock)


def said(report: Report, what: str) -> tuple[bool, str]:
    (check,) = [check for check in report.checks if check.what == what]
    return check.ok, check.says


async def test_a_backend_of_which_nothing_is_known_is_asked_once_a_minute(tmp_path: Path) -> None:
    clock, relay = Clock(), ProbedRelay()
    ready = of(relay, tmp_path, clock)
    reports = await asyncio.gather(*(ready.report() for _ in range(20)))
    assert [said(report, "backend") for report in reports] == [(True, "works (0 s ago)")] * 20
    clock.now += 59
    assert said(await ready.report(), "backend") == (True, "works (59 s ago)")
    assert relay.probes == 1
    clock.now += 1
    relay.found = BAD
    assert said(await ready.report(), "backend") == (False, "wrong password (0 s ago)")
    assert relay.probes == 2


async def test_mail_that_goes_through_spares_the_backend_the_question(tmp_path: Path) -> None:
    clock, relay = Clock(), ProbedRelay()
    outcomes = Outcomes(clock)
    made = composition(tmp_path, relay)
    ready = Readiness(lambda: made, outcomes, Probes(outcomes), clock)
    async with observed(outcomes):
        log.event(LOGGER, logging.INFO, "message relayed", octets=1)
        assert (await ready.report()).ready
        log.failure(LOGGER, "smtp sender refused", Unreachable("down", look_at="BACKEND_SMTP_HOST"))
        report = await ready.report()
    assert said(report, "backend") == (False, "down (see BACKEND_SMTP_HOST) (0 s ago)")
    assert not report.ready
    assert relay.probes == 0


async def test_a_backend_that_is_left_alone_is_not_asked(tmp_path: Path) -> None:
    clock, relay = Clock(), ProbedRelay()
    relay.told = [Figure("backend_paused_seconds", 30)]
    ready = of(relay, tmp_path, clock)
    assert said(await ready.report(), "backend") == (False, "left alone for 30 s")
    relay.told = ()
    relay.found = BAD
    await ready.report()
    relay.told = [Figure("backend_paused_seconds", 600)]
    clock.now += 3600
    assert said(await ready.report(), "backend") == (False, "wrong password (3600 s ago); left alone for 600 s")
    assert relay.probes == 1


async def test_nobody_waits_for_ever_for_a_backend(tmp_path: Path) -> None:
    class Stuck(ProbedRelay):
        async def probe(self) -> Sequence[Finding]:
            self.probes += 1
            await asyncio.Event().wait()
            raise AssertionError

    relay = Stuck()
    made = composition(tmp_path, relay)
    outcomes = Outcomes()
    probes = Probes(outcomes)
    ready = Readiness(lambda: made, outcomes, probes, Clock(), wait_seconds=0)
    for _ in range(3):
        assert said(await ready.report(), "backend") == (False, "no answer yet; it is being asked")
    assert relay.probes == 1
    await probes.aclose()


async def test_a_disk_that_hangs_holds_no_answer_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(ProbedRelay):
        async def figures(self) -> Sequence[Figure]:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr("legacy_email_proxy.relays.wrapper.FIGURES_SECONDS", 0.01)
    report = await of(Hanging(), tmp_path, Clock(), queue=True).report()
    assert said(report, "spool") == (False, "no answer within 5 s")


async def test_a_plugin_that_breaks_its_contract_is_not_ready(tmp_path: Path) -> None:
    relay = ProbedRelay()
    relay.found = relay.told = ValueError("s3cret")
    report = await of(relay, tmp_path, Clock()).report()
    assert said(report, "backend") == (False, "unexpected: ValueError (0 s ago)")


@pytest.mark.parametrize(
    ("told", "ok", "says"),
    [
        ([Figure("spool_messages", 2, {"state": "queued"}), Figure("spool_room_octets", 1)], True, "2 queued"),
        ([Figure("spool_messages", 0, {"state": "dead"}), Figure("spool_room_octets", 1)], True, "no messages"),
        (
            [Figure("spool_messages", 1, {"state": "set_aside"}), Figure("spool_room_octets", 0)],
            False, "it is full, or its disk is: 1 set aside",
        ),
        (Failure("the spool is not open"), False, "the spool is not open"),
    ],
)  # fmt: skip
async def test_the_spool(tmp_path: Path, told: Sequence[Figure] | Exception, ok: bool, says: str) -> None:
    relay = ProbedRelay()
    relay.told = told
    report = await of(relay, tmp_path, Clock(), queue=True).report()
    assert said(report, "spool") == (ok, says)
    assert report.ready is ok


@pytest.mark.parametrize("error", ["", "the consent was revoked"])
async def test_the_token(tmp_path: Path, error: str) -> None:
    report = await of(ProbedRelay(), tmp_path, Clock(), token=Token(error)).report()
    assert said(report, "token") == (not error, error or "no trouble with the last renewal")


async def test_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = of(ProbedRelay(), tmp_path / "not made yet", Clock())
    assert said(await ready.report(), "disk")[0]
    monkeypatch.setattr(module, "_free_octets", lambda _: (16 << 20) - 1)
    assert said(await ready.report(), "disk") == (False, "15 MiB are free in STATE_DIR")


async def test_a_service_that_stops_is_not_ready_and_asks_nobody(tmp_path: Path) -> None:
    relay = ProbedRelay()
    ready = of(relay, tmp_path, Clock())
    ready.stopping = True
    assert (await ready.report()).lines() == ["not ready", "FAILED service: the service is stopping"]
    assert relay.probes == 0


async def test_as_text_and_as_data() -> None:
    report = Report([Check("backend", True, "works", "ann", "smtp"), Check("disk", False, "full")])
    assert report.lines() == ["not ready", "ok     backend smtp ann: works", "FAILED disk: full"]
    plain = {
        "ready": False,
        "checks": [
            {"what": "backend", "ok": True, "says": "works", "account": "ann", "leg": "smtp"},
            {"what": "disk", "ok": False, "says": "full"},
        ],
        "troubles": [],
    }
    assert report.plain() == plain
    assert Report.of(plain) == report


def test_a_backend_can_not_forge_a_line() -> None:
    report = Report([Check("backend", False, "refused: no\r\nok     spool: \x1b[31mfine")], ["mail: no\nready"])
    assert report.lines() == ["not ready", "FAILED backend: refused: no ok spool: [31mfine", "trouble: mail: no ready"]
