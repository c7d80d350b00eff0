"""A backend is asked once, whoever wants to know."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from admin.support import Clock, ProbedRelay
from legacy_email_proxy.admin.outcomes import Backend, Outcome, Outcomes
from legacy_email_proxy.admin.probes import Probes
from legacy_email_proxy.contracts import Finding, Level

SMTP = Backend("", "smtp")


class Held(ProbedRelay):
    """Answers when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def probe(self) -> Sequence[Finding]:
        self.probes += 1
        await self.answers.wait()
        return [Finding(Level.BAD, "wrong password")]


async def test_two_who_ask_share_one_probe_and_its_outcome() -> None:
    outcomes, relay = Outcomes(Clock()), Held()
    probes = Probes(outcomes)
    await probes.probe(SMTP, relay, wait_seconds=0)
    assert outcomes.last(SMTP) is None
    waiting = asyncio.create_task(probes.probe(SMTP, relay))
    await asyncio.sleep(0)
    relay.answers.set()
    await waiting
    assert relay.probes == 1
    assert outcomes.last(SMTP) == Outcome(1000.0, "wrong password")
    await probes.probe(SMTP, relay)
    assert relay.probes == 2


async def test_who_asks_may_go_and_the_probe_goes_on() -> None:
    outcomes, relay = Outcomes(Clock()), Held()
    probes = Probes(outcomes)
    asking = asyncio.create_task(probes.probe(SMTP, relay))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    relay.answers.set()
    await probes.probe(SMTP, relay)
    assert (relay.probes, outcomes.last(SMTP)) == (1, Outcome(1000.0, "wrong password"))


async def test_none_is_left_at_the_end() -> None:
    outcomes, relay = Outcomes(Clock()), Held()
    probes = Probes(outcomes)
    await probes.probe(SMTP, relay, wait_seconds=0)
    await probes.aclose()
    assert outcomes.last(SMTP) is None
