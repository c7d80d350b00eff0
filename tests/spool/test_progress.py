"""A try may take as long as it takes; one that stands still is broken off, and its message is nobody's poison."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from legacy_email_proxy_plugins.spool import attempt as attempt_module
from spool.support import Backend, operate, send, spooling, until_states, until_tries

pytestmark = [pytest.mark.usefixtures("store"), pytest.mark.long]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_module, "PROGRESS_SECONDS", 1.0)


class Slow(Backend):
    """Waits behind each piece, and before each verdict on recipients, for less than it may."""

    def transaction(self, client: Any, reverse_path: str, parameters: Any) -> Any:
        return _Slowly(super().transaction(client, reverse_path, parameters))


class _Slowly:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aenter__(self) -> Any:
        self._transaction = await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._inner.__aexit__(*error)

    async def add_recipients(self, recipients: Any, *, content_follows: bool) -> Any:
        await anyio.sleep(0.5)
        for each in recipients:
            await self._transaction.add_recipient(each.forward_path, each.parameters)
        return [None] * len(recipients)

    async def send(self, content: AsyncIterator[bytes]) -> Any:
        async def slowly() -> AsyncIterator[bytes]:
            async for piece in content:
                yield piece
                await anyio.sleep(0.5)

        return await self._transaction.send(slowly())


async def test_what_makes_progress_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All of it takes longer than this, and no step of it comes near, however busy the machine is.
    monkeypatch.setattr(attempt_module, "PROGRESS_SECONDS", 5.0)
    backend = Slow()
    content = b"x" * 6 * 2**20  # read in pieces of a megabyte, or less
    paths = [f"{number}@example.test" for number in range(550)]
    async with spooling(backend, tmp_path) as spool:
        await send(spool, *paths, content=content)
        await until_states(spool)
    (delivered,) = backend.delivered
    assert delivered.content == content
    assert delivered.forward_paths == tuple(paths)
    assert len(backend.tried) == 1


async def test_what_stands_still_is_tried_again_and_never_set_aside(tmp_path: Path) -> None:
    stuck = True

    async def before_dot(_: bytes) -> None:
        if stuck:
            await anyio.sleep_forever()

    backend = Backend(before_dot=before_dot)
    async with spooling(backend, tmp_path, SPOOL_POISON_TRIES="1") as spool:
        await send(spool)
        item = await until_tries(spool, 1)
        assert item["state"] == "queued"
        assert "has made no progress for 1 s" in item["recipients"][0]["reply"]
        stuck = False
        await operate(spool, "retry", item["number"])
        await until_states(spool)
    assert len(backend.delivered) == 1
