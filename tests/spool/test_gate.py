"""Nothing that belongs to one message holds another one up; what is about the backend or about us holds all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    NoCredentials,
    Overloaded,
    Refused,
    StorageFull,
    Unreachable,
    Unusable,
    Unverified,
)
from legacy_email_proxy_plugins.backoff import Gate
from spool.support import Backend, Clock, send, spooling
from waiting import until

pytestmark = pytest.mark.usefixtures("store")

OF_ONE_MESSAGE: list[Exception] = [
    *(Refused(code, "", "no") for code in (432, 450, 451, 452, 454, 455, 500, 501, 502, 503, 504)),
    *(Refused(code, "", "no") for code in (521, 550, 551, 552, 553, 554, 555, 556)),
    Disconnected("it hung up at this one"),
    Failure("odd"),
    StorageFull("no room for this one"),
    Overloaded("no connection got free", about_us=False),
    ValueError("a bug"),
    TimeoutError(),
]
OF_ALL: list[Failure] = [
    Unreachable("away"),
    Unverified("x"),
    CredentialsRefused("535"),
    NoCredentials("nothing"),
    Unusable("x"),
    Overloaded("busy"),
    Disconnected("it hung up before the login was over", about_us=True),
    *(Refused(code, "", "no") for code in (421, 530, 534, 535, 538)),
]


@pytest.mark.long
@pytest.mark.fault("D22")
@pytest.mark.parametrize("failure", OF_ONE_MESSAGE, ids=repr)
@pytest.mark.parametrize("step", ["sender", "recipient", "before_dot"])
async def test_a_good_message_beside_fifteen_bad_ones_waits_no_pause(
    tmp_path: Path,
    clock: Clock,
    step: str,
    failure: Exception,
) -> None:
    def judge(words: str | bytes) -> None:
        if "bad" in str(words):
            raise failure

    backend = Backend(**{step: judge})  # type: ignore[arg-type]
    async with spooling(backend, tmp_path) as spool:
        for number in range(15):
            await send(spool, "bad@example.test", reverse_path=f"bad{number}@example.test", content=b"bad\r\n")
        delivery: Any = spool._delivery
        await until(lambda: len({*backend.tried} - {""}) == 15 and not delivery._busy)
        await send(spool, "good@example.test", reverse_path="good@example.test", content=b"good\r\n")
        # The clock stands still, so a pause would have no end.
        await until(lambda: b"good\r\n" in backend.contents)
        assert not delivery._gate.closed


@pytest.mark.parametrize("failure", OF_ALL, ids=repr)
async def test_what_is_about_the_backend_or_about_us_lets_all_wait(
    tmp_path: Path,
    clock: Clock,
    failure: Failure,
) -> None:
    def sender(_: str) -> None:
        raise failure

    backend = Backend(sender=sender)
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        delivery: Any = spool._delivery
        await until(lambda: delivery._gate.closed and not delivery._busy)
        await send(spool)
        await anyio.sleep(0.05)
        assert len(backend.tried) == 1
        # And a probe that fails for a reason of its own opens the gate for the others.
        backend.sender = raising_for_first(Disconnected("it hung up at this one"))
        clock.now += 61
        delivery.wake()
        await until(lambda: len(backend.delivered) >= 1)
        assert not delivery._gate.closed


async def test_a_probe_that_is_called_off_before_it_begins_is_none(tmp_path: Path, clock: Clock) -> None:
    """Settings that are read anew bring another delivery, which may be gone again in the next moment."""
    backend = Backend(sender=raising_for_first(Unreachable("away")))
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        delivery: Any = spool._delivery
        await until(lambda: delivery._gate.closed and not delivery._busy)
        begin = delivery._begin

        def begin_and_be_succeeded(message: object) -> None:
            delivery._begin = begin
            begin(message)
            delivery.successor = SimpleNamespace(wake=lambda: None)

        delivery._begin = begin_and_be_succeeded
        clock.now += 90
        delivery._wake.set()
        await until(lambda: delivery.successor is not None and not delivery._busy)
        assert len(backend.tried) == 1
        delivery.successor = None
        await until(lambda: len(backend.delivered) == 1)


def raising_for_first(failure: Exception) -> Callable[[str], None]:
    left = [failure]

    def sender(_: str) -> None:
        if left:
            raise left.pop()

    return sender


EVENTS = st.lists(st.one_of(st.sampled_from([*OF_ALL, None]), st.integers(0, 200).map(float)), max_size=40)


@given(EVENTS)
def test_a_gate_is_never_closed_for_ever_and_opens_at_any_verdict(events: list[Any]) -> None:
    now = 0.0
    gate = Gate((60.0, 300.0), lambda: now)
    for event in events:
        if isinstance(event, float):
            now += event
        elif event is None:
            gate.judged()
            assert not gate.closed
        else:
            gate.failed(event)
            assert gate.closed
            assert 0 <= gate.wait_seconds() <= 300 + 1e-6
