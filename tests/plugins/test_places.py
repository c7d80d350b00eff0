"""Whose turn it is at the backend, and who has to give a place up."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any, Self

import pytest

from legacy_email_proxy.contracts import bound
from legacy_email_proxy.log import facts_of
from legacy_email_proxy_plugins import places as module
from legacy_email_proxy_plugins.places import Holder
from waiting import until

NEVER = math.inf


class Places(module.Places):
    def __init__(self, most: int) -> None:
        super().__init__(most, logging.getLogger("test.places"))


class Reader(Holder):
    """A holder that gives its place back as soon as it is told to."""

    fair_octets_per_second = 1 << 40

    def __init__(self, places: Places, address: str = "a", octets: int = 0) -> None:
        super().__init__()
        self.places = places
        self.address = address
        self.octets = octets
        self.reasons: list[str] = []
        self.wait_for_client()

    async def hold(self) -> Self:
        await self.places.take(self.address, NEVER)
        self.places.watch(self, self.address)
        return self

    def give_up(self, reason: str) -> None:
        self.reasons.append(reason)
        self.places.give(self.address)


class Harmless(Reader):
    """One that can step aside, and does it as often as it is told to."""

    may_step_aside = True
    aside = 0

    def step_aside(self) -> None:
        self.aside += 1
        self.places.give(self.address)


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOON_SECONDS", 0.0)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(module, "FAIR_SECONDS", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a holder takes for the time, as the only item."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


async def test_a_quarter_is_left_by_those_that_take_long() -> None:
    places = Places(4)
    for address in "abc":
        await places.take(address, NEVER, long=True)
    assert not places.take_at_once("d", long=True)
    assert "and 3 of them for large messages, which is their share" in places.words("d", long=True)
    assert "share" not in places.words("d")
    waiting = asyncio.create_task(places.take("d", NEVER, long=True))
    await until(lambda: places.waiting == 1)
    await places.take("e", NEVER)
    places.give("e")
    await asyncio.sleep(0)
    assert not waiting.done(), "the free place is not for it"
    places.give("a", long=True)
    await waiting


async def test_a_single_place_is_for_everybody() -> None:
    places = Places(1)
    await places.take("a", NEVER, long=True)
    places.give("a", long=True)
    await places.take("a", NEVER)


@pytest.mark.usefixtures("_hurried")
async def test_the_slowest_gives_up_for_one_that_waits() -> None:
    places = Places(4)
    await places.take("d", NEVER)
    fast, slow, slowest = [await Reader(places, "a", octets).hold() for octets in (9, 5, 1)]
    await places.take("d", NEVER)
    assert [len(each.reasons) for each in (fast, slow, slowest)] == [0, 0, 1]
    assert "4 of 4 are in use" in slowest.reasons[0]
    await places.take("e", NEVER)
    assert [len(each.reasons) for each in (fast, slow, slowest)] == [0, 1, 1]


@pytest.mark.usefixtures("_hurried")
@pytest.mark.parametrize("why", ["fast", "new", "the backend is slow", "forgotten"])
async def test_who_keeps_its_place(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    places = Places(1)
    reader = await Reader(places).hold()
    if why == "fast":
        reader.octets = 1 << 60
    elif why == "new":
        monkeypatch.setattr(module, "FAIR_SECONDS", 1000.0)
        monkeypatch.setattr(module, "LONG_SECONDS", 1000.0)
    elif why == "forgotten":
        places.forget(reader)
    else:
        reader.client_went_on()
    with pytest.raises(TimeoutError):
        await places.take("b", asyncio.get_running_loop().time() + 0.1)
    assert not reader.reasons
    assert places.waiting == 0
    assert places.taken == 1


@pytest.mark.usefixtures("_hurried")
async def test_an_address_with_its_full_share_gets_a_place_only_from_a_client_of_its_own() -> None:
    places = Places(4)
    other = await Reader(places, "other").hold()
    own = [await Reader(places, "a", octets).hold() for octets in (9, 5, 7)]
    await places.take("a", NEVER)
    assert not other.reasons, "it is the slowest, but its place would be of no use"
    assert [len(each.reasons) for each in own] == [0, 1, 0]


def test_only_the_clients_own_time_counts(clock: list[float]) -> None:
    reader = Reader(Places(1), octets=110)
    clock[0] += 10
    assert (reader.seconds, reader.rate, reader.waits_for_client) == (10, 11, True)
    reader.wait_for_client()
    clock[0] += 1
    assert (reader.seconds, reader.rate) == (11, 10), "to wait for it again does not begin its time anew"
    reader.client_went_on()
    clock[0] += 60  # the backend's turn
    reader.client_went_on()
    assert (reader.seconds, reader.waits_for_client) == (11, False)
    reader.wait_for_client()
    clock[0] += 1
    assert reader.seconds == 12


@pytest.mark.parametrize(
    ("octets", "seconds", "goes"), [(0, 9.9, False), (0, 10, True), (9_999, 10, True), (10_000, 10, False)]
)
async def test_who_is_slow(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], octets: int, seconds: float, goes: bool
) -> None:
    monkeypatch.setattr(module, "SOON_SECONDS", 0.01)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(Reader, "fair_octets_per_second", 1000)
    places = Places(1)
    reader = await Reader(places, octets=octets).hold()
    clock[0] += seconds
    try:
        await places.take("b", asyncio.get_running_loop().time() + 0.1)
    except TimeoutError:
        assert not goes
    assert bool(reader.reasons) is goes


@pytest.mark.parametrize(("seconds", "goes"), [(29.9, False), (30, True)])
async def test_who_has_been_slow_for_long_goes_at_once(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], seconds: float, goes: bool
) -> None:
    monkeypatch.setattr(module, "SOON_SECONDS", 0.01)
    monkeypatch.setattr(module, "WAIT_SECONDS", 1000.0)
    places = Places(1)
    reader = await Reader(places).hold()
    clock[0] += seconds
    if goes:
        await places.take("b", NEVER)
    else:
        with pytest.raises(TimeoutError):
            await places.take("b", asyncio.get_running_loop().time() + 0.1)
    assert bool(reader.reasons) is goes


@pytest.mark.parametrize(("seconds", "goes"), [(0.4, False), (0.5, True)])
async def test_who_loses_nothing_steps_aside_soon(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], caplog: pytest.LogCaptureFixture, seconds: float, goes: bool
) -> None:
    monkeypatch.setattr(asyncio, "wait", at_once(asyncio.wait))
    places = Places(1)
    reader = await Harmless(places).hold()
    clock[0] += seconds
    if goes:
        await places.take("b", NEVER)
    else:
        with pytest.raises(TimeoutError):
            await places.take("b", asyncio.get_running_loop().time() + 0.1)
    assert (reader.aside, reader.reasons, caplog.messages) == (int(goes), [], [])


def at_once(wait: Any) -> Any:
    """It waits a moment instead of half a second."""

    async def waited(turns: list[Any], timeout: float) -> None:
        await wait(turns, timeout=min(timeout, 0.01))

    return waited


@pytest.mark.usefixtures("_hurried")
async def test_who_loses_nothing_goes_before_the_slowest() -> None:
    places = Places(4)
    slowest, harmless, fast = await Reader(places).hold(), await Harmless(places, "b", 5).hold(), Harmless(places, "c")
    fast.octets = 1 << 60
    await fast.hold()
    await places.take("d", NEVER)
    await places.take("e", NEVER)
    assert (slowest.reasons, harmless.aside, fast.aside) == ([], 1, 0)
    await places.take("e", NEVER)
    assert (len(slowest.reasons), harmless.aside, fast.aside) == (1, 1, 0)


@pytest.mark.usefixtures("_hurried")
async def test_an_address_that_was_slow_waits_behind_the_others_for_a_while(clock: list[float]) -> None:
    places = Places(1)
    await Harmless(places, "slow").hold()
    await places.take("x", NEVER)
    order: list[str] = []

    async def wait(address: str) -> None:
        await places.take(address, NEVER)
        order.append(address)

    async def next_one() -> None:
        count = len(order)
        places.give(order[-1] if order else "x")
        await until(lambda: len(order) > count)

    waiting = [asyncio.create_task(wait(address)) for address in ("slow", "b", "c", "slow")]
    await until(lambda: places.waiting == 4)
    await next_one()
    await next_one()
    assert order == ["b", "c"], "both came later than the slow one"
    waiting.append(asyncio.create_task(wait("d")))
    await until(lambda: places.waiting == 3)
    clock[0] += module.SET_BACK_SECONDS
    await next_one()
    await next_one()
    await next_one()
    assert order == ["b", "c", "slow", "slow", "d"]
    await asyncio.gather(*waiting)


@pytest.mark.usefixtures("_hurried")
async def test_the_log_line_belongs_to_the_slow_clients_session(caplog: pytest.LogCaptureFixture) -> None:
    told = []

    def note(record: logging.LogRecord) -> bool:
        told.append(facts_of(record))
        return True

    caplog.handler.addFilter(note)
    places = Places(1)
    with bound(session="slow"):
        reader = await Reader(places, "192.0.2.1").hold()
    with bound(session="waits"):
        await places.take("192.0.2.2", NEVER)
    (reason,) = reader.reasons
    assert told == [{"session": "slow", "client": "192.0.2.1", "reason": reason}]
    assert "this client was the slowest: 0 octets in 0 s" in reason
    assert caplog.messages == ["connection taken from a slow device"]


async def test_who_stops_waiting_leaves_nothing_behind() -> None:
    places = Places(1)
    await places.take("a", NEVER)
    waiting = asyncio.create_task(places.take("b", NEVER))
    await until(lambda: places.waiting == 1)
    # The place is given to it, and it is cancelled before it has noticed.
    places.give("a")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (places.taken, places.waiting) == (0, 0)
