"""Whose turn it is at the backend, and who has to give a place up."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

import pytest

from legacy_email_proxy_plugins import places as module
from legacy_email_proxy_plugins.places import Places
from waiting import until

NEVER = math.inf


@dataclass(eq=False)
class Reader:
    """A holder that gives its place back as soon as it is told to."""

    places: Places
    address: str = "a"
    octets: int = 0
    waits_for_client: bool = True
    reasons: list[str] = field(default_factory=list)

    async def hold(self) -> Reader:
        await self.places.take(self.address, NEVER)
        self.places.watch(self, self.address)
        return self

    def give_up(self, reason: str) -> None:
        self.reasons.append(reason)
        self.places.give(self.address)


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(module, "FAIR_SECONDS", 0.0)


async def test_a_quarter_is_left_by_those_that_take_long() -> None:
    places = Places(4)
    for address in "abc":
        await places.take(address, NEVER, long=True)
    assert not places.has_room("d", long=True)
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
        reader.octets = 1 << 40
    elif why == "new":
        monkeypatch.setattr(module, "FAIR_SECONDS", 1000.0)
    elif why == "forgotten":
        places.forget(reader)
    else:
        reader.waits_for_client = False
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
