"""Which way is chosen where a server answers on several ports, or slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from legacy_email_proxy.contracts import Finding, Level
from legacy_email_proxy.settings import Leg
from legacy_email_proxy.setup import trying
from legacy_email_proxy.setup.draft import Draft
from legacy_email_proxy.setup.questions import MAILDROP, RELAY
from legacy_email_proxy.setup.trying import Way, search, ways

IMPLICIT, SUBMISSION, PLAIN = Way(465, False), Way(587, True), Way(25, True)


async def chosen(
    monkeypatch: pytest.MonkeyPatch, answers: Mapping[Way, bool], port: int | None = None
) -> tuple[Way | None, set[Way]]:
    """`answers`: way → whether it works; one that is missing never answers."""

    async def obstacle(leg: Leg, host: str, way: Way, draft: Draft) -> Finding | None:
        if way not in answers:
            await asyncio.Event().wait()
        return None if answers[way] else Finding(Level.BAD, "no")

    monkeypatch.setattr(trying, "_obstacle", obstacle)
    monkeypatch.setattr(trying, "_GRACE_SECONDS", 0.0)
    way, failed = await search(RELAY, "h.example", port, Draft())
    return way, set(failed)


async def test_the_best_of_those_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await chosen(monkeypatch, {IMPLICIT: True, SUBMISSION: True, PLAIN: True}))[0] == IMPLICIT
    assert await chosen(monkeypatch, {IMPLICIT: False, SUBMISSION: True, PLAIN: True}) == (SUBMISSION, {IMPLICIT})


async def test_a_port_that_a_firewall_swallows_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await chosen(monkeypatch, {SUBMISSION: True}))[0] == SUBMISSION
    assert (await chosen(monkeypatch, {IMPLICIT: True}))[0] == IMPLICIT


async def test_why_none_works(monkeypatch: pytest.MonkeyPatch) -> None:
    every = {IMPLICIT, SUBMISSION, PLAIN}
    assert await chosen(monkeypatch, dict.fromkeys(every, False)) == (None, every)


def test_a_port_that_was_named_is_tried_with_both_kinds_of_tls() -> None:
    assert ways(RELAY, 587) == [Way(587, True), Way(587, False)]
    assert ways(MAILDROP, 2993) == [Way(2993, False), Way(2993, True)]
    assert str(Way(587, True)) == "port 587 with STARTTLS"
