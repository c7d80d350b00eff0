"""A refused secret is left alone for a while; another one may be tried at once, but not one after the other."""

from __future__ import annotations

import asyncio
import logging

import pytest

from legacy_email_proxy.contracts import BearerToken, CredentialsRefused, Failure, Overloaded, Password, Unreachable
from legacy_email_proxy_plugins.backoff import Breaker

LOGGER = logging.getLogger("legacy_email_proxy.test")
SECRET = Password("an old one")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(LOGGER, clock)


async def tried(breaker: Breaker, text: str, failure: Failure | None = None) -> bool:
    """Whether a login with this secret was tried; if it was, it ended so."""
    asked = False
    try:
        async with breaker.attempt(BearerToken(text), 1):
            asked = True
            if failure is not None:
                raise failure
    except Failure:
        pass
    return asked


WRONG = CredentialsRefused("535 no", look_at="SOME_SETTING")


async def test_the_pause_grows_up_to_an_hour_and_ends_with_a_login(breaker: Breaker, clock: Clock) -> None:
    pauses = []
    for _ in range(9):
        assert await tried(breaker, "a", WRONG)
        start = clock.now
        while not await tried(breaker, "a", Unreachable("neither accepted nor refused")):
            clock.now += 10
        pauses.append(clock.now - start)
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert await tried(breaker, "a")
    assert await tried(breaker, "a", WRONG)
    clock.now += 60
    assert await tried(breaker, "a"), "a login that worked makes the next pause short again"


async def test_what_is_said_in_a_pause(breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    assert await tried(breaker, "a", WRONG)
    clock.now += 18
    with pytest.raises(CredentialsRefused, match=r"^535 no; not tried again for 42 s \(see SOME_SETTING\)$") as raised:
        breaker.check(BearerToken("a"))
    assert raised.value.look_at == "SOME_SETTING"
    assert len(caplog.records) == 1


async def test_another_secret_is_tried_at_once_and_the_refused_one_is_not(breaker: Breaker, clock: Clock) -> None:
    assert await tried(breaker, "a", WRONG)
    assert await tried(breaker, "b", WRONG), "the token was renewed"
    for _ in range(5):
        assert not await tried(breaker, "a")
        assert not await tried(breaker, "b")
    assert await tried(breaker, "c"), "somebody consented"
    assert await tried(breaker, "c")
    assert not await tried(breaker, "a"), "that another one was accepted makes it no better"
    clock.now += 60
    assert await tried(breaker, "a")


async def test_new_secrets_without_end_do_not_lock_the_account(breaker: Breaker, clock: Clock) -> None:
    count = 0
    for number in range(600):
        count += await tried(breaker, f"number {number}", WRONG)
        clock.now += 1
    assert count == 16, "four in each pause: at 0, 60, 180 and 420 seconds"


async def test_many_refusals_at_once_are_one(breaker: Breaker) -> None:
    assert await tried(breaker, "a")

    async def refused() -> None:
        async with breaker.attempt(BearerToken("a"), 1):
            await asyncio.sleep(0)
            raise WRONG

    await asyncio.gather(*(refused() for _ in range(10)), return_exceptions=True)
    with pytest.raises(CredentialsRefused, match="not tried again for 60 s"):
        await refused()


async def test_what_is_not_proven_goes_one_by_one(breaker: Breaker) -> None:
    at_once = most = logins = 0

    async def log_in(secret: str, failure: Failure | None = None) -> None:
        nonlocal at_once, most, logins
        async with breaker.attempt(BearerToken(secret), 1):
            at_once, logins = at_once + 1, logins + 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1
            if failure is not None:
                raise failure

    await asyncio.gather(*(log_in("a", WRONG) for _ in range(10)), return_exceptions=True)
    assert (most, logins) == (1, 1)
    await log_in("b")
    await asyncio.gather(*(log_in("b") for _ in range(10)))
    assert most == 10, "this one is known to be good"
    most = 0
    await asyncio.gather(*(log_in("c") for _ in range(10)))
    assert most == 1, "and this one is not yet"


async def test_a_login_that_hangs_does_not_keep_the_others_for_ever(breaker: Breaker) -> None:
    async def hanging() -> None:
        async with breaker.attempt(SECRET, 1):
            await asyncio.Event().wait()

    task = asyncio.create_task(hanging())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"has not ended within 0\.01 s"):
        async with breaker.attempt(SECRET, 0.01):
            pass
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await tried(breaker, SECRET.reveal())
