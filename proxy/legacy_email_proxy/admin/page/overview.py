"""The overview: whether all is well and what to do where it is not, what runs, the last messages, graphs."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import __version__
from ...history.queries import Entry, Filter, hours, samples, search
from ...replies import printable
from ..readiness import Check
from .entries import shown
from .graphs import PERIODS, Period, drawn, points_of
from .site import Site, query_of
from .sources import NoHistory
from .texts import text

__all__ = ("NAME", "routes")

NAME = "overview"

_WAIT_SECONDS = 0.1
"""So long a backend that is being asked is waited for: the page comes at once, and says that there is no answer yet."""
_LAST_MESSAGES = 8
_SAYS_OCTETS = 500
_MOST_LINES = 16
"""With more lines, as with many accounts, what is in order is folded away."""
_CONDITIONS = {"backend": "backend", "token": "token", "spool": "spool_room", "disk": "disk"}
"""What is looked at → the condition that says what to do about it."""
_GRAPHS = ("messages", "refusals", "spool", "seconds")


def routes(site: Site) -> list[Route]:
    """The page itself."""
    pages = _Overview(site)
    return [site.get("/overview", pages.overview)]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the checklist."""

    title: str
    tone: str
    says: str
    todo: str = ""
    since: float | None = None


class _Overview:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._began = time.time()

    async def overview(self, request: Request) -> Response:
        sources, now = self._site.sources, time.time()
        period = PERIODS.get(query_of(request).get("period"), PERIODS["day"])
        report = await sources.readiness.report(_WAIT_SECONDS)
        troubles = {(one["condition"], one["subject"]): one for one in sources.troubles()}
        # A trouble that is a line already only says since when.
        lines = [self._checked(check, troubles.pop(_key(check), None)) for check in report.checks]
        lines += [
            _Line(text("overview.trouble"), "bad", one["says"], one["advice"], one["since"])
            for one in troubles.values()
        ]
        try:
            last, figures = await sources.history(lambda connection: _read(connection, period, now))
        except NoHistory as missing:
            last, figures, history = [], None, missing.why
        else:
            history = ""
        points = points_of(period, now, *figures) if figures is not None else []
        return self._site.render(
            request,
            "overview.html",
            lines=lines if len(lines) <= _MOST_LINES else [line for line in lines if line.tone != "good"],
            fine=[] if len(lines) <= _MOST_LINES else [line for line in lines if line.tone == "good"],
            verdict=_verdict(lines),
            runs=self._runs(),
            began=self._began,
            entries=[shown(entry) for entry in last],
            history=history,
            period=period,
            points=points,
            graphs=[drawn(name, period, points) for name in _GRAPHS] if points else [],
        )

    def _checked(self, check: Check, trouble: Mapping[str, Any] | None) -> _Line:
        key = f"check.{check.what}.{check.leg}" if check.leg else f"check.{check.what}"
        title = text(key)
        if check.account:
            title = text("check.of", title=title, account=check.account)
        tone = "good" if check.ok else "wait" if check.unknown else "bad"
        todo = "" if check.ok else self._site.sources.advice.get(_CONDITIONS.get(check.what, ""), "")
        if check.unknown:
            todo = text("check.unknown")
        since = trouble["since"] if trouble is not None and not check.ok else None
        return _Line(title, tone, printable(check.says, _SAYS_OCTETS), todo, since)

    def _runs(self) -> list[tuple[str, str]]:
        """Names and values of what runs now."""
        composition = self._site.sources.composition
        settings = composition.settings
        runs = [(text("runs.version"), __version__)]
        for listener, places in self._site.sources.listening.items():
            if places:
                where = ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in places)
                runs.append((text(f"runs.{listener}"), where))
        for title, variable, leg in (
            ("runs.sending", "RELAY_PLUGIN", composition.relay),
            ("runs.reading", "MAILDROP_PLUGIN", composition.maildrop),
        ):
            runs.append((text(title), settings[variable] if leg is not None else text("runs.closed")))
        if any(account.name for account in composition.accounts):
            runs.append((text("runs.accounts"), str(len(composition.accounts))))
        if composition.filters:
            runs.append((text("runs.filters"), ", ".join(composition.filters)))
        return runs


def _key(check: Check) -> tuple[str, str]:
    """The trouble that is about the same: its condition and subject."""
    subject = f"{check.leg} {check.account}".strip() if check.what == "backend" else check.account
    return _CONDITIONS.get(check.what, ""), subject


def _read(connection: sqlite3.Connection, period: Period, now: float) -> tuple[list[Entry], tuple[Any, Any]]:
    since = now - period.hours * 3600
    last = search(connection, Filter(kind="message"), limit=_LAST_MESSAGES)
    return last, (hours(connection, since), samples(connection, since))


def _verdict(lines: list[_Line]) -> str:
    tones = {line.tone for line in lines}
    return "bad" if "bad" in tones else "wait" if "wait" in tones else "good"
