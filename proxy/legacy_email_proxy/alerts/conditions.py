"""The one table of what counts as trouble, and since when each trouble lasts. It does no I/O.

Alerts, ``check`` and all else that shows trouble take it from here, so that they say the same. :class:`Troubles` gets
what was seen in one look at everything, and the time; it knows what is new, what lasts, what is over, and what the
operator has been told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = (
    "CONDITIONS",
    "REMIND_SECONDS",
    "Change",
    "Condition",
    "Key",
    "Seen",
    "Severity",
    "Step",
    "Trouble",
    "Troubles",
)

REMIND_SECONDS = 86400.0
"""A trouble that lasts is told again after so long."""


class Severity(StrEnum):
    """How bad it is."""

    CRITICAL = "critical"  # mail does not go, or is lost if nobody acts
    WARNING = "warning"  # it will be like that soon, or may be


@dataclass(frozen=True, slots=True)
class Condition:
    """One kind of trouble. ``lasts_seconds``: shorter than this it is none."""

    key: str
    severity: Severity
    text: str
    advice: str
    lasts_seconds: float = 0.0


CONDITIONS: Mapping[str, Condition] = {
    one.key: one
    for one in (
        Condition(
            "backend", Severity.CRITICAL, "the provider can not be reached, or refuses the proxy, for 15 minutes",
            "run `legacy-email-proxy check`: it says what is wrong and what to do", lasts_seconds=900.0,
        ),
        Condition(
            "token", Severity.CRITICAL, "there is no OAuth2 token until somebody acts",
            "run `legacy-email-proxy authorize`; with an application's own secret, look at `OAUTH2_CLIENT_SECRET`",
        ),
        Condition(
            "credential", Severity.WARNING, "an OAuth2 client secret, certificate or consent ends within 30 days",
            "make a new one at the provider, set it, and send SIGHUP; a consent: run `legacy-email-proxy authorize`",
        ),
        Condition(
            "certificate", Severity.WARNING, "the certificate that devices are shown ends within 30 days",
            "put a new one in `TLS_CERT_FILE`, and send SIGHUP",
        ),
        Condition(
            "spool_old", Severity.CRITICAL, "a message has been in the spool for more than an hour",
            "`legacy-email-proxy spool list` says why",
        ),
        Condition(
            "spool_dead", Severity.CRITICAL, "a message was given up without anybody being told, or was set aside",
            "`legacy-email-proxy spool list` shows it; `retry` or `drop` it",
        ),
        Condition(
            "spool_room", Severity.CRITICAL, "the spool is nearly full: `SPOOL_MAX_OCTETS`, or its disk",
            "find out why mail does not go out, or make room; when it is full, devices are told to come back later",
        ),
        Condition(
            "disk", Severity.WARNING, "the disk of `STATE_DIR` is nearly full",
            "make room; when it is full, no token, no mail and no history can be stored",
        ),
        Condition(
            "device", Severity.WARNING, "a device has sent nothing for longer than its `expect_seconds`",
            "look at the device, and at `legacy-email-proxy devices`",
        ),
        Condition(
            "clock", Severity.CRITICAL, "the clock of this machine is wrong by more than 5 minutes",
            "set the clock, and let it be kept by NTP",
        ),
    )
}  # fmt: skip
"""By key. The order is that of a message: what is worst comes first within what is new."""

Key = tuple[str, str]
"""A condition's key, and what it is about: an account, a leg, a device; ``""`` where there is only one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Something that is wrong now. ``says`` tells it in one sentence, without what to do.

    ``worked`` is when it was last seen to be right, if that is known: a look each minute does not see what was right
    in between.
    """

    condition: str
    subject: str
    says: str
    worked: float = float("-inf")

    @property
    def key(self) -> Key:
        """What it is."""
        return self.condition, self.subject


@dataclass(slots=True)
class Trouble:
    """Something that is wrong since ``since``. ``told`` is when the operator last heard of it."""

    condition: str
    subject: str
    says: str
    since: float
    told: float | None = None

    @property
    def about(self) -> Condition:
        """Its row of the table."""
        return CONDITIONS[self.condition]

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        about = self.about
        return {**asdict(self), "severity": str(about.severity), "advice": about.advice}


class Step(StrEnum):
    """What there is to tell of a trouble."""

    BEGUN = "begun"
    LASTS = "lasts"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to tell."""

    step: Step
    trouble: Trouble


class Troubles:
    """What is wrong. ``known`` is what the operator had been told of before a restart."""

    def __init__(self, known: Iterable[Trouble] = ()) -> None:
        self._now: dict[Key, Trouble] = {(one.condition, one.subject): one for one in known}
        self._over: dict[Key, Trouble] = {}

    def look(self, seen: Iterable[Seen], unknown: Iterable[Key], now: float) -> None:
        """Take what one look at everything has found. What is ``unknown`` stays as it was; all else is right now."""
        wrong = {one.key: one for one in seen}
        keep = set(unknown)
        for key in [key for key in self._now if key not in wrong and key not in keep]:
            trouble = self._now.pop(key)
            if trouble.told is not None:
                self._over[key] = trouble
        for key, one in wrong.items():
            # One that comes back before its end was told has not ended, as far as anybody knows.
            trouble = self._now.get(key) or self._over.pop(key, None) or Trouble(*key, one.says, now)
            if trouble.told is None and one.worked > trouble.since:
                trouble.since = now
            trouble.says = one.says
            self._now[key] = trouble

    def due(self, now: float) -> list[Change]:
        """What is to be told now: what is new first, then what is over, then what lasts."""
        begun, lasts = [], []
        for trouble in self.current(now):
            if trouble.told is None:
                begun.append(Change(Step.BEGUN, trouble))
            # A clock that was ahead must not silence it for long.
            elif not 0 <= now - trouble.told < REMIND_SECONDS:
                lasts.append(Change(Step.LASTS, trouble))
        return [*begun, *(Change(Step.OVER, trouble) for trouble in self._over.values()), *lasts]

    def told(self, changes: Iterable[Change], now: float) -> None:
        """Note that the operator has heard of these."""
        for change in changes:
            change.trouble.told = now
            if change.step is Step.OVER:
                self._over.pop((change.trouble.condition, change.trouble.subject), None)

    def current(self, now: float) -> list[Trouble]:
        """What is wrong, in the order of the table; without what has not lasted long enough to be trouble."""
        ranks = {key: rank for rank, key in enumerate(CONDITIONS)}
        lasting = [
            one for one in self._now.values() if one.told is not None or now - one.since >= one.about.lasts_seconds
        ]
        return sorted(lasting, key=lambda one: (ranks[one.condition], one.subject))

    def shift(self, seconds: float) -> None:
        """The clock was set by so much."""
        for trouble in (*self._now.values(), *self._over.values()):
            trouble.since += seconds
            if trouble.told is not None:
                trouble.told += seconds

    @property
    def remembered(self) -> list[Trouble]:
        """What has to outlive a restart: what the operator was told of, and of which the end has not been told."""
        return [one for one in (*self._now.values(), *self._over.values()) if one.told is not None]
