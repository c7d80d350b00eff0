"""What the core keeps for all proxies: the lock of a maildrop, the turns of a limited account, the logins by POP3."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from legacy_email_proxy.accounts.pop_before_smtp import RecentLogins
from legacy_email_proxy.contracts import Client, Failure, MaildropBusy, Overloaded, SharedState
from legacy_email_proxy.pop3 import locks
from legacy_email_proxy.pop3.locks import MaildropLocks
from legacy_email_proxy.relays.rate_limit import PATIENCE_SECONDS, RateLimitedRelay, SharedTurns
from realservers.postgres import Postgres
from realservers.processes import free_ports
from relays.test_rate_limit import Clock
from smtp.relays import MemoryRelay
from state.support import proxies

CLIENT = Client("127.0.0.1", "s1")


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def away() -> SharedState:
    """A database that is not there."""
    (state,) = proxies(f"postgresql://x@127.0.0.1:{free_ports(1)[0]}/none", 1)
    return state


async def test_a_maildrop_is_locked_for_all_proxies(url: str) -> None:
    ours, theirs = (MaildropLocks(state) for state in proxies(url, 2))
    async with ours.hold("Me"):
        for each in (ours, theirs):
            with pytest.raises(MaildropBusy):
                async with each.hold("me"):
                    pass
        async with theirs.hold("other"):
            pass
    async with theirs.hold("me"):
        pass


async def test_it_is_free_again_after_a_cancellation(url: str) -> None:
    ours, theirs = (MaildropLocks(state) for state in proxies(url, 2))
    with anyio.CancelScope() as scope:
        async with ours.hold("me"):
            scope.cancel()
            await anyio.sleep_forever()
    async with theirs.hold("me"):
        pass


async def test_it_is_free_again_after_a_login_that_was_given_up(url: str) -> None:
    """The device has left while the database took the lock for it."""
    states = proxies(url, 2)
    ours, theirs = map(MaildropLocks, states)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with ours.hold("me"):
            pytest.fail("it was cancelled")
    await states[0].read("what is asked after that", "has its answer later")
    async with theirs.hold("me"):
        pass


async def test_what_could_not_be_given_back_keeps_out_other_proxies_only(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away for a moment."""
    states = proxies(url, 2)
    ours, theirs = map(MaildropLocks, states)

    async def away(*_: object) -> None:
        raise Failure("away", look_at="STATE_URL")

    with monkeypatch.context() as patch:
        patch.setattr(states[0], "leave", away)
        async with ours.hold("me"):
            pass
    with pytest.raises(MaildropBusy):
        async with theirs.hold("me"):
            pass
    async with ours.hold("me"):
        pass


async def test_a_long_session_keeps_its_lock(url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_RENEWED_SECONDS", 0.01)
    (state,) = proxies(url, 1)

    def until() -> Any:
        ((found,),) = postgres.execute("SELECT held_until FROM legacy_email_proxy.state", url)
        return found

    async with MaildropLocks(state).hold("me"):
        at_first = await anyio.to_thread.run_sync(until)
        with anyio.fail_after(50):
            while await anyio.to_thread.run_sync(until) == at_first:  # noqa: ASYNC110 (nothing tells of it)
                await anyio.sleep(0.01)


async def test_without_the_database_mail_is_read_all_the_same(
    away: SharedState, caplog: pytest.LogCaptureFixture
) -> None:
    ours = MaildropLocks(away)
    async with ours.hold("me"):
        with pytest.raises(MaildropBusy):
            async with ours.hold("me"):
                pass
    assert [record.getMessage() for record in caplog.records] == [
        "shared state is away",
        "maildrop locked in this proxy only",
    ]


def limited(state: SharedState, clock: Clock) -> RateLimitedRelay:
    shared = SharedTurns(state, "a", clock)
    return RateLimitedRelay(MemoryRelay(), 2, clock=clock, sleep=clock.sleep, shared=shared)


async def send(relay: RateLimitedRelay) -> None:
    async with relay.transaction(CLIENT, "x@y", {}):
        pass


async def test_all_proxies_together_keep_the_limit(url: str) -> None:
    clock = Clock()
    ours, theirs = (limited(state, clock) for state in proxies(url, 2))
    await send(ours)
    await send(theirs)
    with pytest.raises(Overloaded, match="2 messages went out within a minute"):
        await send(ours)
    clock.now = 60.0 - PATIENCE_SECONDS
    await send(theirs)
    assert (clock.slept, clock.now) == ([PATIENCE_SECONDS], 60.0)


async def test_a_turn_that_was_not_used_is_free_for_all(url: str) -> None:
    clock = Clock()
    ours, theirs = (limited(state, clock) for state in proxies(url, 2))
    await send(ours)
    await send(ours)
    clock.now = 40.0

    async def leave(seconds: float) -> None:
        raise TimeoutError

    ours._sleep = leave
    with pytest.raises(TimeoutError):
        await send(ours)
    await send(theirs)
    assert clock.now == 60.0


async def test_without_the_database_each_keeps_the_limit_for_itself(away: SharedState) -> None:
    clock = Clock()
    alone = limited(away, clock)
    await send(alone)
    await send(alone)
    with pytest.raises(Overloaded):
        await send(alone)


async def test_a_login_by_pop3_counts_at_all_proxies(url: str) -> None:
    ours, theirs = (RecentLogins(shared=state) for state in proxies(url, 2))
    ours.note("::ffff:10.0.0.7", "a")
    assert await theirs.of_all("10.0.0.7") == ()
    await ours.tell("::ffff:10.0.0.7", "a")
    await ours.tell("10.0.0.7", "b")
    found = await theirs.of_all("10.0.0.7")
    assert [account for account, _ in found] == ["b", "a"]
    assert all(0 <= age < 50 for _, age in found)
    assert await theirs.of_all("10.0.0.8") == ()


async def test_without_the_database_only_our_own_logins_count(away: SharedState) -> None:
    ours = RecentLogins(shared=away)
    ours.note("10.0.0.7", "a")
    await ours.tell("10.0.0.7", "a")
    assert [account for account, _ in await ours.of_all("10.0.0.7")] == ["a"]
