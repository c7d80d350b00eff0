"""One device's dialogue, live, both with us and with the backend: for the day on which a scanner won't send.

It is a handler of the log that takes also what is below ``LOG_LEVEL``: each line of a dialogue is an event of the task
that belongs to the device's session, which is bound to the device's address. While nobody watches, a line costs one
comparison. While somebody watches one device, the content of other devices' messages makes no events. Passwords are
left out where the line is made, so no watcher can ask for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from .. import log
from ..access import Network, canonical, within
from ..contracts import Failure
from ..replies import printable
from ..settings.types import networks as parsed
from .socket import Answers

__all__ = ("MAX_CHARACTERS", "in_words", "trace")

_MOST_WAITING = 10_000
"""Lines for a watcher who does not read; more are left out, and counted."""

MAX_CHARACTERS = 2000
"""Of one line. Content without line ends would otherwise be kept in pieces of any size."""

_log = logging.getLogger("legacy_email_proxy.admin")


class _Watch(logging.Handler):
    """Collects what concerns the devices of some networks, from any thread."""

    def __init__(self, networks: tuple[Network, ...], account: str | None) -> None:
        super().__init__()
        self._networks = networks
        self._account = account
        self._loop = asyncio.get_running_loop()
        self._lines: deque[Mapping[str, Any]] = deque()
        self._left_out = 0
        self._some = asyncio.Event()

    def wants(self, facts: Mapping[str, object]) -> bool:
        """Whether these are of a device that is watched."""
        address = canonical(str(facts.get("client", "")))
        return address is not None and within(address, self._networks)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record if it is about a device that is watched."""
        try:
            self._keep(record)
        except Exception:
            # A plugin logs with arguments that do not fit its words. That must not end the session.
            self.handleError(record)

    def _keep(self, record: logging.LogRecord) -> None:
        facts = log.facts_of(record)
        if not self.wants(facts):
            return
        if self._account is not None and facts.get("account", self._account) != self._account:
            return
        if len(self._lines) >= _MOST_WAITING:
            self._left_out += 1
            return
        text = record.getMessage()
        if len(text) > MAX_CHARACTERS:
            text = f"{text[:MAX_CHARACTERS]}…"
        self._lines.append(
            {
                "time": record.created,
                "from": "device" if record.name.rpartition(".")[2] in ("smtp", "pop3") else "backend",
                "level": record.levelname.lower(),
                "text": text,
                "facts": {key: log.plain(value) for key, value in facts.items()},
            }
        )
        # The record may come from a worker thread.
        self._loop.call_soon_threadsafe(self._some.set)

    async def lines(self) -> Answers:
        """What comes, without end."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._lines:
                yield self._lines.popleft()
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                yield {"left_out": left_out}


async def trace(request: Mapping[str, Any], by: str) -> Answers:
    """Watch ``address`` (or a network), and of ``account`` only where that is given; ``content``: whole messages too;
    ``header`` false: not even their header.

    Raises :class:`Failure` for an address that is none.
    """
    try:
        networks = parsed(str(request.get("address")))
    except ValueError as error:
        raise Failure(f"that is no address: {error}") from None
    content = request.get("content") is True
    watch = _Watch(networks, request.get("account"))
    header = request.get("header") is not False
    log.observe(watch, log.CONTENT if content else log.HEADER if header else logging.DEBUG, watch.wants)
    facts = {"address": request["address"], "content": "yes" if content else "no", "by": by}
    log.event(_log, logging.WARNING if content else logging.INFO, "trace begins", **facts)
    try:
        yield {"watching": [str(network) for network in networks]}
        async for line in watch.lines():
            yield line
    finally:
        log.unobserve(watch)
        log.event(_log, logging.INFO, "trace ended", **facts)


def in_words(line: Mapping[str, Any]) -> str:
    """A line for people, without its time: session, who said it, what was said."""
    if "left_out" in line:
        return f"… and {line['left_out']} lines that could not be shown in time"
    text = _safe(line["text"])
    if text[:3] not in ("C: ", "S: ") and not text.startswith("content: "):
        facts = (f"{key}={_safe(value)}" for key, value in line["facts"].items() if key not in ("client", "session"))
        text = " ".join(["--", text, *facts])
    return f"{line['facts'].get('session', '-'):<12} {line['from']:<7} {text}"


def _safe(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if text.isascii() and text.isprintable() else printable(text, MAX_CHARACTERS)
