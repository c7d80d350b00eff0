"""Who gets a connection when there are not enough: nobody takes all, and who came first is served first."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Overloaded, Unreachable
from legacy_email_proxy_plugins.smtps.connection import Connection
from legacy_email_proxy_plugins.smtps.pool import Loan, Pool
from realservers.certificates import Certificates
from smtps.support import CLIENT, LOGGER, SENDER, SHORT, deliver, relaying


class Nothing:
    """A connection that is never used."""

    reusable = True
    transactions = 0
    gone = True

    def abort(self) -> None: ...

    def leave(self) -> None: ...

    async def closed(self) -> None: ...


async def connect() -> Connection:
    return cast(Connection, Nothing())


@asynccontextmanager
async def pool_of(
    size: int, wait_seconds: float = 30, connect: Callable[[], Awaitable[Connection]] = connect
) -> AsyncIterator[Pool]:
    pool = Pool(connect, size, wait_seconds, logging.getLogger(LOGGER))
    yield pool
    await pool.aclose()


async def waiting(pool: Pool, *addresses: str) -> list[asyncio.Task[Loan]]:
    """Tasks that want a connection, in this order; those that get one have it when this returns."""
    tasks = []
    for address in addresses:
        tasks.append(asyncio.create_task(pool.lend(address), name=address))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def served(tasks: list[asyncio.Task[Loan]]) -> list[bool]:
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


def stuck(tasks: list[asyncio.Task[Loan]]) -> set[str]:
    return {task.get_name() for task in tasks if not task.done()}


async def dismiss(tasks: list[asyncio.Task[Loan]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("size", "share"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (8, 6), (10, 7), (12, 9), (100, 75)]
)
async def test_a_quarter_and_at_least_one_is_left_to_others(size: int, share: int) -> None:
    async with pool_of(size) as pool:
        mine = await waiting(pool, *["10.0.0.1"] * size)
        assert sum(await served(mine)) == share
        others = await waiting(pool, *(f"10.0.1.{number}" for number in range(size)))
        assert sum(await served(others)) == size - share
        await dismiss([*mine, *others])


async def test_who_came_first_is_served_first() -> None:
    async with pool_of(2) as pool:
        first, second = await pool.lend("a"), await pool.lend("b")
        tasks = await waiting(pool, "c", "d", "c")
        pool.give_back(first)
        assert await served(tasks) == [True, False, False]
        pool.give_back(second)
        assert await served(tasks) == [True, True, False]
        pool.give_back(tasks[1].result())
        assert await served(tasks) == [True, True, False], "c has its share"
        pool.give_back(tasks[0].result())
        assert await served(tasks) == [True, True, True]


async def test_who_came_first_gets_the_one_that_is_tried_beyond_what_the_backend_takes() -> None:
    async with pool_of(2) as pool:
        await pool.lend("a")
        pool._places.most, pool._one_more_at = 1, asyncio.get_running_loop().time() + 60
        tasks = await waiting(pool, "b", "c")
        assert await served(tasks) == [False, False]
        pool._one_more_at = 0.0  # as if a minute had passed
        tasks += await waiting(pool, "d")
        assert await served(tasks) == [True, False, False]
        await dismiss(tasks)


async def test_one_more_is_tried_for_an_address_that_is_alone() -> None:
    async with pool_of(4) as pool:
        await pool.lend("a")
        pool._places.most = 2
        tasks = await waiting(pool, "a")
        assert await served(tasks) == [True], "its share of three"
        await dismiss(tasks)


async def test_an_address_with_its_share_is_passed_over_and_keeps_its_place() -> None:
    async with pool_of(4) as pool:
        mine = [await pool.lend("a") for _ in range(3)]
        tasks = await waiting(pool, "a", "a", "b", "b")
        assert await served(tasks) == [False, False, True, False]
        pool.give_back(mine.pop())
        assert await served(tasks) == [True, False, True, False], "it came before b's second"
        pool.give_back(tasks[2].result())
        assert await served(tasks) == [True, False, True, True]


async def test_who_was_passed_over_is_before_those_who_came_later() -> None:
    async with pool_of(4) as pool:
        mine = [await pool.lend("a") for _ in range(3)]
        other = await pool.lend("b")
        tasks = await waiting(pool, "a", "c", "d")
        pool.give_back(other)
        assert await served(tasks) == [False, True, False]
        pool.give_back(mine.pop())
        assert await served(tasks) == [True, True, False]


@pytest.mark.fault("B25")
async def test_nobody_waits_for_ever() -> None:
    async with pool_of(4, SHORT) as pool:
        for _ in range(3):
            await pool.lend("a")
        with pytest.raises(Overloaded, match="3 of 4 are in use, and a has 3 of them, which is its share") as failure:
            await pool.lend("a")
        assert failure.value.look_at == "BACKEND_SMTP_MAX_CONNECTIONS"
        await pool.lend("b")
        with pytest.raises(Overloaded, match=r"4 of 4 are in use \(see"):
            await pool.lend("c")


async def test_a_turn_that_comes_as_one_gives_up_is_not_lost() -> None:
    async with pool_of(1) as pool:
        loan = await pool.lend("a")
        (task,) = await waiting(pool, "b")
        pool.give_back(loan)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(3):
            await pool.lend("c")


async def test_a_slot_that_gets_free_as_one_is_cancelled_is_nobodys() -> None:
    async with pool_of(1) as pool:
        loan = await pool.lend("a")
        (task,) = await waiting(pool, "b")
        task.cancel()
        pool.give_back(loan)
        with pytest.raises(asyncio.CancelledError):
            await task
        await pool.lend("c")


async def test_a_slot_that_gets_free_as_the_time_is_up_is_not_lost() -> None:
    loop = asyncio.get_running_loop()
    async with pool_of(1, 0.01) as pool:
        loan = await pool.lend("a")
        (task,) = await waiting(pool, "b")
        loop.call_later(0.02, pool.give_back, loan)
        # Both alarms ring in one pass of the loop.
        time.sleep(0.03)  # noqa: ASYNC251
        pool.give_back(await task)
        await pool.lend("c")


async def test_a_connection_that_fails_gives_its_slot_to_the_next() -> None:
    async def refuse() -> Connection:
        raise Unreachable("nobody there")

    async with pool_of(1, connect=refuse) as pool:
        tasks = await waiting(pool, "a", "b", "a")
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in results] == [Unreachable] * 3


@given(
    st.integers(1, 6),
    st.lists(st.one_of(st.sampled_from("abc"), st.integers(0, 9)), max_size=40),
)
def test_slots_are_never_lost_nor_made(size: int, events: list[str | int]) -> None:
    """A letter is somebody who comes; a number is one of those present who goes, with a connection or without."""

    async def live() -> None:
        async with pool_of(size) as pool:
            present: list[asyncio.Task[Loan]] = []
            share = max(1, size - max(1, -(-size // 4)))
            for event in events:
                if isinstance(event, str):
                    present += await waiting(pool, event)
                elif present:
                    task = present.pop(event % len(present))
                    if task.done():
                        pool.give_back(task.result())
                    else:
                        await dismiss([task])
                await served(present)
                lent = [task.result().address for task in present if task.done()]
                assert len(lent) <= size
                assert all(lent.count(address) <= share for address in "abc")
                if len(lent) < size:
                    assert all(lent.count(address) == share or address not in stuck(present) for address in "abc")
            for task in present:
                if task.done():
                    pool.give_back(task.result())
                else:
                    await dismiss([task])
            last = await waiting(pool, *(f"new {number}" for number in range(size)))
            assert all(await served(last))

    asyncio.run(live())


async def test_a_device_that_leaves_transactions_open_locks_nobody_out(certificates: Certificates) -> None:
    async with relaying(certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=4) as (server, relay):
        greedy = [relay.transaction(CLIENT, SENDER, {}) for _ in range(3)]
        for each in greedy:
            await each.__aenter__()
        more = asyncio.create_task(deliver(relay))
        await deliver(relay, client=replace(CLIENT, address="192.0.2.2"))
        assert len(server.messages) == 1
        assert not more.done()
        for each in greedy:
            await each.__aexit__(None, None, None)
        await more
        assert len(server.connections) == 4


async def test_what_comes_out_of_a_spool_waits_for_no_devices_share(certificates: Certificates) -> None:
    spooled = replace(CLIENT, spooled=True)
    async with relaying(certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=4) as (_, relay):
        batch = [relay.transaction(spooled, SENDER, {}) for _ in range(4)]
        async with asyncio.timeout(5):
            for each in batch:
                await each.__aenter__()
        for each in batch:
            await each.__aexit__(None, None, None)
