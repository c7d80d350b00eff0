"""What the spool tells of its messages and its room."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from legacy_email_proxy.contracts import Failure, Figure, Refused, Unreachable
from legacy_email_proxy_plugins.spool.store import Counted
from spool.support import Backend, Clock, operate, raises, send, spool_to, spooling, until_states

pytestmark = pytest.mark.usefixtures("store")

NONE = dict.fromkeys(("queued", "held", "notifying", "dead", "set_aside"), 0.0)


def states(told: Sequence[Figure]) -> Mapping[str, float]:
    return {one.labels["state"]: one.value for one in told if one.name == "spool_messages"}


def value(told: Sequence[Figure], name: str) -> float:
    (found,) = [one.value for one in told if one.name == name]
    return found


async def test_messages_by_state_and_the_oldest(tmp_path: Path, clock: Clock) -> None:
    down = Backend(sender=raises([Unreachable("down")] * 9))
    async with spooling(down, tmp_path) as spool:
        told = await spool.figures()
        assert (states(told), value(told, "spool_oldest_seconds")) == (NONE, 0)
        room = value(told, "spool_room_octets")
        await send(spool)
        clock.now += 9
        # A count is good for some seconds: it reads every message.
        assert states(await spool.figures()) == NONE
        await send(spool)
        await operate(spool, "hold", 2)
        clock.now += 1
        told = await spool.figures()
        assert states(told) == {**NONE, "queued": 1, "held": 1}
        assert value(told, "spool_oldest_seconds") == 10
        assert value(told, "spool_room_octets") <= room


async def test_who_asks_for_all_accounts_at_once_counts_once(tmp_path: Path, clock: Clock) -> None:
    async with spooling(Backend(), tmp_path) as spool:
        store = spool._spool.store
        counted, count = [], store.counts

        async def counts() -> Sequence[Counted]:
            counted.append(clock.now)
            return await count()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "counts", counts)
            await asyncio.gather(*(spool.figures() for _ in range(100)))
        assert len(counted) == 1


async def test_each_account_counts_its_own(tmp_path: Path, clock: Clock) -> None:
    refusing = Backend(recipient=raises([Refused(550, "5.1.1", "no")] * 9))
    async with spooling(Backend(), tmp_path, "ann") as ann:
        bob = spool_to(refusing, tmp_path, "bob")
        await bob.start()
        await send(bob, reverse_path="")
        await until_states(bob, "dead")
        assert states(await ann.figures()) == NONE
        assert states(await bob.figures()) == {**NONE, "dead": 1}
        await bob.aclose()


async def test_no_room_is_less_than_nothing(tmp_path: Path, clock: Clock) -> None:
    down = Backend(sender=raises([Unreachable("down")] * 9))
    async with spooling(down, tmp_path, SPOOL_MAX_OCTETS="65536") as spool:
        await send(spool, content=b"x" * 70_000)
        assert value(await spool.figures(), "spool_room_octets") <= 0


async def test_those_of_the_next_relay_come_too_and_its_state_is_what_a_probe_finds(tmp_path: Path) -> None:
    class Observed(Backend):
        async def figures(self) -> Sequence[Figure]:
            return [Figure("backend_paused_seconds", 7)]

    async with spooling(Observed(), tmp_path) as spool:
        assert value(await spool.figures(), "backend_paused_seconds") == 7
        (finding,) = await spool.probe()
        assert finding.text.endswith(": 0 messages")


async def test_one_that_is_not_open(tmp_path: Path) -> None:
    spool = spool_to(Backend(), tmp_path)
    with pytest.raises(Failure, match="not open"):
        await spool.figures()
    await spool.aclose()
