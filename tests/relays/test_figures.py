"""What a site's plugin tells of itself may be anything, and must not stop what the others tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from legacy_email_proxy.contracts import Failure, Figure
from legacy_email_proxy.relays import wrapper
from legacy_email_proxy.relays.wrapper import RelayWrapper, figures
from smtp.relays import MemoryRelay


class Site(MemoryRelay):
    """Tells whatever a test wants."""

    def __init__(self, told: Any) -> None:
        super().__init__()
        self._told = told

    async def figures(self) -> Any:
        if isinstance(self._told, Exception):
            raise self._told
        return self._told


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapper, "_told_of", set())


class Odd(Mapping[str, str]):
    """Labels that raise when they are read."""

    def __getitem__(self, key: str) -> str:
        raise KeyError(key)

    def __iter__(self) -> Any:
        raise RuntimeError("odd")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    "told",
    [
        None, 7, "idle", [("spool_messages", 1)], [Figure("spool_oldest_seconds", 1), None], {"spool_messages": 3},
        [Figure("spool_oldest_seconds", "7")], [Figure("spool_oldest_seconds", float("nan"))],  # type: ignore[arg-type]
        [Figure("spool_messages", float("inf"), {"state": "queued"})], [Figure("spool_messages", 10**400)],
        [Figure(["x"], 1)], [Figure("spool_messages", 1, {"state": 3})],  # type: ignore[arg-type, dict-item]
        [Figure("spool_messages", 1, None)], [Figure("spool_messages", 1, Odd())],  # type: ignore[arg-type]
        ValueError("broken"),
    ],
)  # fmt: skip
async def test_nonsense_is_one_failure_and_one_line(told: Any, caplog: pytest.LogCaptureFixture) -> None:
    relay = Site(told)
    for plugin in (relay, RelayWrapper(relay), relay):
        with pytest.raises(Failure, match="the plugin's figures can not be used"):
            await figures(plugin)
    assert [record.msg for record in caplog.records] == ["figures left out"]


async def test_what_can_be_used(caplog: pytest.LogCaptureFixture) -> None:
    told = (Figure("spool_oldest_seconds", 7), Figure("invented", 0.5, {"state": "x"}))
    assert await figures(Site(told)) == list(told)
    with pytest.raises(Failure, match="not open"):
        await figures(Site(Failure("the spool is not open")))
    assert caplog.records == []
