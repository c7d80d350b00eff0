"""Messages in a minute: a burst waits for its turn, and who would wait too long is told so."""

from __future__ import annotations

import math

import anyio
import pytest

from legacy_email_proxy.contracts import Client, Overloaded
from legacy_email_proxy.relays.rate_limit import PATIENCE_SECONDS, RateLimitedRelay, rate_limited
from smtp.relays import MemoryRelay

CLIENT = Client("127.0.0.1", "s1")


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.slept.append(seconds)
        self.now += seconds


async def test_a_burst_waits_for_its_turn() -> None:
    clock = Clock()
    paced = RateLimitedRelay(MemoryRelay(), 2, clock=clock, sleep=clock.sleep)
    for pause in (0.0, 40.0, 40.0):
        clock.now += pause
        async with paced.transaction(CLIENT, "x@y", {}):
            pass
    assert clock.slept == []
    # At 0, 40 and 80 so far: the one at 40 counts until 100.
    async with paced.transaction(CLIENT, "x@y", {}):
        pass
    assert (clock.slept, clock.now) == ([20.0], 100.0)


async def test_who_would_wait_too_long_is_told_at_once() -> None:
    clock = Clock()
    relay = MemoryRelay()
    paced = RateLimitedRelay(relay, 1, clock=clock, sleep=clock.sleep)
    async with paced.transaction(CLIENT, "x@y", {}):
        pass
    with pytest.raises(Overloaded, match="BACKEND_SMTP_MESSAGES_PER_MINUTE"):
        async with paced.transaction(CLIENT, "x@y", {}):
            pass
    assert (clock.slept, relay.entered) == ([], 1)
    clock.now = 60.0 - PATIENCE_SECONDS
    async with paced.transaction(CLIENT, "x@y", {}):
        pass
    assert (clock.now, relay.entered) == (60.0, 2)


async def test_one_turn_is_for_one_of_those_who_wait() -> None:
    clock = Clock()
    paced = RateLimitedRelay(MemoryRelay(), 1, clock=clock, sleep=clock.sleep)
    served: list[int] = []

    async def send(number: int) -> None:
        try:
            async with paced.transaction(CLIENT, "x@y", {}):
                served.append(number)
        except Overloaded:
            served.append(-number)

    await send(0)
    clock.now = 59.0
    async with anyio.create_task_group() as group:
        for number in (1, 2, 3):
            group.start_soon(send, number)
    # Once one of them has it, the others would wait for a minute.
    assert len([number for number in served if number > 0]) == 1
    assert len(served) == 4


async def test_without_the_setting_nothing_is_paced() -> None:
    relay = MemoryRelay()
    assert rate_limited(relay, {"BACKEND_SMTP_MESSAGES_PER_MINUTE": None}) is relay
    assert isinstance(rate_limited(relay, {"BACKEND_SMTP_MESSAGES_PER_MINUTE": 30}), RateLimitedRelay)


async def test_the_turn_of_one_who_left_is_for_the_next() -> None:
    relay = MemoryRelay()
    paced = RateLimitedRelay(relay, 2, clock=lambda: 60.0, sleep=lambda _: anyio.sleep_forever())
    paced.turns.extend([21.0, 22.0])

    async def wait(seconds: float) -> None:
        with anyio.move_on_after(seconds):
            async with paced.transaction(CLIENT, "x@y", {}):
                pass

    async with anyio.create_task_group() as group:
        group.start_soon(wait, 0.01)
        group.start_soon(wait, 10)
        await anyio.sleep(0.05)
        assert sorted(paced.turns) == [21.0, 82.0]
        group.cancel_scope.cancel()


async def test_who_has_time_waits_as_long_as_it_takes_and_in_order() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    layer = rate_limited(MemoryRelay(), {"BACKEND_SMTP_MESSAGES_PER_MINUTE": 2}, math.inf)
    assert isinstance(layer, RateLimitedRelay)
    layer._clock, layer._sleep = lambda: 0.0, sleep
    for _ in range(7):
        async with layer.transaction(CLIENT, "x@y", {}):
            pass
    assert slept == [60.0, 60.0, 120.0, 120.0, 180.0]
