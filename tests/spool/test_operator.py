"""What the operator's decisions do to a message that is on its way, to notifications, and to the room there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from legacy_email_proxy.contracts import Failure, Refused, StorageFull, Unreachable
from spool import support
from spool.support import (
    CONTENT,
    Backend,
    bodies,
    listed,
    operate,
    raises,
    send,
    spool_to,
    spooling,
    until_states,
    until_tries,
)
from waiting import until

pytestmark = pytest.mark.usefixtures("store")

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 10_000
PERMANENT = Refused(550, "5.1.1", "no such user")


async def room_of(spool: Any) -> tuple[int, int]:
    room = await spool._spool.store.room()
    return room.messages, room.octets


async def weighed(spool: Any) -> tuple[int, int]:
    living = [item["octets"] for item in await listed(spool) if item["state"] not in ("dead", "set aside")]
    return len(living), sum(living)


async def until_room(spool: Any, *room: int) -> None:
    """Wait until so much is counted, or without a figure, as much as there is. It comes a moment after the record."""
    with anyio.fail_after(50):
        while await room_of(spool) != (room or await weighed(spool)):  # noqa: ASYNC110 (nothing sets an event)
            await anyio.sleep(0.01)


@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("verdict", [None, PERMANENT, Refused(450, "4.2.1", "later")], ids=str)
async def test_what_is_dropped_on_its_way_is_gone_whatever_the_verdict(
    tmp_path: Path, content: bytes, verdict: Exception | None
) -> None:
    read, go = anyio.Event(), anyio.Event()
    judge = raises([verdict])

    async def before_dot(_: bytes) -> None:
        read.set()
        await go.wait()
        judge(None)

    backend = Backend(before_dot=before_dot)
    async with spooling(backend, tmp_path) as spool:
        delivery: Any = spool._delivery
        await send(spool, content=content)
        await read.wait()
        await operate(spool, "drop", 1)
        go.set()
        await until(lambda: not delivery._busy)
        assert await listed(spool) == []
        await until_room(spool, 0, 0)
        await until(lambda: not bodies(tmp_path))
        # Nobody is told.
        await send(spool, content=b"another")
        await until_states(spool)
        assert len(backend.tried) == 2


async def test_who_was_to_be_told_by_a_dropped_notification_is_not_waited_for(tmp_path: Path) -> None:
    notices = Refused(450, "4.2.1", "not now")
    backend = Backend(recipient=raises([PERMANENT, None, notices, notices]))
    async with spooling(backend, tmp_path) as spool:
        await send(spool, "wrong@example.test", "right@example.test", content=LARGE)
        _, notice = await until_states(spool, "notifying", "queued")
        await operate(spool, "drop", notice["number"])
        (item,) = await until_states(spool, "dead")
        assert [each["fate"] for each in item["recipients"]] == ["dead", "delivered"]
        await until_room(spool, 0, 0)
        backend.recipient = lambda _: None
        await operate(spool, "retry", item["number"])
        await until_states(spool)
    assert [each.forward_paths for each in backend.delivered] == [("right@example.test",), ("wrong@example.test",)]


async def test_what_waits_for_a_notification_that_was_dropped_earlier_is_found_at_the_start(tmp_path: Path) -> None:
    backend = Backend(recipient=raises([PERMANENT, *[Refused(450, "4.2.1", "not now")] * 10]))
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        _, notice = await until_states(spool, "notifying", "queued")
        await until_tries(spool, 1)
    for table, column in (("message", "number"), ("recipient", "message"), ("content", "message")):
        support.store.execute(tmp_path, f"DELETE FROM {table} WHERE {column} = {notice['number']}")
    async with spooling(Backend(), tmp_path) as spool:
        await until_states(spool, "dead")
        await until_room(spool, 0, 0)


async def test_the_export_of_a_body_that_is_missing_is_one_line(tmp_path: Path) -> None:
    async with spooling(Backend(before_dot=lambda _: anyio.sleep_forever()), tmp_path) as spool:
        await send(spool, content=LARGE)
        await until(lambda: spool._delivery._attempting)  # type: ignore[union-attr]
        for each in bodies(tmp_path):
            if isinstance(each, Path):
                each.unlink()
            else:
                support.store.execute(tmp_path, "DELETE FROM piece")
        for asked in (spool, spool_to(Backend(), tmp_path)):
            with pytest.raises(Failure, match=r"^message 1: its body .* (is missing|ends 170018 octets early)$"):
                await operate(asked, "export", 1)


async def _dead(spool: Any, content: bytes) -> None:
    await send(spool, reverse_path="", content=content)
    await until_states(spool, "dead")


async def _poison(spool: Any, content: bytes) -> None:
    await send(spool, content=content)
    await until_states(spool, "set aside")


@pytest.mark.parametrize(
    ("failure", "given_up"), [(PERMANENT, _dead), (ZeroDivisionError(), _poison)], ids=["dead", "set aside"]
)
async def test_what_is_given_up_takes_no_room_from_what_lives(
    tmp_path: Path, failure: Exception, given_up: Callable[[Any, bytes], Any]
) -> None:
    backend = Backend(recipient=raises([failure]))
    variables = {"SPOOL_MAX_OCTETS": "65536", "SPOOL_POISON_TRIES": "1"}
    async with spooling(backend, tmp_path, **variables) as spool:
        await given_up(spool, b"x" * 65_536)
        await send(spool)
        await until(lambda: backend.contents == [CONTENT])
        await until_room(spool, 0, 0)
    # So it is after a start, and once it is to be delivered again, it counts again.
    async with spooling(Backend(sender=raises([Unreachable("away")] * 9)), tmp_path, **variables) as spool:
        await send(spool)
        (item, _) = await listed(spool)
        await operate(spool, "retry", item["number"])
        with pytest.raises(StorageFull, match="SPOOL_MAX_OCTETS"):
            await send(spool)
        await until_room(spool, 2, 65_536 + len(CONTENT))
        await operate(spool, "drop", item["number"])
        await until_room(spool)


async def test_what_can_not_be_read_takes_no_room(tmp_path: Path) -> None:
    async with spooling(Backend(before_dot=lambda _: anyio.sleep_forever()), tmp_path) as spool:
        await send(spool)
        await send(spool, content=LARGE)
    support.store.execute(tmp_path, "UPDATE message SET client = 'x' WHERE number = 1")
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        await until(lambda: backend.delivered)
        await until_states(spool, "set aside")
        await until_room(spool, 0, 0)


async def test_the_room_that_is_counted_is_the_room_that_is_taken(tmp_path: Path) -> None:
    """Through everything that can become of a message and of its notification."""
    verdicts = [PERMANENT, None, PERMANENT, PERMANENT, Refused(450, "4.2.1", "x"), None, Refused(451, "4.3.0", "y")]
    backend = Backend(recipient=raises([*verdicts * 6]))
    async with spooling(backend, tmp_path) as spool:
        for number in range(12):
            await send(spool, f"{number}@a.test", f"{number}@b.test", content=LARGE if number % 3 else CONTENT)
        for action in ("hold", "release", "retry", "drop"):
            for item in (await listed(spool))[::2]:
                if action != "release" or item["state"] == "held":
                    with suppress(Failure):  # it has been delivered since
                        await operate(spool, action, item["number"])
            await until_room(spool)
        while left := await listed(spool):
            with suppress(Failure):
                await operate(spool, "drop", left[0]["number"])
        await until_room(spool, 0, 0)


async def test_the_log_says_who_decided_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = Backend(sender=raises([Unreachable("away")] * 100))
    actions = ("hold", "release", "retry", "drop")
    async with spooling(backend, tmp_path) as service:
        await send(service, "a@example.test", "b@example.test")
        # As another process would, on another machine where that is possible.
        other = spool_to(Backend(), tmp_path)
        for action in actions:
            await operate(other, action, 1)
        await until(lambda: len(_decisions(caplog)) == len(actions))
    for action, facts in zip(actions, _decisions(caplog), strict=True):
        assert facts["action"] == action
        assert facts["by"].startswith(f"user {os.getuid()}, process {os.getpid()}")
        assert (facts["message"], facts["sender"], len(facts["recipients"])) == (1, support.SENDER, 2)


def _decisions(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record.__dict__["facts"] for record in caplog.records if record.message == "done by the operator"]
