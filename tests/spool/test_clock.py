"""The machine's clock is set while messages wait, as it is at the first contact with a time server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from legacy_email_proxy.contracts import Refused
from spool.support import CONTENT, Backend, send, spooling
from waiting import until


@pytest.mark.fault("D7")
@pytest.mark.parametrize("jump", [86400, -86400])
async def test_a_clock_that_jumps_makes_no_storm_and_no_stall(
    tmp_path: Path, jump: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def judge(path: str) -> None:
        asked.append(path)
        if path.startswith("later") or asked.count(path) < 2:
            raise Refused(450, "4.2.1", "not now")

    backend = Backend(recipient=judge)
    real = time.time
    async with spooling(backend, tmp_path, SPOOL_RETRY_SECONDS="1") as spool:
        await send(spool, "soon@example.test")
        await until(lambda: asked)
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        # It is due in a second by any clock but the one that was set.
        await until(lambda: backend.contents == [CONTENT])
    monkeypatch.setattr(time, "time", real)
    async with spooling(backend, tmp_path, SPOOL_RETRY_SECONDS="3600", SPOOL_GIVE_UP_SECONDS="7200") as spool:
        await send(spool, "later@example.test")
        await until(lambda: "later@example.test" in asked)
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        for number in range(3):
            # What is new makes it look for all that is due.
            await send(spool, f"another{number}@example.test")
            await until(lambda number=number: f"another{number}@example.test" in asked)  # type: ignore[misc]
    assert asked.count("later@example.test") == 1
