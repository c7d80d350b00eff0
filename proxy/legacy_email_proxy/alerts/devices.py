"""What the log's events tell of each device and each token: when a device last sent something, which token is dead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .. import log
from ..access import Network, canonical, within
from ..accounts.rules import Leg, Rule
from ..contracts import NoCredentials

__all__ = ("Device", "Events", "devices_of")

_SENT = frozenset({"message relayed", "message spooled"})
_RENEWED = "token renewed"


@dataclass(frozen=True, slots=True)
class Device:
    """Whoever sends from these networks, by a rule with ``expect_seconds``."""

    networks: tuple[Network, ...]
    expect_seconds: float

    @property
    def name(self) -> str:
        """As the accounts file has it."""
        return ", ".join(str(one.network_address if one.num_addresses == 1 else one) for one in self.networks)


def devices_of(rules: Iterable[Rule]) -> tuple[Device, ...]:
    """The devices from which something is expected."""
    return tuple(
        Device(rule.networks, rule.expect_seconds)
        for rule in rules
        if rule.expect_seconds is not None and Leg.SMTP in rule.legs
    )


@dataclass(frozen=True, slots=True)
class Dead:
    """Since when an account has no token, and why."""

    moment: float
    says: str


class Events(log.Observer):
    """A handler of the log. The records may come from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self.devices: tuple[Device, ...] = ()
        self.heard: dict[str, float] = {}
        """Device → when it last sent something, or since when it is expected to."""
        self.tokens: dict[str, Dead | None] = {}
        """Account → why it has no token; ``None`` where it was just renewed."""

    def take(self, record: logging.LogRecord) -> None:
        """Note what the event tells."""
        if record.msg in _SENT:
            if self.devices:
                self._heard(log.facts_of(record))
        elif record.msg == _RENEWED:
            self.tokens[_account(record)] = None
        elif isinstance(failure := getattr(record, "failure", None), NoCredentials):
            self.tokens[_account(record)] = Dead(self._clock(), str(failure))

    def _heard(self, facts: Mapping[str, object]) -> None:
        address = canonical(str(facts.get("client", "")))
        if address is None:
            return
        for device in self.devices:
            if within(address, device.networks):
                self.heard[device.name] = self._clock()

    def expect(self, devices: tuple[Device, ...]) -> None:
        """Expect something from these. One that is new has its whole time from now on."""
        now, self.devices = self._clock(), devices
        self.heard = {device.name: min(self.heard.get(device.name, now), now) for device in devices}


def _account(record: logging.LogRecord) -> str:
    return str(log.facts_of(record).get("account", ""))
