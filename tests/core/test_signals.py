"""A signal ends what it comes in the middle of, and none is lost."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from legacy_email_proxy.signals import Signals, Stopped


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_work_ends_at_a_signal(number: signal.Signals) -> None:
    ended = []

    async def work() -> None:
        try:
            send(signal.SIGHUP, number)
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        with pytest.raises(Stopped, match=number.name):
            await signals.unless_stopped(work())
        assert ended
        assert await signals.next() == signal.SIGHUP


async def test_work_that_does_not_let_itself_be_cancelled_ends_at_the_second_signal() -> None:
    go_on = asyncio.Event()

    async def work() -> None:
        send(signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            send(signal.SIGINT)
            await go_on.wait()

    with Signals(signal.SIGTERM, signal.SIGINT) as signals:
        with pytest.raises(Stopped, match="SIGTERM"):
            await signals.unless_stopped(work())
        go_on.set()
        await asyncio.sleep(0)


async def test_what_comes_as_the_work_ends_is_not_lost() -> None:
    with Signals(signal.SIGTERM, signal.SIGHUP) as signals:
        for number in (signal.SIGTERM, signal.SIGHUP):

            async def work(number: signal.Signals = number) -> int:
                signals._received.put_nowait(number)
                for _ in range(2):
                    await asyncio.sleep(0)
                return 7

            assert await signals.unless_stopped(work()) == 7
            assert await signals.next() == number


async def test_a_mistake_is_raised_as_it_is() -> None:
    async def work() -> None:
        raise ValueError("as it is")

    with Signals(signal.SIGTERM) as signals, pytest.raises(ValueError, match="as it is"):
        await signals.unless_stopped(work())
