"""Sessions that log in at once share one look at the folder, and none sees less than there was when it came."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from imap.support import CLIENT, login, pair
from legacy_email_proxy.contracts import Disconnected
from legacy_email_proxy_plugins.imap.account_cache import Opening, Openings
from legacy_email_proxy_plugins.imap.listing import Index
from realservers.certificates import Certificates

CLIENTS = 20


async def test_many_at_once_need_one_select(certificates: Certificates) -> None:
    opened: list[int] = []

    async def use() -> None:
        async with maildrop.open(CLIENT, None) as session:
            opened.append(len(session.entries))

    async with pair(certificates.good, b"1", b"22") as (maildrop, server):
        for times in (1, 2):
            async with anyio.create_task_group() as clients:
                for _ in range(CLIENTS):
                    clients.start_soon(use)
            assert opened == [2] * CLIENTS * times
            assert server.times("SELECT") == times
        assert next(iter(maildrop._accounts._pools.values())).openings._latest is None, "and nothing is kept of it"


async def test_a_clients_own_password_is_proven_each_time(certificates: Certificates) -> None:
    async def use() -> None:
        async with maildrop.open(CLIENT, login()) as session:
            assert len(session.entries) == 1

    async with pair(certificates.good, b"1", POP3_LOGIN="backend") as (maildrop, server):
        async with anyio.create_task_group() as clients:
            for _ in range(5):
                clients.start_soon(use)
        assert len(server.connections) == server.times("SELECT") == 5


class Work:
    """Openings that end when told."""

    def __init__(self) -> None:
        self.openings: list[Opening] = []
        self.results: list[asyncio.Future[Index]] = []

    async def __call__(self, opening: Opening) -> Index:
        self.openings.append(opening)
        self.results.append(asyncio.get_running_loop().create_future())
        return await self.results[-1]


async def started(openings: Openings, work: Work, count: int = 1) -> list[asyncio.Task[Index]]:
    tasks = [asyncio.create_task(openings.join(work)) for _ in range(count)]
    await anyio.wait_all_tasks_blocked()
    return tasks


async def test_who_comes_after_it_has_begun_gets_another() -> None:
    openings, work = Openings(), Work()
    early = await started(openings, work, 2)
    work.openings[0].begun()
    late = await started(openings, work, 2)
    assert len(work.openings) == 2
    first, second = Index(1, {}), Index(1, {1: 1})
    work.results[0].set_result(first)
    work.results[1].set_result(second)
    assert [await task for task in (*early, *late)] == [first, first, second, second]


async def test_its_failure_is_everybodys() -> None:
    openings, work = Openings(), Work()
    tasks = await started(openings, work, 3)
    work.results[0].set_exception(Disconnected("x"))
    for task in tasks:
        with pytest.raises(Disconnected):
            await task


async def test_it_is_given_up_when_the_last_has_gone() -> None:
    openings, work = Openings(), Work()
    one, other = await started(openings, work, 2)
    one.cancel()
    await anyio.wait_all_tasks_blocked()
    assert not work.results[0].done(), "the other one still waits for it"
    other.cancel()
    # It comes before the cancellation has reached the exchange.
    (late,) = [asyncio.create_task(openings.join(work))]
    await anyio.wait_all_tasks_blocked()
    assert work.results[0].cancelled()
    index = Index(1, {})
    work.results[-1].set_result(index)
    assert await late is index
