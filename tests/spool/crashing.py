"""Kills a spool with SIGKILL at a marked point, starts it again, and says what became of each message.

    python tests/spool/crashing.py ROUNDS [postgres]

Every round is two processes, forked from this one. The first sends, notes each 250 in a file, and dies at its point;
the second only delivers what is left. The points are put around the product's functions from here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from legacy_email_proxy_plugins import files as files_module
from legacy_email_proxy_plugins.spool import SpoolRelay, sql_store
from legacy_email_proxy_plugins.spool import group_commit as writer_module
from legacy_email_proxy_plugins.spool import postgres_bodies as pieces_module
from legacy_email_proxy_plugins.spool import sqlite_files as bodies_module
from legacy_email_proxy_plugins.spool.postgres_store import PostgresStore
from realservers.postgres import Postgres
from spool import support
from spool.stores import PostgreSQL
from spool.support import Backend, send, spool_to, until_states

MESSAGES = 6
SECONDS = 50.0

AMBIGUOUS = ("after the backend's 250", "before closing", "after closing")
BESIDES = ("before lease", "after lease")
"""The writer's thread comes there at any time; also while a backend's 250 waits for it to be written down."""
_ANY_STORE = (
    "accept", "in DATA", "before commit", "after commit", "before 250", "after 250", "before dot", *AMBIGUOUS,
)  # fmt: skip
_NO_BODIES = (".lock", ".trying", ".reserve")
POINTS = {
    "sqlite": (
        *_ANY_STORE, "before open", "before write", "after write", "before fsync", "after fsync",
        "before unlink", "after unlink",
    ),
    "postgres": (*_ANY_STORE, "before piece", "after piece", *BESIDES),
}  # fmt: skip


class Killer:
    """Ends this process when it comes to its point for the n-th time."""

    def __init__(self, point: str, times: int) -> None:
        self._point = point
        self._left = times

    def __call__(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)  # not even this thread runs on


class _MarkedOS:
    """The module ``os`` as the bodies see it, with a point before and after the calls that matter.

    None at the files beside them that are opened once at the start: that would be the first ones, and a body's none.
    """

    def __init__(self, at: Killer) -> None:
        self._at = at

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("open", "write", "fsync"):
            return real

        def marked(*arguments: Any, **options: Any) -> Any:
            if name == "open" and Path(arguments[0]).suffix in _NO_BODIES:
                return real(*arguments, **options)
            self._at(f"before {name}")
            result = real(*arguments, **options)
            self._at(f"after {name}")
            return result

        return marked


def mark(at: Killer) -> None:
    """Put the points around the product's own functions."""
    bodies_module.os = files_module.os = _MarkedOS(at)  # type: ignore[attr-defined,assignment]
    transaction = writer_module._transaction

    def committed(connection: Any, jobs: Any, bulk: Any, begin: str) -> None:
        puts = any(isinstance(job.argument, sql_store._NewMessage) for job in jobs)
        closes = any(isinstance(job.argument, int) for job in jobs)
        if puts:
            at("before commit")
        if closes:
            at("before closing")
        transaction(connection, jobs, bulk, begin)
        if puts:
            at("after commit")
        if closes:
            at("after closing")

    writer_module._transaction = committed
    remove = bodies_module.BodyFiles.remove

    def removed(self: Any, names: Any) -> None:
        at("before unlink")
        remove(self, names)
        at("after unlink")

    bodies_module.BodyFiles.remove = removed  # type: ignore[method-assign]
    for name, owner, function in (
        ("piece", pieces_module._Body, "write"),
        ("lease", PostgresStore, "_lease"),
    ):
        setattr(owner, function, _marked(at, name, getattr(owner, function)))


def _marked(at: Killer, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def marked(*arguments: Any) -> Any:
        at(f"before {name}")
        result = function(*arguments)
        at(f"after {name}")
        return result

    return marked


def _content(number: int) -> bytes:
    # Every other one is large enough for a file of its own.
    return b"Subject: %d\r\n\r\n" % number + b"0123456789abcde\r\n" * (8000 if number % 2 else 3)


async def _pieces(number: int, at: Killer) -> AsyncIterator[bytes]:
    content = _content(number)
    yield content[: len(content) // 2]
    at("in DATA")
    yield content[len(content) // 2 :]


def _note(file: Path) -> Callable[[bytes], None]:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return lambda line: (os.write(descriptor, line + b"\n"), None)[1]


def _number(content: bytes) -> bytes:
    return content.partition(b"\r\n")[0].partition(b": ")[2]


def _spool(folder: Path, at: Killer) -> SpoolRelay:
    delivered = _note(folder / "delivered")

    def after_dot(content: bytes) -> None:
        number = _number(content)
        assert content == _content(int(number))
        delivered(number)
        at("after the backend's 250")

    backend = Backend(before_dot=lambda _: at("before dot"), after_dot=after_dot)
    return spool_to(backend, folder / "state")


async def _send_all(folder: Path, at: Killer, *, together: bool) -> None:
    seen = _note(folder / "seen")
    spool = _spool(folder, at)
    await spool.start()

    async def one(number: int) -> None:
        at("accept")
        await send(spool, content=_pieces(number, at))
        at("before 250")
        seen(b"%d" % number)
        at("after 250")

    if together:
        await asyncio.gather(*(one(number) for number in range(MESSAGES)))
    for number in () if together else range(MESSAGES):
        await one(number)
        await _empty(spool)
    await _empty(spool)
    await spool.aclose()


async def _deliver_rest(folder: Path) -> None:
    logging.basicConfig(filename=folder / "log", level=logging.WARNING, force=True)
    spool = _spool(folder, Killer("", 0))
    await spool.start()
    await _empty(spool)
    await spool.aclose()
    left = support.bodies(folder / "state")
    assert not left, left


async def _empty(spool: SpoolRelay) -> None:
    await until_states(spool, seconds=SECONDS)


def _in_a_process(work: Callable[[], Any]) -> int:
    """The process's status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(SECONDS))
            asyncio.run(work())
        except BaseException:
            logging.exception("a round failed")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def one_round(point: str, times: int, *, together: bool) -> bool:
    """One crash and what follows. Returns whether the point was reached. AssertionError when a promise is broken."""
    name = f"{point}, time {times}, {'together' if together else 'one by one'}"
    with tempfile.TemporaryDirectory(prefix="spool-crash-") as temporary:
        folder = Path(temporary)
        at = Killer(point, times)

        async def first() -> None:
            mark(at)
            await _send_all(folder, at, together=together)

        status = _in_a_process(first)
        assert status in (0, -signal.SIGKILL), f"{name}: {status}"
        again = _in_a_process(lambda: _deliver_rest(folder))
        assert again == 0, f"{name}: started again: {again}"
        seen = (folder / "seen").read_text().split()
        copies = Counter((folder / "delivered").read_text().split())
        told = "messages may have been delivered" in (folder / "log").read_text()
    lost = [number for number in seen if not copies[number]]
    assert not lost, f"{name}: {lost} had a 250 and never arrived"
    twice = {number: count for number, count in copies.items() if count > 1}
    assert all(count == 2 for count in twice.values()), f"{name}: {twice}"
    assert told or not twice, f"{name}: {twice}, and the log says nothing of it"
    if not together:
        assert len(twice) <= (point in (*AMBIGUOUS, *BESIDES)), f"{name}: {twice} arrived twice"
    return status != 0


def main(rounds: int, kind: str) -> None:
    reached = Counter[str]()
    chance = random.Random(rounds)
    points = POINTS[kind]
    with ExitStack() as stack:
        server = stack.enter_context(Postgres.start()) if kind == "postgres" else None
        kinds = itertools.cycle(itertools.product((False, True), points))
        for together, point in itertools.islice(kinds, rounds):
            if server is not None:
                support.store = PostgreSQL(server.new_database())
            reached[point] += one_round(point, chance.choice((1, 1, 2, 3)), together=together)
    unreached = [point for point in points if not reached[point]]
    print(f"{rounds} rounds, {sum(reached.values())} crashes")
    assert not unreached, f"never reached: {unreached}"


if __name__ == "__main__":
    main(int(sys.argv[1]), *(sys.argv[2:] or ["sqlite"]))
