"""The detector of what holds up the event loop finds it, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import blocking

_OURS = blocking.OURS[0] + "invented.py"


def ours(source: str, **names: object) -> Callable[[], Any]:
    """A function whose code is taken for a module's of ours."""
    found: dict[str, Any] = dict(names)
    exec(compile(f"def work():\n    {source}\n", _OURS, "exec"), found)
    return found["work"]  # type: ignore[no-any-return]


def held_up(work: Callable[[], Any]) -> list[str]:
    """What is found while a loop of this test's own runs ``work``."""

    async def main() -> None:
        work()

    asyncio.run(main())
    return blocking.holdups()


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_much_cpu_in_one_callback_is_found_whoever_takes_it() -> None:
    (found,) = held_up(lambda: spin(0.3))
    assert "ms of CPU" in found
    assert "main()" in found
    assert held_up(lambda: spin(0.02)) == []


def test_each_callback_has_its_own_200_ms() -> None:
    async def main() -> None:
        for _ in range(4):
            spin(0.06)
            await asyncio.sleep(0)

    asyncio.run(main())
    assert blocking.holdups() == []


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_calls_that_wait_are_found(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    answered = threading.Timer(0.01, pair[1].sendall, [b"x"])
    answered.start()
    with (tmp_path / "file").open("wb") as stream:
        calls = {
            "time.sleep": ours("time.sleep(0.001)", time=time),
            "os.fsync": ours("os.fsync(stream)", os=os, stream=stream.fileno()),
            "Condition.wait": ours("event.wait(0.001)", event=threading.Event()),
            "socket.recv": ours("sock.recv(1)", sock=pair[0]),
            "socket.getaddrinfo": ours("socket.getaddrinfo('127.0.0.1', 1)", socket=socket),
            "sqlite3.connect": ours("sqlite3.connect(':memory:').close()", sqlite3=sqlite3),
            "Thread.join": ours("thread.join(timeout=None)", thread=answered),
        }
        found = {name: held_up(work) for name, work in calls.items()}
    assert [name for name, lines in found.items() if not any(name in line for line in lines)] == []
    assert all("invented.py:2 work" in line for lines in found.values() for line in lines)


def test_what_does_not_wait_is_none(pair: tuple[socket.socket, socket.socket]) -> None:
    assert held_up(ours("lock.acquire(timeout=0)", lock=threading.Semaphore(0))) == []
    pair[0].setblocking(False)
    pair[1].sendall(b"x")
    done: Future[None] = Future()
    done.set_result(None)
    assert held_up(ours("sock.recv(1)", sock=pair[0])) == []
    assert held_up(ours("done.result()", done=done)) == []


def test_outside_a_loop_and_in_another_thread_everybody_may_wait() -> None:
    sleep = ours("time.sleep(0.001)", time=time)
    sleep()

    async def main() -> None:
        await asyncio.to_thread(sleep)

    asyncio.run(main())
    assert blocking.holdups() == []


def test_a_test_may_wait_itself() -> None:
    assert held_up(lambda: time.sleep(0.001)) == []
