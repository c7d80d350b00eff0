"""The watch of a running service: once a minute it looks at everything and tells what is new, what lasts, what is over.

All that is to be told at one time goes in one message, so there is at most one a minute. A message that no receiver
took is tried again, after longer and longer pauses; each way that fails is logged once until it works again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import log
from ..admin.disk import Disk
from ..admin.outcomes import Outcomes
from ..admin.probes import Probes
from ..admin.socket import Answers
from ..build import Account, Composition
from ..contracts import SettingsMistake
from ..settings import Settings
from .alert import Alert, of_changes
from .conditions import Change, Key, Trouble, Troubles
from .devices import Events, devices_of
from .memory import FILE_NAME, Memory, load, save
from .sampling import Sampler

if TYPE_CHECKING:
    from .channels import Channel

__all__ = ("Watch", "channels_of", "tell")

LOOK_SECONDS = 60.0
_MOST_PAUSE_SECONDS = 900.0
"""Between two tries of a message that nobody takes."""
_SAVE_SECONDS = 600.0
"""So often it is noted when devices were heard of last."""
_JUMP_SECONDS = 60.0
"""A clock that was set by more than this: what was counted from before is moved along."""

_log = logging.getLogger("legacy_email_proxy.alerts")


def channels_of(settings: Settings, accounts: Sequence[Account]) -> list[Channel]:
    """The ways that are set. Raises :class:`SettingsMistake` where a relay can not be made."""
    # Each way is loaded where it is set, because few set one, and email's policies take memory.
    found: list[Channel] = []
    if settings["ALERT_WEBHOOK_URL"] is not None:
        from .channels import Webhook

        found.append(Webhook(settings["ALERT_WEBHOOK_URL"]))
    if settings["ALERT_COMMAND"] is not None:
        from .channels import Command

        declared = [*settings.declared, *(one for account in accounts for one in account.settings.declared)]
        found.append(Command(settings["ALERT_COMMAND"], {one.name for one in declared}))
    if settings["ALERT_MAIL_TO"] is not None:
        from .mail import Mail, senders_of

        found.append(Mail(settings["ALERT_MAIL_TO"], senders_of(accounts)))
    return found


async def tell(channels: Sequence[Channel], alert: Alert) -> dict[str, Exception | str]:
    """Tell it by all ways at once: each one's name, and what the receiver said or why it failed."""
    done = await asyncio.gather(*(one.send(alert) for one in channels), return_exceptions=True)
    said: dict[str, Exception | str] = {}
    for channel, outcome in zip(channels, done, strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        said[channel.name] = outcome
    return said


class Watch:
    """Keeps the trouble of the service. :meth:`turn` is one look; :meth:`start` begins to take one each minute."""

    def __init__(
        self,
        composition: Callable[[], Composition],
        outcomes: Outcomes,
        probes: Probes,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        sampler: Sampler | None = None,
    ) -> None:
        self._composition = composition
        self.events = Events(clock)
        self._sampler = sampler or Sampler(composition, outcomes, probes, self.events, clock)
        self._clock, self._steady = clock, steady
        self._began = (clock(), steady())
        self._troubles = Troubles()
        self._logged: dict[Key, Trouble] = {}
        self._used: Composition | None = None
        self._channels: list[Channel] = []
        self._failing: set[str] = set()
        self._again, self._pause = float("-inf"), 0.0
        self._disk = Disk()
        self._saved = clock()
        self._unsaved = False
        self._running: asyncio.Task[None] | None = None

    @property
    def _path(self) -> Path:
        path: Path = self._composition().settings["STATE_DIR"]
        return path / FILE_NAME

    def troubles(self) -> list[Trouble]:
        """What is wrong now."""
        return self._troubles.current(self._clock())

    def says(self) -> list[str]:
        """What is wrong now, a sentence for each trouble."""
        return [one.says for one in self.troubles()]

    async def answer(self, request: Mapping[str, Any], by: str) -> Answers:
        """What is wrong now, for commands: one answer for each trouble."""
        for trouble in self.troubles():
            yield trouble.plain()

    def start(self) -> None:
        """Look each minute from now on."""
        log.observe(self.events)
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def load(self) -> None:
        """Remember what was told before a restart. The time in which no service ran is nobody's silence."""
        try:
            memory = await self._disk.call(load, self._path)
        except (OSError, ValueError) as error:
            self._tell_forgotten(error)
            return
        down = max(0.0, self._clock() - memory.saved)
        self.events.heard = {name: moment + down for name, moment in memory.heard.items()}
        self._troubles = Troubles(memory.troubles)
        self._logged = {(one.condition, one.subject): one for one in memory.troubles}

    async def _run(self) -> None:
        await self.load()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.turn()
            except Exception as error:
                log.failure(_log, "alerts: a look failed", error)

    async def turn(self) -> None:
        """One look, and what is to be told of it."""
        self._mind_the_clock()
        await self._renew()
        look = await self._sampler.look({(one.condition, one.subject) for one in self._troubles.remembered})
        now = self._clock()
        self._troubles.look(look.seen, look.unknown, now)
        self._log_changes(self._troubles.current(now))
        changes = self._troubles.due(now)
        # Without a way nobody has heard of it: it is told when a reload adds one.
        if changes and self._channels and self._steady() >= self._again:
            await self._tell(changes)
        await self._save()

    def _mind_the_clock(self) -> None:
        """Move what was counted from before along with a clock that was set."""
        clock, steady = self._clock(), self._steady()
        jumped = (clock - self._began[0]) - (steady - self._began[1])
        if abs(jumped) > _JUMP_SECONDS:
            self._troubles.shift(jumped)
            self.events.heard = {name: moment + jumped for name, moment in self.events.heard.items()}
        self._began = (clock, steady)

    async def _renew(self) -> None:
        """Use the settings of the current composition."""
        composition = self._composition()
        if composition is self._used:
            return
        self._used = composition
        self._again, self._pause = float("-inf"), 0.0
        await self._close_channels()
        self.events.expect(devices_of(composition.rules))
        try:
            self._channels = await asyncio.to_thread(channels_of, composition.settings, composition.accounts)
        except SettingsMistake as mistake:
            log.event(_log, logging.ERROR, "alert not sent", cause=str(mistake))

    def _log_changes(self, current: Sequence[Trouble]) -> None:
        now = {(one.condition, one.subject): one for one in current}
        for key, trouble in now.items():
            if key not in self._logged:
                facts = {"condition": trouble.condition, "says": trouble.says, "advice": trouble.about.advice}
                log.event(_log, logging.WARNING, "trouble begins", **facts)
        for key, trouble in self._logged.items():
            if key not in now:
                log.event(_log, logging.INFO, "trouble is over", condition=trouble.condition, says=trouble.says)
        self._logged = now

    async def _tell(self, changes: Sequence[Change]) -> None:
        said = await tell(self._channels, of_changes(changes))
        for name, outcome in said.items():
            if not isinstance(outcome, Exception):
                self._failing.discard(name)
                log.event(_log, logging.INFO, "alert sent", by=name, answer=outcome)
            elif name not in self._failing:
                self._failing.add(name)
                log.failure(_log, "alert not sent", outcome, by=name)
        if not all(isinstance(outcome, Exception) for outcome in said.values()):
            self._pause = 0.0
            self._troubles.told(changes, self._clock())
            self._unsaved = True
            return
        self._pause = min(_MOST_PAUSE_SECONDS, max(LOOK_SECONDS, 2 * self._pause))
        self._again = self._steady() + self._pause

    async def _save(self) -> None:
        now = self._clock()
        old = bool(self.events.heard) and abs(now - self._saved) >= _SAVE_SECONDS
        if not (self._unsaved or old):
            return
        self._unsaved, self._saved = False, now
        memory = Memory(self._troubles.remembered, dict(self.events.heard), now)
        try:
            await self._disk.call(save, self._path, memory)
        except OSError as error:
            self._tell_forgotten(error)

    def _tell_forgotten(self, error: Exception) -> None:
        if "memory" not in self._failing:
            self._failing.add("memory")
            cause = f"{self._path}: {getattr(error, 'strerror', None) or str(error) or 'the disk does not answer'}"
            log.event(_log, logging.WARNING, "alerts are not remembered", cause=cause, see="STATE_DIR")

    async def _close_channels(self) -> None:
        channels, self._channels = self._channels, []
        for channel in channels:
            try:
                await channel.aclose()
            except Exception as error:
                log.failure(_log, "plugin not closed cleanly", error)

    async def aclose(self) -> None:
        """Look no more, note what has to outlive a restart, and close the ways."""
        log.unobserve(self.events)
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._unsaved = self._unsaved or bool(self.events.heard)
        await self._save()
        await self._close_channels()
