"""A disk that hangs takes one thread, however often it is asked."""

from __future__ import annotations

import asyncio
import threading

import pytest

from legacy_email_proxy.admin.disk import Disk


async def test_a_disk_that_hangs_is_not_asked_again_before_it_answers() -> None:
    asked: list[int] = []
    answers = threading.Event()

    def call(number: int) -> int:
        asked.append(number)
        answers.wait()
        return number

    disk = Disk(seconds=0.01)
    for number in range(3):
        with pytest.raises(TimeoutError):
            await disk.call(call, number)
    disk._seconds = 60.0
    waiting = [asyncio.create_task(disk.call(call, number)) for number in (7, 8)]
    await asyncio.sleep(0)
    answers.set()
    assert await asyncio.gather(*waiting) == [7, 8]
    assert asked == [0, 7, 8]


async def test_what_a_call_raises_is_told_to_who_has_asked() -> None:
    def broken() -> None:
        raise OSError(5, "Input/output error")

    disk = Disk()
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            await disk.call(broken)
