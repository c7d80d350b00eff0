"""What is new, what lasts, what is over: the rules of telling, without a service."""

from __future__ import annotations

from legacy_email_proxy.alerts.conditions import CONDITIONS, REMIND_SECONDS, Seen, Step, Troubles

OLD = Seen("spool_old", "", "it has waited for 2 hours")
DOWN = Seen("backend", "smtp", "mail can not be sent: no route")
MINUTE = 60.0


def steps(troubles: Troubles, now: float) -> list[tuple[Step, str]]:
    """What is due, told at once."""
    due = troubles.due(now)
    troubles.told(due, now)
    return [(change.step, change.trouble.condition) for change in due]


def test_a_trouble_is_told_once_then_daily_and_at_its_end() -> None:
    troubles = Troubles()
    told = {}
    for minute in range(2 * 24 * 60 + 10):
        now = 1000.0 + minute * MINUTE
        troubles.look([OLD], (), now)
        if found := steps(troubles, now):
            told[minute] = found
    assert told == {
        0: [(Step.BEGUN, "spool_old")],
        24 * 60: [(Step.LASTS, "spool_old")],
        2 * 24 * 60: [(Step.LASTS, "spool_old")],
    }
    troubles.look([], (), now)
    assert steps(troubles, now) == [(Step.OVER, "spool_old")]
    troubles.look([], (), now + MINUTE)
    assert steps(troubles, now + MINUTE) == []


def test_a_condition_that_has_to_last() -> None:
    troubles = Troubles()
    lasts = CONDITIONS["backend"].lasts_seconds
    assert lasts == 900
    troubles.look([DOWN], (), 0.0)
    troubles.look([DOWN], (), lasts - 1)
    assert steps(troubles, lasts - 1) == []
    assert troubles.current(lasts - 1) == []
    troubles.look([DOWN], (), lasts)
    assert steps(troubles, lasts) == [(Step.BEGUN, "backend")]


def test_what_worked_in_between_begins_anew() -> None:
    troubles = Troubles()
    troubles.look([DOWN], (), 0.0)
    troubles.look([Seen("backend", "smtp", "no route", worked=500.0)], (), 840.0)
    assert troubles.due(900.0) == []
    troubles.look([Seen("backend", "smtp", "no route", worked=500.0)], (), 1740.0)
    assert steps(troubles, 1740.0) == [(Step.BEGUN, "backend")]


def test_what_was_never_told_needs_no_end() -> None:
    troubles = Troubles()
    troubles.look([DOWN], (), 0.0)
    troubles.look([], (), 60.0)
    assert steps(troubles, 60.0) == []


def test_what_nobody_knows_stays() -> None:
    troubles = Troubles()
    troubles.look([OLD], (), 0.0)
    steps(troubles, 0.0)
    troubles.look([], {("spool_old", "")}, 60.0)
    assert steps(troubles, 60.0) == []
    assert [one.condition for one in troubles.current(60.0)] == ["spool_old"]


def test_one_that_comes_back_before_its_end_was_told_has_not_ended() -> None:
    troubles = Troubles()
    troubles.look([OLD], (), 0.0)
    steps(troubles, 0.0)
    troubles.look([], (), 60.0)
    troubles.look([OLD], (), 120.0)
    assert steps(troubles, 120.0) == []


def test_a_restart_tells_nothing_twice() -> None:
    troubles = Troubles()
    troubles.look([OLD], (), 0.0)
    steps(troubles, 10.0)
    again = Troubles(troubles.remembered)
    again.look([OLD], (), 20.0)
    assert steps(again, 20.0) == []
    again.look([], (), 30.0)
    assert steps(again, 30.0) == [(Step.OVER, "spool_old")]


def test_a_clock_that_was_ahead_silences_nothing() -> None:
    troubles = Troubles()
    troubles.look([OLD], (), 1e9)
    steps(troubles, 1e9)
    troubles.look([OLD], (), 1000.0)
    assert steps(troubles, 1000.0) == [(Step.LASTS, "spool_old")]


def test_a_clock_that_was_set_moves_what_was_counted() -> None:
    troubles = Troubles()
    troubles.look([DOWN], (), 0.0)
    troubles.shift(1e9)
    troubles.look([DOWN], (), 1e9 + 60)
    assert troubles.due(1e9 + 60) == []
    troubles.look([DOWN], (), 1e9 + 900)
    assert steps(troubles, 1e9 + 900) == [(Step.BEGUN, "backend")]


def test_what_is_new_comes_first_and_the_worst_of_it() -> None:
    troubles = Troubles()
    troubles.look([OLD], (), 0.0)
    steps(troubles, 0.0)
    seen = [Seen("disk", "", "1 MiB"), Seen("token", "", "revoked"), OLD]
    troubles.look(seen, (), REMIND_SECONDS)
    assert steps(troubles, REMIND_SECONDS) == [
        (Step.BEGUN, "token"), (Step.BEGUN, "disk"), (Step.LASTS, "spool_old")
    ]  # fmt: skip


def test_every_condition_says_what_to_do() -> None:
    for key, condition in CONDITIONS.items():
        assert condition.key == key
        assert condition.text
        assert condition.advice
