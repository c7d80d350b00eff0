"""The real spool's events: what the history says of each recipient is what the spool says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from history.support import entries
from legacy_email_proxy import log
from legacy_email_proxy.contracts import Refused
from legacy_email_proxy.history import recorder as recorder_module
from legacy_email_proxy.history.recorder import Recorder
from spool.support import Backend, listed, operate, send, spooling, until_states, until_tries

ANN, LATE, WRONG = "ann@example.test", "late@example.test", "wrong@example.test"


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a history that is being recorded."""
    monkeypatch.setattr(recorder_module, "_TOGETHER_SECONDS", 0.0)
    path = tmp_path / "history.db"
    recorder = Recorder(path, 3650)
    log.observe(recorder)
    yield path
    log.unobserve(recorder)
    recorder.close()


def told(path: Path) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    try:
        found = entries(path)
    except FileNotFoundError:
        return []
    return [
        (entry["state"], {each["address"]: (each["state"], each["said"]) for each in entry.get("recipients", ())})
        for entry in found
        if entry["sender"]
    ]


async def until_told(path: Path, *expected: tuple[str, dict[str, tuple[str, str]]]) -> None:
    with anyio.fail_after(50):
        while await anyio.to_thread.run_sync(told, path) != [*expected]:  # noqa: ASYNC110 (nothing here sets an event)
            await anyio.sleep(0.01)


async def test_each_recipient_has_its_own_last_word(tmp_path: Path, history: Path) -> None:
    verdicts = {LATE: [Refused(450, "4.2.1", "not now")], WRONG: [Refused(550, "5.1.1", "no such user")]}

    def judge(path: str) -> None:
        if verdicts.get(path):
            raise verdicts[path].pop()

    async with spooling(Backend(recipient=judge), tmp_path) as spool:
        await send(spool, ANN, LATE, WRONG)
        await until_tries(spool, 1)
        at_first = {
            ANN: ("delivered", "250 2.0.0 taken"),
            LATE: ("delayed", "450 4.2.1 not now"),
            WRONG: ("failed", "550 5.1.1 no such user"),
        }
        await until_told(history, ("delayed", at_first))
        (item,) = [item for item in await listed(spool) if item["sender"]]
        await operate(spool, "hold", item["number"])
        await until_told(history, ("held", at_first))
        await operate(spool, "release", item["number"])
        await operate(spool, "retry", item["number"])
        at_last = {**at_first, LATE: ("delivered", "250 2.0.0 taken")}
        await until_told(history, ("partly failed", at_last))
        await until_states(spool)


async def test_a_sender_that_is_refused_for_now_delays_all(tmp_path: Path, history: Path) -> None:
    away = [Refused(450, "4.3.2", "later")]

    def judge(_: str) -> None:
        if away:
            raise away[0]

    async with spooling(Backend(sender=judge), tmp_path) as spool:
        await send(spool, ANN)
        await until_tries(spool, 1)
        await until_told(history, ("delayed", {ANN: ("delayed", "450 4.3.2 later")}))
        away.clear()
        (item,) = await listed(spool)
        await operate(spool, "retry", item["number"])
        await until_told(history, ("delivered", {ANN: ("delivered", "250 2.0.0 taken")}))
