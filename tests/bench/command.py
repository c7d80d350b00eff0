"""The command of a leg: which pieces of work it does, in what size, and how long it may take altogether."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import FrameType

from bench.measure import FAILURES, MISSING
from bench.table import Row, rendered

Scenario = Callable[[], Sequence[Row]]
Start = Callable[[ExitStack, bool], Mapping[str, Scenario]]
"""Starts what all the work of a leg needs, the work being small if the second argument says so."""


def main(leg: str, names: Sequence[str], start: Start) -> int:
    """Do the work that the command line names and print the table; the exit status is 0 when every target is met."""
    parser = argparse.ArgumentParser(description=f"Measures {leg} beside its rival and the physical limit.")
    parser.add_argument("--only", metavar="NAME", action="append", choices=names, help="|".join(names))
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that it works")
    parser.add_argument("--seconds", type=int, default=900, help="give up after this long (default 900)")
    wanted = parser.parse_args()
    # Before anything is started, because it is inherited: a thousand idle devices are three thousand descriptors.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _give_up)
    signal.alarm(wanted.seconds)
    rows: list[Row] = []
    finished = True
    try:
        with ExitStack() as stack:
            scenarios = start(stack, wanted.quick)
            for name in wanted.only or names:
                began = time.monotonic()
                try:
                    rows += scenarios[name]()
                except FAILURES as error:
                    note(f"{name} was given up: {error!r}")
                    finished = False
                note(f"{name} took {time.monotonic() - began:.0f} s")
            signal.alarm(0)
    except _GivenUp as reason:
        note(f"everything was given up: {reason}")
        finished = False
    except MISSING as reason:
        raise SystemExit(f"{leg} can not be measured: {reason}") from None
    load = os.getloadavg()[0]
    machine = f"{os.cpu_count()} cores, load {load:.1f}"
    print(f"\n{leg}: {interpreter()}, {machine}\n\n{rendered(rows)}")
    met = all(verdict == "yes" for row in rows for verdict in row.verdicts)
    return int(not (finished and met))


def interpreter() -> str:
    """The Python that everything runs on, and how it was built: without PGO and LTO it is a fifth or more slower."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    ways = {"PGO": "--enable-optimizations" in options, "LTO": "--with-lto" in options}
    how = ", ".join(f"{'with' if there else 'without'} {way}" for way, there in ways.items())
    if sys.base_prefix == "/usr":
        how = "the distribution's, which is optimised in ways of its own"
    return f"Python {platform.python_version()} ({how}), event loop {os.environ.get('EVENT_LOOP', 'auto')}"


def note(text: str) -> None:
    """What the reader of the table should know, at once and beside it."""
    print(f"  {text}", file=sys.stderr, flush=True)


class _GivenUp(BaseException):
    """Out of time, or asked to stop: no work may take it for a failure of its own."""


def _give_up(number: int, _frame: FrameType | None) -> None:
    raise _GivenUp(signal.Signals(number).name)
