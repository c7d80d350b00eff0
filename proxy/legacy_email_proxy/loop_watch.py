"""Sees that the event loop stands still, and logs in which line of code.

All sessions share one event loop. A site's plugin that sleeps, waits for a server or works for seconds inside of it
stops every session. That can not be prevented, but it must be seen: a thread of its own looks whether the loop still
turns. Where it does not, the log says which line holds it up, and which plugin that line belongs to.

Some calls, a regular expression above all, keep even this thread from running. They do let signals through. A timer of
the processor time that the process uses sends one, and its handler gives the thread a moment to look.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType

from . import log
from .plugins import GROUPS, available

__all__ = ("LoopWatch",)

BLOCKED_SECONDS = 2.0
"""The loop is blocked when it is late by so much."""
TURN_SECONDS = 1.0
"""How often the loop shows that it turns, and the thread looks."""
LOOK_AGAIN_SECONDS = 0.1
"""Where it seems blocked the thread looks once more: perhaps the whole process was stopped until now."""
QUIET_SECONDS = 60.0
"""A plugin that blocks again and again is told once in this time, with how often it was."""
LONG_SECONDS = 10.0
"""What takes longer is always told."""
_YIELDING_SECONDS = 2 * LOOK_AGAIN_SECONDS
_FRAMES = 8
"""How many lines of the stack are told, innermost first."""

_log = logging.getLogger("legacy_email_proxy.loop_watch")


class LoopWatch:
    """Watches the running loop from :meth:`start` to :meth:`close`; both are called in it."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="loop watch", daemon=True)
        self._due = 0.0
        """When the loop should show again that it turns."""
        self._late = 0.0
        """By how much it was late when it was blocked last."""
        self._quiet_until = 0.0
        self._untold: list[float] = []
        """The seconds of each time that was not told."""

    def start(self) -> None:
        """Watch from now on."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        # Only the main thread may have handlers of signals.
        self._has_timer = threading.current_thread() is threading.main_thread()
        if self._has_timer:
            self._former_handler = signal.signal(signal.SIGVTALRM, self._let_others_run)
        self._due = time.monotonic()
        self._turn()
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._ended.set()
        self._timer.cancel()
        if self._has_timer:
            # First the timer: without a handler its signal would end the process.
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, self._former_handler)

    # In the loop's thread

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._due >= BLOCKED_SECONDS:
            self._late = now - self._due
        self._due = now + TURN_SECONDS
        self._timer = self._loop.call_later(TURN_SECONDS, self._turn)
        if self._has_timer:
            signal.setitimer(signal.ITIMER_VIRTUAL, TURN_SECONDS + BLOCKED_SECONDS, TURN_SECONDS)

    def _let_others_run(self, number: int, frame: FrameType | None) -> None:
        # Not where other threads have used the time while the loop turned.
        if time.monotonic() - self._due >= BLOCKED_SECONDS:
            time.sleep(_YIELDING_SECONDS)

    # In the watching thread

    def _look(self) -> None:
        suspected: float | None = None
        while not self._ended.wait(TURN_SECONDS if suspected is None else LOOK_AGAIN_SECONDS):
            due, now = self._due, time.monotonic()
            if now - due < BLOCKED_SECONDS:
                suspected = None
            elif suspected != due:
                suspected = due
            else:
                suspected = None
                self._blocked(due)
            if self._untold and now >= self._quiet_until:
                self._sum_up(now)

    def _blocked(self, due: float) -> None:
        """Tell where the loop stands, wait until it turns again, and tell for how long it stood."""
        where = self._where()
        told = False
        while True:
            now = time.monotonic()
            if not told and (now >= self._quiet_until or now - due >= LONG_SECONDS):
                log.event(_log, logging.WARNING, "event loop blocked", seconds=round(now - due, 1), **where)
                told = True
            if self._due != due:
                break
            if self._ended.wait(LOOK_AGAIN_SECONDS):
                return
        if told:
            del where["stack"]
            log.event(_log, logging.WARNING, "event loop goes on", seconds=round(self._late, 1), **where)
            self._quiet_until = time.monotonic() + QUIET_SECONDS
        else:
            self._untold.append(self._late)

    def _sum_up(self, now: float) -> None:
        times, seconds = len(self._untold), sum(self._untold)
        self._untold.clear()
        self._quiet_until = now + QUIET_SECONDS
        log.event(_log, logging.WARNING, "event loop was blocked again", times=times, seconds=round(seconds, 1))

    def _where(self) -> dict[str, str]:
        """The line that the loop's thread executes; where that is called by a plugin, the plugin and its line."""
        frame = sys._current_frames().get(self._thread_id)
        if frame is None:
            return {"at": "unknown", "stack": ""}
        # Without our own handler of the signal, which stands above the line that it has interrupted.
        frames = [each for each, _ in traceback.walk_stack(frame) if each.f_code.co_filename != __file__]
        at, plugin = _in_plugin(frames) or (frames[0], "")
        return {
            "at": f"{at.f_code.co_filename}:{at.f_lineno}",
            **({"plugin": plugin} if plugin else {}),
            "stack": " < ".join(map(_shown, frames[:_FRAMES])),
        }


def _in_plugin(frames: list[FrameType]) -> tuple[FrameType, str] | None:
    """The innermost frame that belongs to a plugin, and which one that is."""
    found = [each for group in GROUPS for each in available(group)]
    for frame in frames:
        module = frame.f_globals.get("__name__", "")
        for each in found:
            if f"{module}.".startswith(f"{each.entry_point.module}."):
                return frame, str(each)
    return None


def _shown(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
