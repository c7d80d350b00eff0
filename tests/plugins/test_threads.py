from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import anyio
import pytest

from legacy_email_proxy.contracts import Failure
from legacy_email_proxy_plugins import threads as module
from legacy_email_proxy_plugins.threads import WORKERS, Threads
from waiting import until


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """Until it is set, what waits for it hangs."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads("X_PATH")
    yield threads
    threads.close()


def hang(go_on: threading.Event, begun: list[int], octets: bytes = b"") -> int:
    begun.append(threading.get_ident())
    assert go_on.wait(20)
    return len(octets)


@pytest.mark.parametrize("cancel", [False, True], ids=["timed out", "cancelled"])
async def test_calls_without_a_thread_leave_nothing_behind(
    threads: Threads, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch, cancel: bool
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 20 if cancel else 0.2)
    begun: list[int] = []
    tasks = [asyncio.create_task(threads.run(hang, go_on, begun, bytes(1000))) for _ in range(WORKERS * 5)]
    await until(lambda: len(begun) == WORKERS)
    await anyio.wait_all_tasks_blocked()
    assert threads._executor._work_queue.qsize() == 0
    if cancel:
        for task in tasks:
            task.cancel()
    kinds = {type(outcome) for outcome in await asyncio.gather(*tasks, return_exceptions=True)}
    assert kinds == {asyncio.CancelledError if cancel else Failure}
    # A call that nobody waits for still has its thread.
    with anyio.move_on_after(0.05):
        await threads.run(len, b"abc")
    assert threads._executor._work_queue.qsize() == 0
    assert len(begun) == WORKERS
    go_on.set()
    monkeypatch.setattr(module, "ANSWER_SECONDS", 20)
    assert await asyncio.gather(*(threads.run(len, b"abc") for _ in range(WORKERS * 3))) == [3] * WORKERS * 3
    assert len(begun) == WORKERS


async def test_more_calls_than_threads_all_end(threads: Threads) -> None:
    assert await asyncio.gather(*(threads.run(len, bytes(n)) for n in range(200))) == list(range(200))


async def test_call_after_the_end_is_a_failure(threads: Threads) -> None:
    assert await threads.run(len, b"abc") == 3
    threads.close()
    for _ in range(WORKERS + 1):
        with pytest.raises(Failure, match=r"shutdown \(see X_PATH\)"):
            await threads.run(len, b"abc")


async def test_calls_that_wait_at_the_end_fail(threads: Threads, go_on: threading.Event) -> None:
    begun: list[int] = []
    tasks = [asyncio.create_task(threads.run(hang, go_on, begun, b"abc")) for _ in range(WORKERS + 3)]
    await until(lambda: len(begun) == WORKERS)
    threads.close()
    go_on.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[:WORKERS] == [3] * WORKERS
    assert [type(outcome) for outcome in outcomes[WORKERS:]] == [Failure] * 3


def test_thread_that_ends_after_the_event_loop_is_quiet(
    threads: Threads, go_on: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[int] = []

    async def leave() -> None:
        with anyio.move_on_after(0.05):
            await threads.run(hang, go_on, begun)

    asyncio.run(leave())
    go_on.set()
    threads._executor.shutdown()
    assert len(begun) == 1
    assert caplog.text == ""
