"""A device's dialogue, live: lines of :func:`~..trace.trace` as server-sent events, and as plain text without a script.

Nothing of a message is shown, not even its header. It is bounded: so many at once, each so long, and it ends when the
reader leaves.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from ..trace import in_words, trace
from .rendering import utc
from .texts import text

__all__ = ("Watching",)

MOST_AT_ONCE = 8
MOST_SECONDS = 1500.0
"""Shorter than the listener lets a long answer take."""
BEAT_SECONDS = 15.0
"""So often something is sent, because proxies in between cut a connection on which nothing moves."""

_Shape = Callable[[Mapping[str, Any] | None], str]
"""A line as it is sent; ``None`` is the beat."""


class Watching:
    """All who watch a device now."""

    def __init__(self) -> None:
        self._now = 0

    @property
    def full(self) -> bool:
        """Whether nobody else may watch now."""
        return self._now >= MOST_AT_ONCE

    def events(self, address: str, by: str) -> AsyncGenerator[str, None]:
        """As server-sent events: each has the moment and the words as JSON."""
        return self._watch(address, by, _event, "event: end\ndata: {}\n\n")

    def plain(self, address: str, by: str) -> AsyncGenerator[str, None]:
        """As lines of text, with times in UTC."""
        return self._watch(address, by, _line, text("trace.over") + "\n")

    async def _watch(self, address: str, by: str, shape: _Shape, end: str) -> AsyncGenerator[str, None]:
        self._now += 1
        try:
            async with aclosing(trace({"address": address, "header": False}, by)) as lines:
                async with aclosing(_beaten(lines)) as beaten:
                    async for line in beaten:
                        yield shape(line)
            yield end
        finally:
            self._now -= 1


async def _beaten(lines: AsyncGenerator[Any, None]) -> AsyncGenerator[Mapping[str, Any] | None, None]:
    """The lines, and ``None`` whenever there was none for a while; it ends after ``MOST_SECONDS``."""
    over = time.monotonic() + MOST_SECONDS
    coming: asyncio.Task[Any] | None = None
    try:
        while (left := over - time.monotonic()) > 0:
            coming = coming or asyncio.ensure_future(anext(lines))
            done, _ = await asyncio.wait({coming}, timeout=min(BEAT_SECONDS, left))
            if not done:
                yield None
                continue
            line, coming = coming.result(), None
            yield line
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


def _event(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return ": \n\n"
    if "watching" in line:
        return "event: begin\ndata: {}\n\n"
    # JSON in ASCII has no line end, so what a peer sent can not begin another event.
    return f"data: {json.dumps({'time': line.get('time'), 'text': in_words(line)})}\n\n"


def _line(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return "\n"
    if "watching" in line:
        return text("trace.begun", address=", ".join(line["watching"])) + "\n"
    moment = f"{utc(line['time']):%H:%M:%S} " if "time" in line else ""
    return f"{moment}{in_words(line)}\n"
