"""An event loop that stands still is seen, with the line that holds it up, also where that line keeps the GIL."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blocking import holdups
from legacy_email_proxy import loop_watch
from legacy_email_proxy.log import facts_of
from legacy_email_proxy.loop_watch import LoopWatch
from waiting import until


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    """What was logged, without the times."""
    records = [record for record in caplog.records if record.name == "legacy_email_proxy.loop_watch"]
    return [(record.getMessage(), facts_of(record)) for record in records]


async def test_the_line_is_told_while_it_holds_the_loop_up_and_at_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_watch, "BLOCKED_SECONDS", 0.05)
    monkeypatch.setattr(loop_watch, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(loop_watch, "LOOK_AGAIN_SECONDS", 0.01)
    # A machine that is late must not make the real one untold.
    monkeypatch.setattr(loop_watch, "QUIET_SECONDS", 0.0)

    def blocked() -> list[dict[str, Any]]:
        return [facts for words, facts in told(caplog) if words == "event loop blocked" and "hold_up" in facts["stack"]]

    def hold_up() -> None:
        for _ in range(5000):
            if blocked():
                return
            time.sleep(0.01)

    before = signal.getsignal(signal.SIGVTALRM)
    watch = LoopWatch()
    watch.start()
    hold_up()
    (facts,) = blocked()
    await until(lambda: any(words == "event loop goes on" for words, _ in told(caplog)))
    watch.close()
    assert facts["seconds"] >= 0
    # The innermost line may be in something that it calls.
    assert re.search(r"test_loop_watch\.py:\d+ hold_up", facts["stack"])
    assert re.fullmatch(r"/.*\.py:\d+", facts["at"])
    assert "plugin" not in facts
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    # Where the process has used much CPU meanwhile, the signal came, whose handler sleeps in the loop on purpose.
    holdups()


PLUGIN = """
import re

class Filter:
    async def header(self):
        # It needs longer than the age of the universe, and keeps the GIL.
        return re.match("(a+)+$", 99 * "a" + "b")
"""
PROGRAM = """
import asyncio
from legacy_email_proxy import log, loop_watch

loop_watch.BLOCKED_SECONDS = loop_watch.TURN_SECONDS = 0.2
log.configure("info", "text")

async def main():
    import acme_slow
    loop_watch.LoopWatch().start()
    await acme_slow.Filter().header()

asyncio.run(main())
"""


def test_a_regular_expression_without_end_in_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "acme_slow.py").write_text(PLUGIN)
    metadata = tmp_path / "acme_slow-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-slow\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text("[legacy_email_proxy.filter]\nslow = acme_slow:Filter\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=subprocess.PIPE, text=True) as run:
        try:
            assert run.stderr is not None
            line = run.stderr.readline()
        finally:
            run.kill()
    assert " warning event loop blocked seconds=" in line
    assert f" at={tmp_path}/acme_slow.py:7 " in line
    assert ' plugin="slow (acme-slow 1.2)" ' in line
    assert re.search(r' stack="__init__\.py:\d+ match < acme_slow\.py:7 header < ', line)


class Turns:
    """In place of the wait between two looks: what the loop does meanwhile, step by step; then the watch ends."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = list(steps)
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if self._steps:
            self._steps.pop(0)()
            return False
        return True


class Watched(LoopWatch):
    """Its loop turns and stands still as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self._thread_id = 0
        self.turn()

    def turn(self) -> None:
        self._due = time.monotonic() + 1000

    def stand(self) -> None:
        self._due = time.monotonic() - loop_watch.BLOCKED_SECONDS
        self._late = 7.04

    def look(self, *steps: Callable[[], object]) -> list[float]:
        turns = Turns(*steps)
        self._ended = turns  # type: ignore[assignment]
        self._look()
        return turns.waits


TURN, AGAIN = loop_watch.TURN_SECONDS, loop_watch.LOOK_AGAIN_SECONDS


def nothing() -> None:
    pass


def test_a_process_that_was_stopped_as_a_whole_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watched()
    # Its thread runs before the loop does; a moment later the loop turns as well.
    assert watch.look(watch.stand, watch.turn) == [TURN, AGAIN, TURN]
    assert watch.look(watch.stand, watch.turn, watch.stand, watch.turn) == [TURN, AGAIN, TURN, AGAIN, TURN]
    assert told(caplog) == []


def test_what_blocks_again_and_again_is_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watched()
    blocked = (watch.stand, nothing, watch.turn)
    watch.look(*blocked)
    assert [words for words, _ in told(caplog)] == ["event loop blocked", "event loop goes on"]
    assert told(caplog)[-1][1] == {"seconds": 7.0, "at": "unknown"}
    watch.look(*blocked, *blocked)
    assert len(told(caplog)) == 2
    watch._quiet_until = 0.0
    watch.look(nothing)
    assert told(caplog)[2:] == [("event loop was blocked again", {"times": 2, "seconds": 14.1})]
    watch.look(*blocked, nothing)
    assert len(told(caplog)) == 3, "the sum begins a minute of its own"


def test_who_never_comes_back_is_told_in_any_case(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watched()
    watch._quiet_until = float("inf")

    def long_after() -> None:
        monkeypatch.setattr(loop_watch, "LONG_SECONDS", 0.0)

    watch.look(watch.stand, nothing, nothing)
    assert told(caplog) == []
    watch.turn()
    watch.look(watch.stand, nothing, nothing, long_after, nothing, nothing)
    assert [words for words, _ in told(caplog)] == ["event loop blocked"]


def test_the_signal_lets_the_thread_run_only_where_the_loop_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    watch = Watched()
    watch._let_others_run(signal.SIGVTALRM, None)
    assert slept == []
    watch.stand()
    watch._let_others_run(signal.SIGVTALRM, None)
    assert slept == [2 * AGAIN]
