"""Which event loop runs the service: asyncio's own, or uvloop, which needs less CPU for each message."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ("event_loop_mistakes", "loop_options")


def loop_options(name: str) -> dict[str, Any]:
    """What :func:`anyio.run` is told for an ``EVENT_LOOP``. Where uvloop can not be had it is asyncio's own loop;
    :func:`event_loop_mistakes` then has the mistake, so that it is reported together with all others.
    """
    factory = None if name == "asyncio" else _uvloop()
    return {} if factory is None else {"loop_factory": factory}


def event_loop_mistakes(settings: Mapping[str, Any]) -> list[str]:
    """One line if the loop that is asked for is not there."""
    if settings["EVENT_LOOP"] != "uvloop" or _uvloop() is not None:
        return []
    return ["EVENT_LOOP: uvloop is not installed; pip install 'legacy-email-proxy[fast]', or set auto"]


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop
