"""Guessing: how many logins are let through to their judge, whom others' failures delay, and what that costs."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy import guessing
from legacy_email_proxy.access import source_of
from legacy_email_proxy.accounts.users import PasswordHash, Users
from legacy_email_proxy.build import Composition
from legacy_email_proxy.contracts import (
    Client,
    Login,
    LoginRefused,
    LoginsLimited,
    Maildrop,
    Secret,
    Unreachable,
)
from legacy_email_proxy.guessing import (
    FORGET_IN_ALL_SECONDS,
    FORGET_SECONDS,
    FREE,
    FREE_IN_ALL,
    FailedLogins,
    KnownPasswords,
    LimitedMaildrop,
    LoginLimit,
)
from legacy_email_proxy.reloading import Current, CurrentMaildrop
from legacy_email_proxy.settings import read
from pop3.maildrops import MemoryMaildrop
from smtp.relays import MemoryRelay
from waiting import until

GUESSER, HONEST = "192.0.2.66", "192.0.2.7"
RIGHT = Login("ann", Secret("right"))
OVER = 6
"""Failures that the pauses let through until there is one a minute, or for all addresses one in six seconds."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wrong(number: int = 0, user: str = "ann") -> Login:
    return Login(user, Secret(f"wrong {number}"))


# How many


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1::5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::5", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no address", "None"),
    ],
)
def test_whom_failures_are_counted_for(address: str, source: str) -> None:
    assert source_of(address) == source


def let_through(failed: FailedLogins, clock: Clock, sources: list[str], took: list[float], seconds: float) -> list[str]:
    """The sources of all logins that clients got through who always try as soon as they may; ``took`` are the seconds
    until each is refused, in turn.
    """
    end, number, through = clock.now + seconds, 0, []
    trying: list[tuple[float, str]] = []
    while clock.now < end:
        waits = []
        for source in sources:
            while not (wait := failed.begin(source, f"user {number}")):
                trying.append((clock.now + took[number % len(took)], f"{source} user {number}"))
                through.append(source)
                number += 1
            waits.append(clock.now + wait)
        clock.now = min(*waits, *(at for at, _ in trying), end)
        for at, what in [each for each in trying if each[0] <= clock.now]:
            trying.remove((at, what))
            source, _, user = what.partition(" ")
            failed.end(source, user, failed=True)
    return through


@given(st.lists(st.floats(0.01, 30), min_size=1, max_size=5), st.integers(1, 3600))
def test_one_address_gets_few_through(took: list[float], seconds: int) -> None:
    clock = Clock()
    through = let_through(FailedLogins(clock), clock, [GUESSER], took, seconds)
    assert FREE - 1 <= len(through) <= FREE + OVER + seconds / FORGET_SECONDS


@given(st.lists(st.floats(0.01, 30), min_size=1, max_size=5), st.integers(1, 600))
def test_many_addresses_get_few_through(took: list[float], seconds: int) -> None:
    clock = Clock()
    failed = FailedLogins(clock)
    through = let_through(failed, clock, [f"10.0.0.{number}" for number in range(30)], took, seconds)
    assert len(through) <= FREE_IN_ALL + OVER + seconds / FORGET_IN_ALL_SECONDS
    assert max(Counter(through).values()) <= FREE + OVER + seconds / FORGET_SECONDS


def test_pauses_grow() -> None:
    clock = Clock()
    failed = FailedLogins(clock)
    pauses = []
    for _ in range(12):
        while wait := failed.begin(GUESSER, "u"):
            clock.now += wait
            pauses.append(round(wait))
        failed.end(GUESSER, "u", failed=True)
    assert pauses[:4] == [2, 4, 7, 14]
    assert pauses == sorted(pauses)
    assert pauses[-1] <= FORGET_SECONDS


def test_who_polls_with_a_wrong_password_never_has_to_pause() -> None:
    clock = Clock()
    failed = FailedLogins(clock)
    for _ in range(100):
        assert failed.begin(GUESSER, "u") == 0
        failed.end(GUESSER, "u", failed=True)
        clock.now += FORGET_SECONDS


def test_one_guesser_delays_nobody_else() -> None:
    clock = Clock()
    failed = FailedLogins(clock)
    for number in range(600):
        let_through(failed, clock, [GUESSER], [0.5], 1)
        assert failed.begin(f"10.0.{number % 256}.7", "honest") == 0
        failed.end(f"10.0.{number % 256}.7", "honest", proven=True)


def test_a_few_guessers_leave_some_for_who_comes_fresh() -> None:
    clock = Clock()
    failed = FailedLogins(clock)
    let_through(failed, clock, ["a", "b", "c", "d"], [0.5], 30)
    assert failed.begin("fresh", "u") == 0


def test_strangers_do_not_shut_out_an_address_with_a_proven_password() -> None:
    clock = Clock()
    failed = FailedLogins(clock)
    assert failed.begin(HONEST, "u") == 0
    failed.end(HONEST, "u", proven=True)
    let_through(failed, clock, [f"10.0.0.{number}" for number in range(200)], [0.5], 30)
    assert failed.begin("10.0.1.1", "u") > 0
    assert failed.begin(HONEST, "v") == 0


def test_however_many_failed_new_addresses_are_soon_as_free_as_before() -> None:
    clock = Clock()
    failed = FailedLogins(clock)
    proven = [f"10.0.0.{number}" for number in range(100)]
    for source in proven:
        assert failed.begin(source, "u") == 0
        failed.end(source, "u", proven=True)
    for source in proven * (FREE - 1):
        # Nobody has to wait at an address with a proven password, but its failures count for all.
        assert failed.begin(source, "u") == 0
        failed.end(source, "u", failed=True)
    assert failed.begin("fresh", "u") > 0
    clock.now += (OVER + 5) * FORGET_IN_ALL_SECONDS
    assert [failed.begin(f"fresh {number}", f"u{number}") for number in range(5)] == [0] * 5


def test_a_user_is_not_tried_from_everywhere_at_once() -> None:
    failed = FailedLogins(Clock())
    waits = [failed.begin(f"10.0.0.{number}", "ann") for number in range(6)]
    assert waits == [0, 0, 0, math.inf, math.inf, math.inf]
    assert failed.begin("10.0.0.9", "bob") == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.floats(0, 100)), max_size=200))
def test_nothing_is_left_when_all_is_forgotten(steps: list[tuple[int, bool, float]]) -> None:
    clock = Clock()
    failed = FailedLogins(clock)
    for number, fails, pause in steps:
        source = source_of(f"2001:db8:0:{number:x}::1")
        if not failed.begin(source, "u"):
            failed.end(source, "u", failed=fails)
        clock.now += pause
    assert len(failed) <= len({number for number, fails, _ in steps if fails})
    assert not failed._users
    assert (failed._all.trying, sum(each.trying for each in failed._sources.values())) == (0, 0)


def test_a_million_addresses_take_no_memory() -> None:
    clock = Clock()
    failed = FailedLogins(clock)
    through = 0
    for number in range(100_000):
        source = source_of(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1")
        if not failed.begin(source, f"user {number}"):
            failed.end(source, f"user {number}", failed=True)
            through += 1
        clock.now += 0.001
    assert len(failed) <= through <= FREE_IN_ALL + OVER + 100 / FORGET_IN_ALL_SECONDS


def test_memory_has_an_end_even_where_everybody_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guessing, "MAX_SOURCES", 100)
    monkeypatch.setattr(guessing, "_MOST_PASSWORDS", 100)
    failed, known = FailedLogins(Clock()), KnownPasswords()
    for number in range(1000):
        assert failed.begin(f"{number}", "u") == 0
        failed.end(f"{number}", "u", proven=True)
        known.add(wrong(number))
    assert len(failed) == 100
    assert [wrong(number) in known for number in (0, 899, 900, 999)] == [False, False, True, True]


def test_known_passwords_are_of_one_user() -> None:
    known = KnownPasswords()
    known.add(RIGHT)
    assert RIGHT in known
    assert wrong() not in known
    assert Login("bob", RIGHT.password) not in known
    assert Login("an", Secret("nright")) not in known
    assert "right" not in repr(vars(known))


# Around the judge


class Judge:
    """A backend that takes its time: it answers when ``answer`` is set."""

    def __init__(self) -> None:
        self.asked: list[Login] = []
        self.asking = self.most_asking = 0
        self.answer = asyncio.Event()
        self.failure: Callable[[], Exception] = lambda: LoginRefused("no")

    async def __call__(self, limit: LoginLimit, login: Login, address: str = GUESSER) -> str:
        try:
            async with limit.attempt("backend", address, login):
                self.asked.append(login)
                self.asking += 1
                self.most_asking = max(self.asking, self.most_asking)
                try:
                    await self.answer.wait()
                finally:
                    self.asking -= 1
                if login != RIGHT:
                    raise self.failure()
        except (LoginRefused, LoginsLimited, Unreachable) as failure:
            return type(failure).__name__
        return "in"


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # Shorter than any pause, so that no test has to sit one out.
    monkeypatch.setattr(guessing, "PATIENCE_SECONDS", 0.9)


async def guesses(limit: LoginLimit, judge: Judge, count: int = 190, address: str = GUESSER) -> Counter[str]:
    judge.answer.set()
    return Counter(await asyncio.gather(*(judge(limit, wrong(number), address) for number in range(count))))


@pytest.mark.fault("C30")
async def test_a_crowd_of_wrong_passwords_is_a_few_at_the_judge(judge: Judge) -> None:
    assert await guesses(LoginLimit(), judge) == {"LoginRefused": FREE, "LoginsLimited": 190 - FREE}
    assert len(judge.asked) == FREE
    assert judge.most_asking <= 3


async def test_a_proven_password_passes_at_once(judge: Judge) -> None:
    limit = LoginLimit()
    judge.answer.set()
    assert await judge(limit, RIGHT) == "in"
    await guesses(limit, judge)
    assert await judge(limit, RIGHT) == "in"
    assert await judge(limit, RIGHT, HONEST) == "in"
    assert await judge(limit, wrong(999)) == "LoginsLimited"
    # It is proven to this judge only.
    with pytest.raises(LoginsLimited):
        async with limit.attempt("accounts", GUESSER, RIGHT):
            pass


async def test_a_right_password_from_elsewhere_is_judged_meanwhile(judge: Judge) -> None:
    limit = LoginLimit()
    await guesses(limit, judge)
    assert await judge(limit, RIGHT, HONEST) == "in"


async def test_many_devices_with_one_password_are_one_question(judge: Judge) -> None:
    limit = LoginLimit()
    devices = [asyncio.create_task(judge(limit, RIGHT)) for _ in range(50)]
    await until(lambda: judge.asking == 3)
    assert len(judge.asked) == 3
    judge.answer.set()
    assert set(await asyncio.gather(*devices)) == {"in"}


async def test_devices_behind_one_address_wait_for_their_turn() -> None:
    """As after a restart, when no password of theirs is proven yet."""
    limit = LoginLimit()
    trying = most = 0

    async def device(number: int) -> None:
        nonlocal trying, most
        async with limit.attempt("backend", GUESSER, Login(f"user {number}", Secret("right"))):
            trying += 1
            most = max(trying, most)
            await asyncio.sleep(0)
            trying -= 1

    await asyncio.gather(*map(device, range(100)))
    assert most == FREE


async def test_the_same_wrong_password_is_asked_about_once(judge: Judge) -> None:
    clock = Clock()
    limit = LoginLimit(clock)
    judge.answer.set()
    assert [await judge(limit, wrong()) for _ in range(50)] == ["LoginRefused"] * 50
    assert judge.asked == [wrong()]
    # It may have been made right at the judge.
    limit.forget_refused()
    await judge(limit, wrong())
    clock.now += 61
    await judge(limit, wrong())
    assert len(judge.asked) == 3


async def test_a_proven_password_that_is_refused_is_proven_no_longer(judge: Judge) -> None:
    clock = Clock()
    limit = LoginLimit(clock)
    judge.answer.set()
    assert await judge(limit, RIGHT) == "in"
    with pytest.raises(LoginRefused):
        async with limit.attempt("backend", GUESSER, RIGHT):
            raise LoginRefused("changed meanwhile")
    await guesses(limit, judge)
    limit.forget_refused()
    assert await judge(limit, RIGHT) == "LoginsLimited"


async def test_a_backend_that_is_down_is_no_wrong_password(judge: Judge) -> None:
    limit = LoginLimit()
    judge.failure = lambda: Unreachable("down")
    assert await guesses(limit, judge) == {"Unreachable": 190}
    assert not len(limit._failed)


async def test_who_leaves_before_the_verdict_has_guessed(judge: Judge) -> None:
    """Its question has been asked all the same, and a client that always hangs up would never be limited."""
    limit = LoginLimit()
    tasks = [asyncio.create_task(judge(limit, wrong(number, f"u{number}"))) for number in range(190)]
    await until(lambda: judge.asking == FREE)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    judge.answer.set()
    assert await judge(limit, RIGHT) == "LoginsLimited"
    assert await judge(limit, RIGHT, HONEST) == "in"


async def test_a_judge_that_hangs_stops_no_other_address(judge: Judge) -> None:
    limit = LoginLimit()
    tasks = [asyncio.create_task(judge(limit, wrong(number, f"u{number}"))) for number in range(190)]
    await until(lambda: judge.asking == FREE)
    quick = Judge()
    quick.answer.set()
    assert await quick(limit, RIGHT, HONEST) == "in"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_the_log_has_a_line_for_an_attack_and_not_for_each_try(
    judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    limit = LoginLimit(clock)
    caplog.set_level("INFO")
    judge.answer.set()
    await judge(limit, RIGHT, HONEST)
    assert caplog.messages == []
    # The clock stands still, so nobody's patience ends by itself.
    await guesses(limit, judge)
    await guesses(limit, judge)
    assert caplog.messages == ["password guessing"]
    clock.now += 301
    await judge(limit, RIGHT, HONEST)
    assert caplog.messages == ["password guessing", "password guessing ended"]
    facts = vars(caplog.records[-1])["facts"]
    assert facts["client"] == GUESSER
    assert (facts["failed"], facts["not_tried"]) == (1, 2 * 190 - 2 * FREE)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


# In their places


async def test_a_maildrop_is_opened_as_before_and_what_happens_in_it_is_no_guess() -> None:
    inner = MemoryMaildrop({"a": b"x\r\n"})
    maildrop: Maildrop = LimitedMaildrop(inner, limit := LoginLimit())
    client = Client(HONEST, "s1")

    async def use() -> None:
        async with maildrop.open(client, RIGHT) as session:
            assert [entry.unique_id for entry in session.entries] == ["a"]
            raise LoginRefused("said by what is done in it")

    for _ in range(FREE + 1):
        with pytest.raises(LoginRefused):
            await use()
    assert limit._failed._sources[HONEST].level(0.0) == 0
    assert (inner.entered, inner.left) == (FREE + 1, FREE + 1)
    assert await maildrop.probe() == ()
    async with maildrop.open(client, None):
        assert inner.logins[-1] is None


async def test_both_legs_have_one_limit_and_a_reload_keeps_it() -> None:
    limit = LoginLimit()

    def composed(password: str) -> Composition:
        users = Users({"ann": PasswordHash.of(password)}, limit)
        maildrop = LimitedMaildrop(MemoryMaildrop(fail_open=[LoginRefused("no")] * 2), limit)
        return Composition(read({}), maildrop, MemoryRelay(), users=users, logins=limit)

    current = Current(composed("old"), lambda _: None)
    for number in range(FREE - 2):
        with pytest.raises(LoginRefused):
            await current.prove(wrong(number), GUESSER)
    current.replace(composed("right"))
    for number in range(2):
        with pytest.raises(LoginRefused):
            async with CurrentMaildrop(current).open(Client(GUESSER, "s1"), wrong(number)):
                pass
    with pytest.raises(LoginsLimited):
        await current.prove(RIGHT, GUESSER)
    await current.prove(RIGHT, HONEST)
    # Proven, so no longer a guess from anywhere.
    await current.prove(RIGHT, GUESSER)


async def test_a_reload_asks_again_about_a_password_that_was_refused() -> None:
    limit = LoginLimit()
    first = Composition(read({}), None, MemoryRelay(), users=Users({}, limit), logins=limit)
    current = Current(first, lambda _: None)
    with pytest.raises(LoginRefused):
        await current.prove(RIGHT, HONEST)
    current.replace(replace(first, users=Users({"ann": PasswordHash.of("right")}, limit)))
    await current.prove(RIGHT, HONEST)
