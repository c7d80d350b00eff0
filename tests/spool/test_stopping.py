"""An orderly stop is no crash: what it interrupts was not tried, and is nobody's poison.

With SPOOL_POISON_TRIES=1 the first try that is counted as one without an orderly end sets its message aside.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from spool.support import Backend, bodies, send, spool_to, spooling, until_states
from waiting import until

pytestmark = pytest.mark.usefixtures("store")

POISON = {"SPOOL_POISON_TRIES": "1", "BACKEND_SMTP_MAX_CONNECTIONS": "1"}


def stuck() -> Backend:
    return Backend(before_dot=lambda _: anyio.sleep_forever())


async def delivered_now(tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int) -> None:
    backend = Backend()
    async with spooling(backend, tmp_path, **POISON) as spool:
        await until_states(spool)
    assert len(backend.delivered) == count
    assert "their last try was cut short" not in caplog.text


@pytest.mark.parametrize("stops", [1, 3])
async def test_what_is_cut_off_by_a_stop(tmp_path: Path, stops: int, caplog: pytest.LogCaptureFixture) -> None:
    """One is on its way each time, and two are read and wait for their turn."""
    for number in range(stops):
        backend = stuck()
        async with spooling(backend, tmp_path, **POISON) as spool:
            delivery: Any = spool._delivery
            for _ in range(0 if number else 3):
                await send(spool, content=b"x" * 100_000)
            await until(lambda: backend.tried and len(delivery._busy) == 3)  # noqa: B023
        assert len(bodies(tmp_path)) == 3
    await delivered_now(tmp_path, caplog, 3)


async def test_what_is_being_leased_at_a_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The store has leased it, but what it says of that comes when nothing new is begun any more."""
    async with spooling(stuck(), tmp_path, **POISON) as spool:
        await send(spool)
        await send(spool)
    backend = Backend()
    spool = spool_to(backend, tmp_path, **POISON)
    store_of = type(spool._spool.place.store(spool._logger))
    lease, leased, go = store_of.lease, asyncio.Event(), asyncio.Event()

    async def late(*arguments: Any) -> Any:
        messages = await lease(*arguments)
        leased.set()
        await go.wait()
        return messages

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store_of, "lease", late)
        await spool.start()
        await leased.wait()
        stopping = asyncio.create_task(spool.aclose())
        await until(lambda: spool._delivery is None)
        await asyncio.sleep(0)
        go.set()
        await stopping
    assert backend.tried == []
    await delivered_now(tmp_path, caplog, 2)
