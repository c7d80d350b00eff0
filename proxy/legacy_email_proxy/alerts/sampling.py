"""One look at everything that can be trouble: what went through the backends, what plugins tell, the disk, the dates.

It costs little: nothing is asked of a backend, but for one probe in 15 minutes of a backend that has failed and through
which nothing has gone since. Without that nobody could say whether it still fails.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Protocol

from ..admin.disk import Disk
from ..admin.outcomes import Backend, Outcomes
from ..admin.probes import Probes
from ..build import Account, Composition
from ..contracts import Credentials, Failure, Figure, Maildrop, Relay
from ..relays.wrapper import figures
from .conditions import CONDITIONS, Key, Seen
from .devices import Events

__all__ = ("Look", "Room", "Sampler")

SOON_SECONDS = 30 * 86400.0
"""What ends within this time is told."""
OLD_SECONDS = 3600.0
"""Of a message in the spool."""
CLOCK_SECONDS = 300.0
NEARLY_FULL = 0.1
"""The part of the whole that is left then."""
NEARLY_FULL_OCTETS = 1 << 30
"""A large disk of which so much is left is not nearly full."""
_LEGS = {
    "smtp": ("BACKEND_SMTP_CREDENTIALS", "mail can not be sent"),
    "pop3": ("BACKEND_IMAP_CREDENTIALS", "mail can not be fetched"),
}
"""Leg → the variable with its credentials, and what it means that it fails."""


@dataclass(slots=True)
class Look:
    """What is wrong, and what nobody can say now."""

    seen: list[Seen] = field(default_factory=list)
    unknown: set[Key] = field(default_factory=set)


class Room(Protocol):
    """What a disk has, as ``shutil.disk_usage`` tells it."""

    @property
    def total(self) -> int:
        """All octets."""

    @property
    def free(self) -> int:
        """Those that can be written."""


class Sampler:
    """Looks. ``known`` of :meth:`look` is the trouble that is known from before."""

    def __init__(
        self,
        composition: Callable[[], Composition],
        outcomes: Outcomes,
        probes: Probes,
        events: Events,
        clock: Callable[[], float] = time.time,
        disk: Callable[[Path], Room] = shutil.disk_usage,
    ) -> None:
        self._composition = composition
        self._outcomes = outcomes
        self._probes = probes
        self._events = events
        self._clock = clock
        self._disk = disk
        self._calls = Disk()
        self._certificate: tuple[Composition, float | None] | None = None

    async def look(self, known: Container[Key] = ()) -> Look:
        """Look at everything. It never raises for what it looks at."""
        look, composition = Look(), self._composition()
        offsets: list[float] = []
        room = await self._room(composition.settings["STATE_DIR"], look)
        # All at once: one after the other, a hundred accounts whose provider does not answer would take hours.
        await asyncio.gather(*(self._account(each, room, look, known, offsets) for each in composition.accounts))
        self._clock_is(offsets, composition, look)
        await self._own_certificate(composition, look)
        self._devices(look)
        return look

    async def _account(
        self, account: Account, room: Room | None, look: Look, known: Container[Key], offsets: list[float]
    ) -> None:
        await self._backends(account, look, known)
        self._token(account, look)
        await self._credentials(account, look, offsets)
        for plugin in (account.maildrop, account.relay):
            told = await _told(plugin)
            offsets += _values(told or (), "clock_offset_seconds")
            if plugin is not None and plugin is account.relay and account.queue is not None:
                _spool(account, told, room, look)

    # The backends.

    async def _backends(self, account: Account, look: Look, known: Container[Key]) -> None:
        for leg, plugin in (("smtp", account.relay), ("pop3", account.maildrop)):
            if plugin is None:
                continue
            backend = Backend(account.name, leg)
            key = ("backend", f"{leg} {account.name}".rstrip())
            last = self._outcomes.last(backend)
            stale = last is None or abs(self._clock() - last.moment) >= CONDITIONS["backend"].lasts_seconds
            if stale and (key in known if last is None else last.trouble):
                # A backend that refused our password is left alone for a while, and so the last outcome stands.
                if not any(_values(await _told(plugin) or (), "backend_paused_seconds")):
                    await self._probes.probe(backend, plugin)
                last = self._outcomes.last(backend)
            if last is None:
                look.unknown.add(key)
            elif last.trouble:
                worked = self._outcomes.successes.get(backend, float("-inf"))
                says = f"{_LEGS[leg][1]}{_through(account)}: {last.trouble}"
                look.seen.append(Seen(*key, says, worked))

    # Tokens and what they are got with.

    def _token(self, account: Account, look: Look) -> None:
        key = ("token", account.name)
        if account.name not in self._events.tokens:
            look.unknown.add(key)
            return
        dead = self._events.tokens[account.name]
        # A login with a token that another process got (`authorize`) shows that there is one.
        worked = max(
            (
                self._outcomes.successes.get(Backend(account.name, leg), float("-inf"))
                for leg, (variable, _) in _LEGS.items()
                if account.settings[variable] != "password"
            ),
            default=float("-inf"),
        )
        if dead is not None and worked <= dead.moment:
            look.seen.append(Seen(*key, f"no OAuth2 token{_for(account)}: {dead.says}", worked))

    async def _credentials(self, account: Account, look: Look, offsets: list[float]) -> None:
        for name, credentials in account.credentials.items():
            told = await _told(credentials)
            key = ("credential", f"{account.name} {name}".strip())
            if told is None:
                look.unknown.add(key)
                continue
            offsets += _values(told, "clock_offset_seconds")
            ends = min(_values(told, "credential_expiry_timestamp_seconds"), default=None)
            self._ending(look, key, f"the OAuth2 certificate or consent{_for(account)}", ends)
        secret_ends: date | None = account.settings["OAUTH2_CLIENT_SECRET_EXPIRES"]
        if secret_ends is not None and account.settings["OAUTH2_CLIENT_SECRET"]:
            ends = datetime(secret_ends.year, secret_ends.month, secret_ends.day).timestamp()
            key = ("credential", f"{account.name} OAUTH2_CLIENT_SECRET".strip())
            self._ending(look, key, f"the OAuth2 client secret{_for(account)}", ends)

    def _ending(self, look: Look, key: Key, what: str, ends: float | None) -> None:
        if ends is not None and ends - self._clock() < SOON_SECONDS:
            tense = "ended" if ends <= self._clock() else "ends"
            look.seen.append(Seen(*key, f"{what} {tense} on {_day(ends)}"))

    async def _own_certificate(self, composition: Composition, look: Look) -> None:
        if self._certificate is None or self._certificate[0] is not composition:
            # Once for each composition: a file that was changed since is not what devices are shown.
            path: Path | None = composition.settings["TLS_CERT_FILE"]
            self._certificate = composition, None if path is None else await asyncio.to_thread(_end_of, path)
        self._ending(look, ("certificate", ""), "the certificate that devices are shown", self._certificate[1])

    # This machine.

    def _room_of(self, folder: Path) -> Room:
        return self._disk(_existing(folder))

    async def _room(self, folder: Path, look: Look) -> Room | None:
        try:
            room = await self._calls.call(self._room_of, folder)
        except (OSError, TimeoutError):
            look.unknown.add(("disk", ""))
            return None
        if room.free < min(NEARLY_FULL_OCTETS, NEARLY_FULL * room.total):
            look.seen.append(Seen("disk", "", f"{room.free >> 20} MiB are left on the disk of STATE_DIR"))
        return room

    def _clock_is(self, offsets: Sequence[float], composition: Composition, look: Look) -> None:
        backends = [Backend(account.name, leg) for account in composition.accounts for leg in _LEGS]
        lasts = [last for backend in backends if (last := self._outcomes.last(backend)) is not None]
        worst = max(offsets, key=abs, default=0.0)
        if abs(worst) > CLOCK_SECONDS:
            says = f"the clock is {abs(worst):.0f} s {'ahead of' if worst > 0 else 'behind'} that of a server"
            look.seen.append(Seen("clock", "", says))
        elif any("not yet valid" in last.trouble for last in lasts):
            look.seen.append(Seen("clock", "", "a server's certificate is not yet valid, so the clock is behind"))
        elif not offsets and all(last.trouble for last in lasts):
            look.unknown.add(("clock", ""))

    def _devices(self, look: Look) -> None:
        for device in self._events.devices:
            heard = self._events.heard.get(device.name)
            if heard is not None and self._clock() - heard > device.expect_seconds:
                # Not since when: time in which no service ran is left out, so nothing may have happened at that moment.
                says = f"nothing was sent by {device.name} for more than {_span(device.expect_seconds)}"
                look.seen.append(Seen("device", device.name, says))


def _spool(account: Account, told: Sequence[Figure] | None, room: Room | None, look: Look) -> None:
    place = account.queue.queue_name if account.queue is not None else ""
    if told is None:
        look.unknown |= {("spool_old", account.name), ("spool_dead", account.name), ("spool_room", place)}
        return
    oldest = max(_values(told, "spool_oldest_seconds"), default=0.0)
    if oldest > OLD_SECONDS:
        says = f"the oldest message in the spool{_of(account)} has waited for {_span(oldest)}"
        look.seen.append(Seen("spool_old", account.name, says))
    counts = {one.labels.get("state", ""): int(one.value) for one in told if one.name == "spool_messages"}
    lost = [f"{counts[state]} {state.replace('_', ' ')}" for state in ("dead", "set_aside") if counts.get(state)]
    if lost:
        says = f"messages in the spool{_of(account)} wait for somebody to decide: {', '.join(lost)}"
        look.seen.append(Seen("spool_dead", account.name, says))
    limit = account.settings["SPOOL_MAX_OCTETS"]
    enough = NEARLY_FULL * (min(limit, room.total) if room is not None else limit)
    left = min(_values(told, "spool_room_octets"), default=enough)
    # Accounts that share a spool see the same; it is one trouble, because its subject is the spool.
    if left < enough:
        look.seen.append(Seen("spool_room", place, f"the spool takes only {max(0, int(left)) >> 20} MiB more"))


async def _told(plugin: Maildrop | Relay | Credentials | None) -> Sequence[Figure] | None:
    """The plugin's figures; ``None`` where it can not tell them now."""
    if plugin is None:
        return ()
    try:
        return await figures(plugin)
    except (Failure, TimeoutError):
        return None


def _values(told: Iterable[Figure], name: str) -> list[float]:
    return [one.value for one in told if one.name == name]


def _end_of(path: Path) -> float | None:
    """When the first of the certificates in a file ends. Loaded only where devices are shown one."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return None  # the listener, which uses it, reports that
    return min((one.not_valid_after_utc.timestamp() for one in found), default=None)


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _through(account: Account) -> str:
    return f" through account {account.name}" if account.name else ""


def _for(account: Account) -> str:
    return f" for account {account.name}" if account.name else ""


def _of(account: Account) -> str:
    return f" of account {account.name}" if account.name else ""


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d")


def _span(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 2:
        return f"{seconds / 60:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
