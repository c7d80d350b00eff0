"""A pytest plugin: fails a test in which our code holds up an event loop. All sessions of the proxy share one loop.

Two things are looked for in every callback that an asyncio loop runs, in whatever thread:

* It took more than 200 ms of its own CPU, or a second where it is the task of the test itself, or a fake server's. That
  is the thread's CPU clock, less the garbage collector's part, so a busy machine and what other threads do make little
  difference. A test that works hard in the loop itself is marked ``computes``, and is not judged by this.
* It made a call that waits: a sleep, a blocking socket or TLS operation, a look-up of a name, an fsync, a connection to
  SQLite, a wait for a thread, an event, a condition or a future, or a wait for a child process. It counts however short
  the wait was in the test. It counts only if our code makes it: a test may wait for its own servers.

What is not seen: reading and writing files without fsync; SQL on a connection that is open already; a lock that is
taken with ``with lock:`` and a ``SimpleQueue`` (both are in C and can not be replaced); a loop of uvloop.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import legacy_email_proxy
import legacy_email_proxy_plugins

__all__ = ("MAX_CPU_SECONDS", "OURS", "holdups")

MAX_CPU_SECONDS = 0.2
OURS = tuple(
    str(Path(package.__file__ or "").parent) + os.sep for package in (legacy_email_proxy, legacy_email_proxy_plugins)
)
_TESTS = str(Path(__file__).parent) + os.sep
_FAKES = f"{_TESTS}fakes{os.sep}"
_CPU = "ms of CPU in one callback"

_holdups: list[str] = []


class _Here(threading.local):
    """Of each thread: the callback that its loop runs, and the CPU seconds that the garbage collector took from it."""

    handle: asyncio.Handle | None = None
    collecting_since = 0.0
    collected = 0.0


_here = _Here()


def holdups() -> list[str]:
    """What was found since the last call."""
    found = _holdups[:]
    _holdups.clear()
    return found


def _run_watched(run: Callable[[asyncio.Handle], None]) -> Callable[[asyncio.Handle], None]:
    @functools.wraps(run)
    def watched(handle: asyncio.Handle) -> None:
        outer, _here.handle = _here.handle, handle
        began, collected = time.thread_time(), _here.collected
        try:
            run(handle)
        finally:
            used = time.thread_time() - began - (_here.collected - collected)
            _here.handle = outer
            if used > MAX_CPU_SECONDS and used > _most(handle):
                _holdups.append(f"{used * 1000:.0f} {_CPU}: {_shown(handle)}")

    return watched


def _most(handle: asyncio.Handle) -> float:
    """The CPU seconds that a callback may take. In a task of the test, or of a fake server, its own work counts too."""
    shown = _shown(handle)
    return 5 * MAX_CPU_SECONDS if "TestRunner._run_tests" in shown or _FAKES in shown else MAX_CPU_SECONDS


def _shown(handle: asyncio.Handle) -> str:
    task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return repr(task if isinstance(task, asyncio.Task) else handle)


def _count_collection(phase: str, _: object) -> None:
    now = time.thread_time()
    if phase == "start":
        _here.collecting_since = now
    else:
        _here.collected += now - _here.collecting_since


def _waits(name: str) -> None:
    """Take note of a call that waits, if our code makes it in a callback of a loop."""
    if _here.handle is None:
        return
    stack = traceback.StackSummary.extract(traceback.walk_stack(sys._getframe(2)), limit=40, lookup_lines=False)
    innermost = next((frame.filename for frame in stack if frame.filename.startswith((*OURS, _TESTS))), "")
    if innermost.startswith(OURS):
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in stack[:6])
        _holdups.append(f"{name} in a callback: {where}")


def _always(*_: Any, **__: Any) -> bool:
    return True


def _takes_time(_: object, timeout: float | None = None) -> bool:
    return timeout is None or timeout > 0


def _is_blocking(sock: socket.socket, *_: Any, **__: Any) -> bool:
    return sock.gettimeout() != 0


_CALLS: tuple[tuple[Any, str, Callable[..., bool]], ...] = (
    (time, "sleep", _always),
    (os, "fsync", _always),
    (os, "fdatasync", _always),
    (threading.Condition, "wait", _takes_time),  # also events, queues and the futures of threads
    (threading.Thread, "join", _always),
    (subprocess.Popen, "wait", _always),
    (subprocess.Popen, "communicate", _always),
    *((socket.socket, name, _is_blocking) for name in ("accept", "recv", "recv_into", "send", "sendall", "connect")),
    *((ssl.SSLSocket, name, _is_blocking) for name in ("read", "write", "do_handshake")),
)
_EVENTS = frozenset(("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "sqlite3.connect"))


def _watched(owner: Any, name: str, is_waiting: Callable[..., bool]) -> None:
    call = getattr(owner, name)

    @functools.wraps(call)
    def watched(*arguments: Any, **named: Any) -> Any:
        if _here.handle is not None and is_waiting(*arguments, **named):
            _waits(f"{getattr(owner, '__name__', owner)}.{name}")
        return call(*arguments, **named)

    setattr(owner, name, watched)


def _start_unwatched(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """It waits until the thread runs, which nobody else can delay."""

    @functools.wraps(start)
    def unwatched(thread: threading.Thread) -> None:
        outer, _here.handle = _here.handle, None
        try:
            start(thread)
        finally:
            _here.handle = outer

    return unwatched


def _audit(event: str, _: object) -> None:
    if event in _EVENTS:
        _waits(event)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "computes: the test itself takes much CPU in the loop, and may")
    asyncio.Handle._run = _run_watched(asyncio.Handle._run)  # type: ignore[method-assign, assignment]
    threading.Thread.start = _start_unwatched(threading.Thread.start)  # type: ignore[method-assign, assignment]
    for owner, name, is_waiting in _CALLS:
        _watched(owner, name, is_waiting)
    gc.callbacks.append(_count_collection)
    sys.addaudithook(_audit)


def _judge(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    found = holdups()
    if item.get_closest_marker("computes"):
        found = [each for each in found if _CPU not in each]
    if found:
        pytest.fail("the event loop was held up:\n" + "\n".join(found), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _judge(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _judge(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _judge(item))
