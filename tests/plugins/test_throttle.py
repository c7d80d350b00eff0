"""A server that asks for patience gets it, per account, and devices are not kept waiting for long."""

from __future__ import annotations

import asyncio
import time

import pytest

from fakes.imap import Action, Connection, Mailbox, Simple
from fakes.server import Step
from imap.support import CLIENT, login, pair, read
from legacy_email_proxy.contracts import MessageUnavailable, Overloaded
from legacy_email_proxy_plugins.backoff import Throttle
from legacy_email_proxy_plugins.imap.response_codes import Busy
from realservers.certificates import Certificates

ONE = b"Subject: one\r\n\r\nfirst\r\n"
SUGGESTED = "Request is throttled. Suggested Backoff Time: 299961 milliseconds"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(throttle: Throttle, text: str) -> bool:
    busy = Busy(text)
    return throttle.told(busy.suggested_seconds, throttled=busy.throttled)


PAUSES = [
    ("[THROTTLED] slow down", [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 16, 16], 7),
    ("[UNAVAILABLE] later", [0.05, 0.1, 0.2], 0),
    ("Request is throttled. Suggested Backoff Time: 500 milliseconds", [0.5, 0.5, 0.5, 0.5, 0.8], 5),
    (SUGGESTED, [299.961, 299.961], 0),
    ("Suggested Backoff Time: 999999999 milliseconds", [300, 300], 0),
    ("User is authenticated but not connected.", [16, 16], 0),
]


@pytest.mark.parametrize(("text", "pauses", "worth_waiting"), PAUSES)
def test_how_long_it_waits(text: str, pauses: list[float], worth_waiting: int) -> None:
    clock = Clock()
    throttle = Throttle(clock)
    worth = 0
    for pause in pauses:
        worth += told(throttle, text)
        assert throttle.left == pytest.approx(pause)
        clock.now += pause
        assert throttle.left == pytest.approx(0)
        clock.now += 0.001
    assert worth == worth_waiting
    throttle.went_well()
    told(throttle, "[THROTTLED]")
    assert throttle.left == pytest.approx(0.05), "after success the next pause is short again"


async def test_a_short_pause_is_waited_for_and_a_long_one_is_not() -> None:
    throttle = Throttle()
    told(throttle, "[THROTTLED]")
    started = time.monotonic()
    await throttle.wait()
    assert time.monotonic() - started >= 0.04
    told(throttle, SUGGESTED)
    started = time.monotonic()
    with pytest.raises(Overloaded, match="300 s"):
        await throttle.wait()
    assert time.monotonic() - started < 1


@pytest.mark.quirk("imap-B17")
@pytest.mark.parametrize("step", ["PLAIN", "SELECT", "LISTING", "BODY", "STORE", "EXPUNGE"])
async def test_a_throttled_command_is_given_again(certificates: Certificates, step: str) -> None:
    script: dict[tuple[str, int], Action] = {(step, n): "NO [THROTTLED] slow down" for n in (1, 2)}
    async with pair(certificates.good, ONE, b"two", script=script) as (maildrop, server):  # type: ignore[arg-type]
        started = time.monotonic()
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == ONE
            await session.commit([session.entries[0].unique_id])
        assert time.monotonic() - started >= 0.05 + 0.1
        assert server.times(step) == (4 if step == "SELECT" else 3), "QUIT selects once more"
        ((mailbox,),) = [list(server.accounts.values())]
        assert list(mailbox.messages) == [2]


@pytest.mark.quirk("imap-B22")
async def test_throttling_is_no_fault_of_the_message(certificates: Certificates) -> None:
    for answer, kind in (
        ("NO [UNAVAILABLE] later", Busy),
        (f"NO {SUGGESTED}", Busy),
        ("NO [SERVERBUG] Internal error. Please try again later", MessageUnavailable),
    ):
        async with pair(certificates.good, ONE, script={"BODY": answer}) as (maildrop, _):
            async with maildrop.open(CLIENT, None) as session:
                with pytest.raises(kind):
                    await read(session, 0)


@pytest.mark.quirk("imap-B11")
async def test_a_suggested_time_is_honoured_by_all_sessions_of_the_account(certificates: Certificates) -> None:
    accounts = {("a", "x"): Mailbox.of(ONE), ("b", "x"): Mailbox.of(ONE)}

    def throttled(connection: Connection, _: str) -> Action:
        return f"NO {SUGGESTED}" if connection.user == "a" else None

    async with pair(
        certificates.good, accounts=accounts, script={"SELECT": throttled}, POP3_LOGIN="backend"  # type: ignore[dict-item]
    ) as (maildrop, server):  # fmt: skip
        with pytest.raises(Busy):
            async with maildrop.open(CLIENT, login("a", "x")):
                pass
        asked = len(server.connections)
        for _ in range(3):
            with pytest.raises(Overloaded, match="left alone"):
                async with maildrop.open(CLIENT, login("a", "x")):
                    pass
        assert len(server.connections) == asked, "the server is left alone"
        for _ in range(3):
            async with maildrop.open(CLIENT, login("b", "x")) as session:
                assert await read(session, 0) == ONE


async def test_a_strangers_wrong_password_does_not_keep_the_owner_waiting(certificates: Certificates) -> None:
    def judged(_: Connection, command: str) -> Simple:
        return "NO User is authenticated but not connected." if "wrong" in command else f"NO {SUGGESTED}"

    accounts = {("owner", "right"): Mailbox.of(ONE)}
    script: dict[Step, Action] = {("LOGIN", 1): judged, ("LOGIN", 3): judged}
    async with pair(
        certificates.good, accounts=accounts, script=script, capabilities=("UIDPLUS",), POP3_LOGIN="backend"
    ) as (maildrop, _):
        for stranger in ("wrong", "guessed"):
            with pytest.raises(Busy):
                async with maildrop.open(CLIENT, login("owner", stranger)):
                    pass
            async with maildrop.open(CLIENT, login("owner", "right")) as session:
                assert await read(session, 0) == ONE
            with pytest.raises(Overloaded, match="left alone"):
                async with maildrop.open(CLIENT, login("owner", stranger)):
                    pass


async def test_nobodys_pause_is_kept_for_ever(certificates: Certificates) -> None:
    async with pair(
        certificates.good, ONE, script={"PLAIN": "NO [UNAVAILABLE] later"}, POP3_LOGIN="backend"
    ) as (maildrop, _):  # fmt: skip
        for number in range(30):
            with pytest.raises(Busy):
                async with maildrop.open(CLIENT, login(f"user {number}", "x")):
                    pass
        await asyncio.sleep(0.1)
        with pytest.raises(Busy):
            async with maildrop.open(CLIENT, login("last", "x")):
                pass
        assert len(maildrop._accounts._throttles) < 5


async def test_a_device_is_not_kept_waiting_for_long(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Throttle, "PATIENCE_SECONDS", 0.3)
    async with pair(certificates.good, ONE, script={"SELECT": "NO [THROTTLED] slow down"}) as (maildrop, server):
        with pytest.raises(Busy):
            async with maildrop.open(CLIENT, None):
                pass
        assert server.times("SELECT") == 4, "after 50, 100 and 200 ms"


async def test_what_something_came_of_is_not_done_again(certificates: Certificates) -> None:
    def read_and_fail(_: object) -> None:
        done.append("once")
        raise Busy("[THROTTLED]")

    done: list[str] = []
    async with pair(certificates.good, ONE) as (maildrop, _):
        with maildrop._accounts.pool(login(), clients_own=False) as pool, pytest.raises(Busy):
            await pool.exchange(read_and_fail, untouched=lambda: not done)
    assert done == ["once"]
