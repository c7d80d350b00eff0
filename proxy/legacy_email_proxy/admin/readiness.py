"""Whether the service can do its work now: each backend, the spool, the tokens and the disk, with the reason.

A backend is judged by the mail that went through it. Only where nothing has for a minute it is asked: connect, TLS and
login. That costs a login, so it is done once a minute at most, however often somebody wants to know, and never while
the backend is left alone because it refused our password.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

from ..build import Account, Composition
from ..contracts import Authorizable, Failure, Figure, Maildrop, Relay
from ..relays.wrapper import FIGURES_SECONDS, figures
from ..replies import printable
from .disk import DISK_SECONDS, Disk
from .outcomes import Backend, Outcome, Outcomes
from .probes import Probes
from .socket import Answers

__all__ = ("Check", "Readiness", "Report")

OLD_SECONDS = 60.0
"""An outcome that is older says too little. So long it takes until a backend is probed again, too."""
WAIT_SECONDS = 10.0
"""How long who asks waits for a probe. It goes on after that."""
_TOKEN_SECONDS = 5.0
_SAYS_OCTETS = 500
LEAST_FREE_OCTETS = 16 << 20
"""Of the disk of ``STATE_DIR``: tokens, and what else is kept, must find room."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``what`` is ``service``, ``backend``, ``spool``, ``token`` or ``disk``."""

    what: str
    ok: bool
    says: str
    account: str = ""
    leg: str = ""
    unknown: bool = False
    """Nobody can say yet."""


@dataclass(frozen=True, slots=True)
class Report:
    """All checks. ``troubles`` are what the operator should know besides; they do not make the service unready."""

    checks: Sequence[Check]
    troubles: Sequence[str] = ()

    @property
    def ready(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.ok for check in self.checks)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Report:
        """The report of which :meth:`plain` gave this."""
        return cls([Check(**each) for each in plain["checks"]], tuple(plain["troubles"]))

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        checks = [{key: value for key, value in asdict(check).items() if value or key == "ok"} for check in self.checks]
        return {"ready": self.ready, "checks": checks, "troubles": list(self.troubles)}

    def lines(self) -> list[str]:
        """For people. What is said may hold a backend's words, which must not look like another line."""
        troubles = (f"trouble: {printable(says, _SAYS_OCTETS)}" for says in self.troubles)
        return ["ready" if self.ready else "not ready", *map(_line, self.checks), *troubles]


def _line(check: Check) -> str:
    names = " ".join(filter(None, (check.what, check.leg, check.account)))
    return f"{'ok    ' if check.ok else 'FAILED'} {names}: {printable(check.says, _SAYS_OCTETS)}"


class Readiness:
    """Looks when it is asked; ``composition`` gives the current one."""

    def __init__(
        self,
        composition: Callable[[], Composition],
        outcomes: Outcomes,
        probes: Probes,
        clock: Callable[[], float] = time.time,
        wait_seconds: float = WAIT_SECONDS,
        troubles: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._composition = composition
        self._outcomes = outcomes
        self._probes = probes
        self._troubles = troubles
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._disk = Disk()
        self.stopping = False
        """Whether the service is about to close its listeners."""

    async def answer(self, request: Mapping[str, Any], by: str) -> Answers:
        """For the service's own socket: one item, :meth:`Report.plain`."""
        yield (await self.report()).plain()

    async def report(self, wait_seconds: float | None = None) -> Report:
        """The state of everything. Never raises. ``wait_seconds``: how long a probe is waited for, if not as always."""
        if self.stopping:
            return Report([Check("service", False, "the service is stopping")])
        composition = self._composition()
        legs = chain.from_iterable((account.maildrop, account.relay) for account in composition.accounts)
        plugins = [plugin for plugin in legs if plugin is not None]
        told = dict(zip(map(id, plugins), await asyncio.gather(*map(_told, plugins)), strict=True))
        wait = self._wait_seconds if wait_seconds is None else wait_seconds
        checks = await asyncio.gather(*(self._of_account(account, told, wait) for account in composition.accounts))
        disk = await self._disk_of(composition.settings["STATE_DIR"])
        return Report([*chain.from_iterable(checks), disk], self._troubles())

    async def _of_account(
        self, account: Account, told: Mapping[int, Sequence[Figure] | str], wait: float
    ) -> list[Check]:
        legs = (("pop3", account.maildrop), ("smtp", account.relay))
        asked = (
            self._backend(Backend(account.name, leg), plugin, told[id(plugin)], wait)
            for leg, plugin in legs
            if plugin is not None
        )
        checks = list(await asyncio.gather(*asked))
        if account.relay is not None:
            checks += _spool(account, told[id(account.relay)])
        return checks + await _tokens(account)

    async def _backend(
        self, backend: Backend, plugin: Maildrop | Relay, told: Sequence[Figure] | str, wait: float
    ) -> Check:
        last = self._outcomes.last(backend)
        paused = _value(told, "backend_paused_seconds")
        if (last is None or self._clock() - last.moment >= OLD_SECONDS) and not paused:
            # What comes of it is an outcome, so the next one is a minute later.
            await self._probes.probe(backend, plugin, wait)
            last = self._outcomes.last(backend)
        if last is None:
            says = f"left alone for {paused:.0f} s" if paused else "no answer yet; it is being asked"
            return Check("backend", False, says, backend.account, backend.leg, unknown=not paused)
        return Check("backend", not last.trouble, self._words(last, paused), backend.account, backend.leg)

    def _words(self, last: Outcome, paused: float) -> str:
        words = f"{last.trouble or 'works'} ({max(0.0, self._clock() - last.moment):.0f} s ago)"
        return f"{words}; left alone for {paused:.0f} s" if paused else words

    async def _disk_of(self, state_dir: Path) -> Check:
        try:
            free = await self._disk.call(_free_octets, state_dir)
        except TimeoutError:
            return Check("disk", False, f"no answer within {DISK_SECONDS:g} s")
        except OSError as error:
            return Check("disk", False, error.strerror or "it can not be asked")
        return Check("disk", free >= LEAST_FREE_OCTETS, f"{free >> 20} MiB are free in STATE_DIR")


async def _told(plugin: Maildrop | Relay) -> Sequence[Figure] | str:
    """The plugin's figures, or why it has none now."""
    try:
        return await figures(plugin)
    except TimeoutError:
        return f"no answer within {FIGURES_SECONDS:g} s"
    except Failure as failure:
        return str(failure)


def _value(told: Sequence[Figure] | str, name: str) -> float:
    return 0.0 if isinstance(told, str) else max((one.value for one in told if one.name == name), default=0.0)


def _spool(account: Account, told: Sequence[Figure] | str) -> list[Check]:
    if account.queue is None or not told:
        return []
    if isinstance(told, str):
        return [Check("spool", False, told, account.name)]
    counts = {one.labels.get("state", ""): one.value for one in told if one.name == "spool_messages"}
    words = ", ".join(f"{count:.0f} {state.replace('_', ' ')}" for state, count in counts.items() if count)
    left = [one.value for one in told if one.name == "spool_room_octets"]
    if left and min(left) <= 0:
        return [Check("spool", False, f"it is full, or its disk is: {words or 'no messages'}", account.name)]
    return [Check("spool", True, words or "no messages", account.name)]


async def _tokens(account: Account) -> list[Check]:
    checks = []
    for credentials in account.credentials.values():
        if hasattr(credentials, "status"):
            try:
                async with asyncio.timeout(_TOKEN_SECONDS):
                    error = (await cast(Authorizable, credentials).status()).error
            except Exception as failure:
                error = str(failure) if isinstance(failure, Failure) else f"unexpected: {type(failure).__name__}"
            checks.append(Check("token", not error, error or "no trouble with the last renewal", account.name))
    return checks


def _free_octets(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
