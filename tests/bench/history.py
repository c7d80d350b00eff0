"""Measures the history, `python tests/bench/history.py [--messages N]`: what it costs, and how fast it answers.

Prints a table. The file is made in the temporary folder, which should be on the disk that is meant (`TMPDIR`).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from legacy_email_proxy import log
from legacy_email_proxy.contracts import BOUND
from legacy_email_proxy.history.database import open_to_read, open_to_write, trim
from legacy_email_proxy.history.events import Writing
from legacy_email_proxy.history.facts import Event
from legacy_email_proxy.history.queries import Filter, devices, hours, search, start_of_last
from legacy_email_proxy.history.recorder import Recorder

BATCH = 1000
NOW = 1_900_000_000.0
SECONDS_APART = 1.2
"""A million messages are two weeks then."""

CLIENTS, ADDRESSES = 50, 5000


def messages(count: int) -> Iterator[list[Event]]:
    """Batches of a message each and, for every tenth, a refusal; the oldest first."""
    for begin in range(0, count, BATCH):
        batch = []
        for number in range(begin, min(begin + BATCH, count)):
            client = f"192.168.1.{number * 7 % CLIENTS}"
            known = {"session": f"s7kq2m-{number}", "client": client, "account": "office"}
            moment = NOW - (count - number) * SECONDS_APART
            facts = {
                "sender": f"scan{number % CLIENTS}@firm.example",
                "recipients": [f"person{number * 13 % ADDRESSES}@firm.example"],
                "octets": 150_000,
                "backend": f"250 2.0.0 Ok: queued as {number:012X}",
            }
            batch.append(Event(moment, "message relayed", {**known, **facts}))
            if number % 10 == 0:
                refused = {
                    "command": "AUTH LOGIN",
                    "reply": "502 5.5.1 Command not implemented",
                    "advice": "log in not",
                }
                batch.append(Event(moment, "smtp command refused", {**known, **refused}))
        yield batch


def write(path: Path, count: int) -> float:
    """Messages a second."""
    seconds = 0.0
    with closing(open_to_write(path)) as connection:
        writing = Writing(connection)
        for batch in messages(count):
            began = time.perf_counter()
            writing.write(batch)
            seconds += time.perf_counter() - began
    return count / seconds


def emitting(path: Path, *, recorded: bool) -> float:
    """Microseconds for the thread that logs an event, with all that logging itself costs."""
    logger = logging.getLogger("legacy_email_proxy.bench")
    logger.setLevel(logging.INFO)
    logging.getLogger().addHandler(logging.NullHandler())
    recorder = Recorder(path, 14) if recorded else None
    if recorder is not None:
        log.observe(recorder)
    facts = {"sender": "scan@firm.example", "recipients": ["ann@firm.example"], "octets": 1, "backend": "250 ok"}
    BOUND.set({"session": "s-1", "client": "192.168.1.40", "account": "office"})
    rounds = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(400):
            log.event(logger, logging.INFO, "message relayed", **facts)
        rounds.append((time.perf_counter() - began) / 400)
        time.sleep(0.2)
    if recorder is not None:
        log.unobserve(recorder)
        recorder.close()
    return statistics.median(rounds) * 1e6


def milliseconds(work: Callable[[], object]) -> float:
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - began)
    return statistics.median(rounds) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    options = parser.parse_args()
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        without = emitting(path, recorded=False)
        with_it = emitting(path, recorded=True)
        rows.append(("an event, for who logs it, without the history", f"{without:.1f} µs"))
        rows.append(("the same with the history", f"{with_it:.1f} µs"))
        path = Path(folder) / "large.db"
        rows.append(("messages written in a second", f"{write(path, options.messages):,.0f}"))
        rows.append((f"the file with {options.messages:,} messages", f"{path.stat().st_size / 1e6:.0f} MB"))
        with closing(open_to_read(path)) as connection:
            middle = NOW - options.messages * SECONDS_APART / 2
            questions: dict[str, Callable[[], object]] = {
                "the last 100": lambda: search(connection, Filter(), limit=100),
                "the last 100 of a device": lambda: search(connection, Filter(client="192.168.1.7"), limit=100),
                "… since the middle": lambda: search(connection, Filter(client="192.168.1.7", since=middle), limit=100),
                "… of two days, the oldest first": lambda: search(
                    connection, Filter(client="192.168.1.7", since=NOW - 172_800), after=0, limit=100
                ),
                "the last 100 to a recipient": lambda: search(
                    connection, Filter(recipient="person13@firm.example"), limit=100
                ),
                "… from a device": lambda: search(
                    connection, Filter(recipient="person13@firm.example", client="192.168.1.7"), limit=100
                ),
                "… that nobody mailed to": lambda: search(connection, Filter(recipient="nobody@firm.example")),
                "part of a recipient that nobody mailed to": lambda: search(connection, Filter(recipient="@nowhere")),
                "the last 100 that failed": lambda: search(connection, Filter(trouble=True), limit=100),
                "… of an account": lambda: search(connection, Filter(trouble=True, account="office"), limit=100),
                "a page in the middle": lambda: search(connection, Filter(), before=options.messages // 2),
                "where the last 100,000 begin": lambda: start_of_last(connection, Filter(), 100_000),
                "devices": lambda: devices(connection),
                "figures of every hour": lambda: hours(connection, 0),
            }
            rows += [(question, f"{milliseconds(ask):.2f} ms") for question, ask in questions.items()]
        with closing(open_to_write(path)) as connection:
            rows.append(("500 old entries removed", f"{milliseconds(lambda: trim(connection, NOW)):.0f} ms"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"| {name:<{width}} | {value:>10} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
