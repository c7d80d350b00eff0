"""What ``check`` found, as it is shown: a line for each finding or one JSON object, and meanwhile what it waits for."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from ..contracts import Finding, Level

__all__ = ("Report",)

_CLEAR = "\r\x1b[K"


class Report:
    """Takes each finding when it is found. ``as_json``: nothing is printed before :meth:`close`."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._found: list[dict[str, Any]] = []
        # Only for somebody who looks on: in a pipe or a log it would be noise.
        self._progress = sys.stderr.isatty()
        self.bad = False

    def add(self, leg: str, finding: Finding, *, account: str = "", plugin: str = "") -> None:
        """Show it. ``leg`` says what it is about: ``settings``, ``maildrop``, ``relay`` and so on."""
        self.bad |= finding.level is Level.BAD
        if self._as_json:
            self._found.append(
                {
                    "ok": finding.level is not Level.BAD,
                    "level": finding.level.value.lower(),
                    "leg": leg,
                    "plugin": plugin,
                    "account": account,
                    "text": finding.text,
                    "advice": finding.advice,
                }
            )
            return
        self._clear()
        label = " ".join(filter(None, (account, leg, plugin)))
        advice = f" -> {finding.advice}" if finding.advice else ""
        print(f"{finding.level.value:<8} {label}: {finding.text}{advice}", flush=True)

    def close(self, *, whole: bool = True) -> None:
        """All is said; ``whole`` is false where the check was ended before its end."""
        self._clear()
        if self._as_json:
            print(json.dumps({"ok": whole and not self.bad, "findings": self._found}, ensure_ascii=False), flush=True)

    @asynccontextmanager
    async def waiting(self, what: str) -> AsyncIterator[None]:
        """Show on a terminal what is being waited for, and for how long already."""
        if not self._progress:
            yield
            return
        ticking = anyio.CancelScope()

        async def tick() -> None:
            with ticking:
                began = anyio.current_time()
                while True:
                    seconds = int(anyio.current_time() - began)
                    print(f"{_CLEAR}… {what}{f', {seconds} s' if seconds else ''}", end="", file=sys.stderr, flush=True)
                    await anyio.sleep(1)

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            try:
                yield
            finally:
                ticking.cancel()
                self._clear()

    def _clear(self) -> None:
        if self._progress:
            print(_CLEAR, end="", file=sys.stderr, flush=True)
