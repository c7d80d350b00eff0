"""A watch over plugins in memory, its clock in the test's hand, and a channel that keeps what it is told."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

from admin.support import Clock, ProbedRelay, composition
from legacy_email_proxy import log
from legacy_email_proxy.admin.outcomes import Outcomes
from legacy_email_proxy.admin.probes import Probes
from legacy_email_proxy.alerts.alert import Alert
from legacy_email_proxy.alerts.sampling import Sampler
from legacy_email_proxy.alerts.watch import Watch
from legacy_email_proxy.build import Composition
from legacy_email_proxy.contracts import Failure

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
NOW = 1_800_000_000.0
Usage = namedtuple("Usage", "total free")


class KeptChannel:
    """Keeps what it is told, or fails."""

    name = "ALERT_COMMAND"

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fails = False
        self.tries = 0

    async def send(self, alert: Alert) -> str:
        self.tries += 1
        if self.fails:
            raise Failure("nobody listens")
        self.texts.append(alert.text)
        return "taken"

    async def aclose(self) -> None:
        pass


class Watched:
    """A watch, what it watches, and its clock; use it in ``with``, for the log's events to reach it."""

    def __init__(
        self,
        folder: Path,
        made: Composition | None = None,
        now: float = NOW,
        disk: Callable[[Path], Usage] | None = None,
    ) -> None:
        self.clock, self.steady = Clock(), Clock()
        self.clock.now = now
        self.relay = ProbedRelay()
        self.composition = made or composition(folder, self.relay)
        self.outcomes = Outcomes(self.clock)
        self.channel = KeptChannel()
        self.channels = [self.channel]
        probes = Probes(self.outcomes)
        self.watch = Watch(lambda: self.composition, self.outcomes, probes, self.clock, self.steady)
        self.watch._sampler = Sampler(
            lambda: self.composition, self.outcomes, probes, self.watch.events, self.clock,
            disk or (lambda _: Usage(1 << 40, 1 << 39)),
        )  # fmt: skip

    async def __aenter__(self) -> Watched:
        await self.watch.load()
        for handler in (self.outcomes, self.watch.events):
            log.observe(handler)
        return self

    async def __aexit__(self, *_: object) -> None:
        for handler in (self.outcomes, self.watch.events):
            log.unobserve(handler)
        await self.watch.aclose()

    async def after(self, seconds: float) -> list[str]:
        """What was told in this one look, ``seconds`` later."""
        self.clock.now += seconds
        self.steady.now += seconds
        await self.watch._renew()
        self.watch._channels = list(self.channels)
        before = len(self.channel.texts)
        await self.watch.turn()
        return self.channel.texts[before:]
