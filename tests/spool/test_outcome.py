"""What a try changes for its message: fates, verdicts, when it is due again, and who is told. Without a store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from legacy_email_proxy import log
from legacy_email_proxy.contracts import Client, Disconnected, Failure, Refused, Unreachable
from legacy_email_proxy_plugins.spool import delivery as module
from legacy_email_proxy_plugins.spool.attempt import Attempt
from legacy_email_proxy_plugins.spool.delivery import Delivery
from legacy_email_proxy_plugins.spool.message import Fate, Outcome, Recipient, SpooledMessage, State, Verdict
from legacy_email_proxy_plugins.spool.settings import Options
from legacy_email_proxy_plugins.spool.store import Unreadable
from waiting import until

NOW, GIVE_UP, WARN = 100_000.0, 5000.0, 400.0
NO, LATER = Refused(550, "5.1.1", "nobody"), Refused(451, "4.3.0", "not now")
NO_VERDICT = Verdict(550, "5.1.1", "nobody", NOW)
LATER_VERDICT = Verdict(451, "4.3.0", "not now", NOW)
GONE = Disconnected("gone")
GONE_VERDICT = Verdict(0, "", "gone", NOW)


class Store:
    """Of a store what a delivery needs for one message; ``trouble`` comes before a record is taken."""

    def __init__(self, *trouble: Exception) -> None:
        self.trouble = list(trouble)
        self.given_back: list[int] = []
        self.recorded: list[Outcome] = []
        self.begun: list[int] = []

    def give_back(self, number: int) -> None:
        self.given_back.append(number)

    def begin(self, number: int) -> None:
        self.begun.append(number)

    async def content(self, message: SpooledMessage) -> AsyncGenerator[bytes, None]:
        yield b"Subject: x\r\n\r\ntext\r\n"

    async def record(self, outcome: Outcome) -> None:
        if self.trouble:
            raise self.trouble.pop(0)
        self.recorded.append(outcome)


def delivery_of(store: Any = None, relay: Any = None, **changed: Any) -> Delivery:
    given: dict[str, Any] = {
        "retry_seconds": (60.0, 300.0, 900.0), "give_up_seconds": GIVE_UP, "warn_seconds": WARN, "max_octets": 0,
        "message_octets": 0, "poison_tries": 3, "connections": 2, "notify_sender": True, "notify_from": None,
        "postmaster": None, "daemon": None,
    }  # fmt: skip
    kept: Any = Store() if store is None else store
    return Delivery(
        "", kept, relay, Options(**{**given, **changed}), logging.getLogger("test.outcome"),
        under_way=set(), clock=lambda: NOW, chance=lambda: 0.0,
    )  # fmt: skip


def spooled(count: int = 1, **given: Any) -> SpooledMessage:
    known: dict[str, Any] = {
        "number": 7, "account": "", "state": State.QUEUED, "received": NOW, "since": NOW, "due": NOW, "tries": 0,
        "unfinished": 0, "warned": False, "notice": False, "reason": "", "client": Client("192.0.2.1", "s1"),
        "reverse_path": "a@x", "parameters": {}, "octets": 20, "body": None,
        "recipients": [Recipient(number, f"{number}@y", {}) for number in range(count)],
    }  # fmt: skip
    return SpooledMessage(**{**known, **given})


def states(message: SpooledMessage) -> list[tuple[Fate, Verdict | None]]:
    return [(each.fate, each.verdict) for each in message.recipients]


async def test_each_recipient_gets_its_own_fate_and_verdict() -> None:
    message = spooled(4)
    one, two, three, _ = message.recipients
    outcome = await delivery_of()._outcome(message, Attempt([one], [(two, NO), (three, LATER)], GONE, False, "taken"))
    assert states(message) == [
        (Fate.DELIVERED, Verdict(250, "", "taken", NOW)),
        (Fate.FAILED, NO_VERDICT),
        (Fate.WAITING, LATER_VERDICT),
        (Fate.WAITING, GONE_VERDICT),
    ]
    assert outcome.changed == message.recipients
    assert (outcome.state, outcome.due, outcome.orderly, outcome.warned) == (State.QUEUED, NOW + 60, True, False)
    (notice,) = outcome.notices
    assert (notice.about, notice.submission.recipients[0][0]) == ((1,), "a@x")


async def test_the_log_tells_of_each_refusal_whose_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    message = spooled(3)
    refused = list(zip(message.recipients, (NO, LATER, NO), strict=True))
    await delivery_of()._outcome(message, Attempt([], refused))
    told = [(record.getMessage(), log.facts_of(record).get("recipients")) for record in caplog.records]
    assert ("recipients refused", ["0@y", "2@y"]) in told
    assert ("recipients not taken for now", ["1@y"]) in told


async def test_only_those_who_were_tried_are_stored_again() -> None:
    message = spooled(2)
    message.recipients[0].fate = Fate.DELIVERED
    outcome = await delivery_of()._outcome(message, Attempt([message.recipients[1]]))
    assert outcome.changed == message.recipients[1:]
    assert (outcome.state, outcome.due, outcome.last_of_it) == (State.NOTIFYING, NOW, True)
    assert outcome.notices == []


@pytest.mark.parametrize(
    ("given", "changed", "fate", "notices"),
    [
        ({}, {}, Fate.FAILED, 1),
        ({"notice": True, "reverse_path": ""}, {}, Fate.NOTIFIED, 0),
        ({"recipients": [Recipient(0, "0@y", {"NOTIFY": "NEVER"})]}, {}, Fate.NOTIFIED, 0),
        ({"reverse_path": ""}, {}, Fate.DEAD, 0),
        ({}, {"notify_sender": False}, Fate.DEAD, 0),
        ({}, {"notify_sender": False, "postmaster": "p@x"}, Fate.FAILED, 1),
    ],
)
async def test_who_has_failed_for_good_is_kept_where_nobody_can_be_told(
    given: dict[str, Any], changed: dict[str, Any], fate: Fate, notices: int
) -> None:
    message = spooled(**given)
    outcome = await delivery_of(**changed)._outcome(message, Attempt([], [(message.recipients[0], NO)]))
    assert states(message) == [(fate, NO_VERDICT)]
    assert (outcome.state, len(outcome.notices)) == (State.NOTIFYING, notices)


@pytest.mark.parametrize(
    ("tries", "age", "due"),
    [
        (0, 0, NOW + 60),
        (1, 0, NOW + 300),
        (9, 0, NOW + 900),
        (9, GIVE_UP - 100, NOW + 100),  # the last try is when its time is over
    ],
)
async def test_when_it_is_tried_again(tries: int, age: float, due: float) -> None:
    message = spooled(tries=tries, since=NOW - age)
    outcome = await delivery_of()._outcome(message, Attempt([], [(message.recipients[0], LATER)]))
    assert (outcome.due, outcome.state) == (due, State.QUEUED)


@pytest.mark.parametrize(("age", "fate"), [(GIVE_UP - 1, Fate.WAITING), (GIVE_UP, Fate.FAILED)])
async def test_all_who_wait_have_failed_when_its_time_is_over(age: float, fate: Fate) -> None:
    message = spooled(3, since=NOW - age)
    message.recipients[0].fate = Fate.DELIVERED
    outcome = await delivery_of()._outcome(message, Attempt([], [(message.recipients[1], LATER)], GONE))
    assert states(message) == [(Fate.DELIVERED, None), (fate, LATER_VERDICT), (fate, GONE_VERDICT)]
    told = [notice.about for notice in outcome.notices if notice.about]
    assert told == ([(1, 2)] if fate is Fate.FAILED else [])


@pytest.mark.parametrize(
    ("age", "warned", "seconds", "warns"),
    [
        (WARN - 1, False, WARN, False),
        (WARN, False, WARN, True),
        (WARN, True, WARN, False),
        (WARN, False, 0.0, False),
    ],
)
async def test_a_delay_is_told_once(age: float, warned: bool, seconds: float, warns: bool) -> None:
    message = spooled(since=NOW - age, warned=warned)
    message.recipients[0].parameters = {"NOTIFY": "DELAY"}
    outcome = await delivery_of(warn_seconds=seconds)._outcome(message, Attempt(failure=GONE))
    assert (outcome.warned, [notice.about for notice in outcome.notices]) == (warns, [()] if warns else [])
    assert states(message) == [(Fate.WAITING, GONE_VERDICT)]


async def test_there_is_no_delay_to_tell_when_nobody_waits() -> None:
    message = spooled(since=NOW - WARN)
    outcome = await delivery_of()._outcome(message, Attempt([message.recipients[0]]))
    assert (outcome.warned, outcome.notices) == (False, [])


@pytest.mark.parametrize(
    ("failure", "unfinished", "state", "orderly"),
    [
        (GONE, 2, State.QUEUED, True),
        (ZeroDivisionError("x"), 1, State.QUEUED, False),
        (ZeroDivisionError("x"), 2, State.SET_ASIDE, False),
    ],
)
async def test_who_makes_the_relay_fail_too_often_is_set_aside(
    failure: Exception, unfinished: int, state: State, orderly: bool
) -> None:
    message = spooled(unfinished=unfinished)
    outcome = await delivery_of()._outcome(message, Attempt(failure=failure))
    assert (outcome.state, outcome.orderly) == (state, orderly)
    if state is State.SET_ASIDE:
        assert outcome.reason == "it made the relay fail 3 times: ZeroDivisionError('x')"
        assert outcome.changed == ()


@pytest.mark.parametrize(("unfinished", "set_aside"), [(2, False), (3, True)])
async def test_who_was_cut_off_too_often_is_not_even_tried(
    monkeypatch: pytest.MonkeyPatch, unfinished: int, set_aside: bool
) -> None:
    tried: list[int] = []

    async def attempted(_: object, message: SpooledMessage, content: AsyncGenerator[bytes, None]) -> Attempt:
        tried.append(message.number)
        await content.aclose()
        return Attempt(list(message.recipients))

    monkeypatch.setattr(module, "attempt", attempted)
    outcome = await delivery_of()._try(spooled(unfinished=unfinished), probe=False)
    assert outcome is not None
    assert (outcome.state is State.SET_ASIDE, tried) == (set_aside, [] if set_aside else [7])


async def test_one_that_can_not_be_read_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreadable(*_: object) -> Attempt:
        raise Unreadable("its file is gone")

    monkeypatch.setattr(module, "attempt", unreadable)
    outcome = await delivery_of()._try(spooled(), probe=False)
    assert outcome is not None
    assert (outcome.state, outcome.reason, outcome.orderly) == (State.SET_ASIDE, "its file is gone", False)


@pytest.mark.parametrize("error", [Failure("busy"), ZeroDivisionError()])
async def test_what_was_delivered_is_recorded_until_that_succeeds(
    monkeypatch: pytest.MonkeyPatch, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def attempted(_: object, message: SpooledMessage, content: AsyncGenerator[bytes, None]) -> Attempt:
        await content.aclose()
        return Attempt(list(message.recipients))

    monkeypatch.setattr(module, "attempt", attempted)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    store = Store(error, error)
    delivery = delivery_of(store)
    message = spooled()
    await delivery._handle(message, probe=False)
    (outcome,) = store.recorded
    assert (outcome.message, states(message)) == (message, [(Fate.DELIVERED, Verdict(250, "", "", NOW))])
    assert delivery._settled == {7}
    assert slept == [module._TROUBLE_SECONDS] * 2
    assert sum("not stored now" in text for text in caplog.messages) == 1


@pytest.mark.parametrize(("tries", "due"), [(0, NOW + 60), (1, NOW + 300)])
async def test_a_bug_of_ours_loses_no_message(monkeypatch: pytest.MonkeyPatch, tries: int, due: float) -> None:
    async def broken(*_: object) -> Attempt:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(module, "attempt", broken)
    store = Store()
    delivery = delivery_of(store)
    await delivery._handle(spooled(tries=tries), probe=False)
    (outcome,) = store.recorded
    assert (outcome.state, outcome.due, outcome.orderly) == (State.QUEUED, due, False)
    assert [each.verdict for each in outcome.changed] == [Verdict(0, "", "ours", NOW)]
    assert delivery._settled == set()


@pytest.mark.parametrize("why", ["tried", "reload", "stop", "paused"])
async def test_who_was_leased_and_not_tried_is_given_back(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    async def attempted(_: object, message: SpooledMessage, content: AsyncGenerator[bytes, None]) -> Attempt:
        await content.aclose()
        return Attempt(list(message.recipients))

    monkeypatch.setattr(module, "attempt", attempted)
    store = Store()
    delivery = delivery_of(store)
    delivery._begin(spooled(content=b"x" * 20))
    assert (delivery._under_way, delivery._octets) == ({7}, 20)
    if why == "reload":
        delivery.successor = delivery_of(Store())
    elif why == "stop":
        await delivery.stop()
    elif why == "paused":
        assert delivery._gate.failed(Unreachable("down"))
    await until(lambda: not delivery._busy)
    tried = why == "tried"
    assert (store.given_back, len(store.recorded)) == ([] if tried else [7], int(tried))
    assert (delivery._under_way, delivery._untried, delivery._octets) == (set(), set(), 0)
    assert delivery._settled == set()


async def test_with_all_places_taken_it_waits_for_one_to_be_free() -> None:
    delivery = delivery_of()
    trying = asyncio.create_task(asyncio.sleep(0))
    delivery._busy = dict.fromkeys(range(2 * module._MESSAGES_PER_CONNECTION), trying)
    turn = asyncio.create_task(delivery._turn())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not turn.done()  # otherwise it would look again and again, with all of a processor
    delivery.wake()
    await turn


@pytest.mark.parametrize("why", ["older ones wait", "stopping", "paused", "many", "large", "free", "reload"])
async def test_a_new_message_is_tried_at_once_only_where_nothing_is_before_it(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    store, begun = Store(), list[int]()
    delivery = successor = delivery_of(store)
    delivery._more_in_store = why == "older ones wait"
    if why == "stopping":
        delivery._stopping = True
    elif why == "paused":
        delivery._gate.failed(Unreachable("down"))
    elif why == "many":
        monkeypatch.setattr(module, "_OFFERED", 0)
    elif why == "large":
        monkeypatch.setattr(module, "_OFFERED_OCTETS", 0)
    elif why == "reload":
        successor = delivery.successor = delivery_of(Store())
        successor._more_in_store = False
    monkeypatch.setattr(successor, "_begin", lambda message: begun.append(message.number))
    delivery.offer(spooled())
    at_once = why in ("free", "reload")
    assert (begun, store.given_back) == (([7], []) if at_once else ([], [7]))
    assert successor._more_in_store is not at_once
    assert delivery._wake.is_set() is (why != "free")


@pytest.mark.parametrize(
    ("notice", "sender", "again"), [(True, "p@x", True), (True, None, False), (False, "p@x", False)]
)
async def test_a_refused_notification_is_sent_from_an_address(
    monkeypatch: pytest.MonkeyPatch, notice: bool, sender: str | None, again: bool
) -> None:
    tried: list[tuple[str, Sequence[str]]] = []

    async def attempted(_: object, message: SpooledMessage, content: AsyncGenerator[bytes, None]) -> Attempt:
        await content.aclose()
        tried.append((message.reverse_path, [each.forward_path for each in message.recipients]))
        if message.reverse_path == "p@x":
            return Attempt(list(message.recipients))
        return Attempt([], [(message.recipients[0], NO), (message.recipients[1], LATER)])

    monkeypatch.setattr(module, "attempt", attempted)
    store = Store()
    delivery = delivery_of(store, notify_from=sender)
    message = spooled(2, notice=notice, reverse_path="")
    made = await delivery._attempt(message)
    assert tried == [("", ["0@y", "1@y"]), *([("p@x", ["0@y"])] if again else [])]
    assert made.delivered == (message.recipients[:1] if again else [])
    assert (store.begun, delivery._attempting) == ([7], set())


def test_a_pause_begins_and_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    delivery = delivery_of()
    recipient = Recipient(0, "0@y", {})
    delivery._update_gate(Attempt([recipient]))
    assert caplog.messages == []
    delivery._update_gate(Attempt(failure=Unreachable("down")))
    assert (delivery._gate.closed, caplog.messages) == (True, ["delivery paused"])
    delivery._update_gate(Attempt(failure=ZeroDivisionError()))
    assert delivery._gate.closed, "a bug is no sign that it works"
    delivery._update_gate(Attempt([], [(recipient, NO)]))
    assert (delivery._gate.closed, caplog.messages) == (False, ["delivery paused", "delivery resumed"])
