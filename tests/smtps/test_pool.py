"""Connections: used again while they are clean, replaced once and unnoticed when they died idle, never too many."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from fakes.server import Step
from fakes.smtp import Action, Connection, Drop, Encryption, Hang, Reset, Say
from legacy_email_proxy.contracts import Disconnected, Overloaded, Recipient, Refused
from legacy_email_proxy_plugins.backoff import RepeatedReplies
from legacy_email_proxy_plugins.smtps import Limits, Timeouts
from legacy_email_proxy_plugins.smtps import pool as pool_module
from realservers.certificates import Certificates
from smtps.support import CLIENT, CONTENT, SENDER, SHORT, Dialogue, deliver, pieces, relaying

LOGIN = ["EHLO", "AUTH"]
MESSAGE = ["MAIL", "RCPT", "DATA", "."]


async def test_one_connection_carries_many_messages(certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        for _ in range(3):
            await deliver(relay)
        assert server.verbs == LOGIN + MESSAGE * 3
        assert len(server.connections) == 1
    assert server.verbs[-1] == "QUIT"


async def test_an_abandoned_transaction_is_reset_and_the_connection_used_again(certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipient("r1@example.test", {})
        with suppress(LookupError):
            async with relay.transaction(CLIENT, SENDER, {}):
                raise LookupError
        await deliver(relay)
        assert server.verbs == [*LOGIN, "MAIL", "RCPT", "RSET", "MAIL", "RSET", *MESSAGE]
        assert len(server.messages[0].rcpt) == 1


@pytest.mark.parametrize("action", ["500 5.5.1 what?", "421 4.3.2 no", Drop(), Hang()])
async def test_a_connection_that_can_not_be_reset_is_not_used_again(action: Action, certificates: Certificates) -> None:
    script: dict[Step, Action] = {("RCPT", 1): "550 5.1.1 no", "RSET": action}
    async with relaying(certificates.good, script, timeouts=replace(Timeouts(), rset=SHORT)) as (server, relay):
        with pytest.raises(Refused):
            await deliver(relay)
        await deliver(relay)
        assert [len(connection.verbs) for connection in server.connections] == [5, 6]


@pytest.mark.fault("B22")
@pytest.mark.parametrize(
    "action",
    [
        Drop(),
        Reset(),
        "421 4.4.2 idle for too long",
        Drop(b"421 4.4.2 idle for too long\r\n"),
        Drop(b"42"),
        b"what?\r\n",
    ],
)
async def test_dead_at_mail_it_is_replaced_once_and_unnoticed(action: Action, certificates: Certificates) -> None:
    async with relaying(certificates.good, {("MAIL", 2): action}) as (server, relay):
        await deliver(relay)
        await deliver(relay)
        assert [connection.verbs for connection in server.connections] == [
            [*LOGIN, *MESSAGE, "MAIL"],
            [*LOGIN, *MESSAGE],
        ]
        assert len(server.messages) == 2


async def test_there_is_no_second_replacement(certificates: Certificates) -> None:
    async with relaying(certificates.good, {("MAIL", 2): Drop(), ("MAIL", 3): Drop()}) as (server, relay):
        await deliver(relay)
        with pytest.raises(Disconnected):
            await deliver(relay)
        assert server.verbs.count("MAIL") == 3
        assert len(server.connections) == 2


async def test_a_new_connection_that_dies_at_mail_is_not_replaced(certificates: Certificates) -> None:
    async with relaying(certificates.good, {("MAIL", 1): Drop()}) as (server, relay):
        with pytest.raises(Disconnected):
            await deliver(relay)
        assert len(server.connections) == 1


async def test_silence_at_mail_is_not_waited_for_twice(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("MAIL", 2): Hang()}
    async with relaying(certificates.good, script, timeouts=replace(Timeouts(), mail=SHORT)) as (server, relay):
        await deliver(relay)
        with pytest.raises(Disconnected, match="no whole reply"):
            await deliver(relay)
        assert len(server.connections) == 1


@pytest.mark.fault("B22")
@pytest.mark.parametrize("step", ["RCPT", "DATA", "."])
async def test_later_than_mail_nothing_is_tried_again(step: str, certificates: Certificates) -> None:
    async with relaying(certificates.good, {(step, 2): Drop()}) as (server, relay):
        await deliver(relay)
        with pytest.raises(Disconnected):
            await deliver(relay)
        assert server.verbs.count("MAIL") == 2
        assert len(server.messages) == 1


@pytest.mark.quirk("aiosmtplib-5")
@pytest.mark.parametrize("last", [b"", b"421 4.4.2 idle for too long\r\n"])
async def test_what_the_backend_closed_while_idle_is_not_used(last: bytes, certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        await deliver(relay)
        server.hang_up(1, last)
        await server.until(lambda server: server.connections[0].ended)
        await asyncio.sleep(0.05)
        await deliver(relay)
        assert [connection.verbs for connection in server.connections] == [LOGIN + MESSAGE] * 2


async def test_of_two_idle_connections_the_living_one_is_used(certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}):
            await deliver(relay)
        assert len(server.connections) == 2
        server.hang_up(1)  # it came back last, and would be used first
        await server.until(lambda server: server.connections[0].ended)
        await asyncio.sleep(0.05)
        await deliver(relay)
        assert len(server.connections) == 2


@pytest.mark.parametrize(
    ("limits", "connections"),
    [(Limits(transactions=2), 2), (Limits(age_seconds=0), 3), (Limits(), 1)],
)
async def test_a_connection_is_used_so_often_and_so_long(
    limits: Limits, connections: int, certificates: Certificates
) -> None:
    async with relaying(certificates.good, limits=limits) as (server, relay):
        for _ in range(3):
            await deliver(relay)
        assert len(server.connections) == connections
        await server.until(lambda server: server.verbs.count("QUIT") >= connections - 1)


async def test_an_idle_connection_says_quit_by_itself(certificates: Certificates) -> None:
    async with relaying(certificates.good, limits=Limits(idle_seconds=0.05)) as (server, relay):
        await deliver(relay)
        await server.until(lambda server: server.connections[0].ended)
        assert server.verbs[-1] == "QUIT"


@pytest.mark.quirk("aiosmtplib-7")
@pytest.mark.fault("B21")
@pytest.mark.parametrize("action", ["221 2.0.0 bye", "500 5.5.1 what?", Drop(), Reset(), Hang(), b"\xff" * 1000])
async def test_whatever_quit_is_answered_with_the_end_is_bounded(action: Action, certificates: Certificates) -> None:
    async with relaying(certificates.good, {"QUIT": action}, timeouts=replace(Timeouts(), quit=SHORT)) as (
        server,
        relay,
    ):
        await deliver(relay)
        async with asyncio.timeout(SHORT + 3):
            await relay.aclose()
        assert len(server.messages) == 1


async def test_never_more_connections_than_allowed(certificates: Certificates) -> None:
    script: dict[Step, Action] = {".": Say("250 2.0.0 OK", 0.02)}
    async with relaying(certificates.good, script, BACKEND_SMTP_MAX_CONNECTIONS=3) as (server, relay):
        await asyncio.gather(*(deliver(relay, client=replace(CLIENT, address=f"{n % 6}")) for n in range(12)))
        assert len(server.messages) == 12
        assert len(server.connections) == 3


async def test_who_waits_too_long_for_a_connection_is_told(certificates: Certificates) -> None:
    timeouts = replace(Timeouts(), slot=SHORT)
    async with relaying(certificates.good, timeouts=timeouts, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            with pytest.raises(Overloaded) as overloaded:
                await deliver(relay)
            assert overloaded.value.look_at == "BACKEND_SMTP_MAX_CONNECTIONS"
            await transaction.add_recipient("r1@example.test", {})
            await transaction.send(pieces(CONTENT))
        await deliver(relay)
        assert len(server.messages) == 2
        assert len(server.connections) == 1


async def test_who_stops_waiting_takes_no_slot(certificates: Certificates) -> None:
    async with relaying(certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}):
            waiting = [asyncio.create_task(deliver(relay)) for _ in range(5)]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await deliver(relay)
        assert len(server.messages) == 1


async def test_a_failed_connection_frees_its_slot(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("GREETING", 1): "421 4.3.2 busy", ("EHLO", 1): Drop(), ("AUTH", 1): "454 4.7.0 no"}
    async with relaying(certificates.good, script, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        for kind in (Overloaded, Disconnected, Overloaded):
            with pytest.raises(kind):
                await deliver(relay)
        await deliver(relay)
        assert len(server.messages) == 1


async def test_closing_ends_what_is_lent_and_lends_no_more(certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipient("r1@example.test", {})
            async with asyncio.timeout(3):
                await relay.aclose()
            with pytest.raises(Disconnected, match="while sending DATA"):
                await transaction.send(pieces(CONTENT))
        with pytest.raises(Overloaded, match="shutting down"):
            await deliver(relay)
        assert not server.messages


async def test_a_stuck_transaction_stops_no_other(certificates: Certificates) -> None:
    async with relaying(certificates.good, {("RCPT", 1): Hang()}) as (server, relay):
        stuck = asyncio.create_task(deliver(relay))
        await server.until(lambda server: "RCPT" in server.steps)
        async with asyncio.timeout(3):
            await deliver(relay)
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)


@pytest.mark.parametrize("step", ["GREETING", "AUTH"])
async def test_at_the_end_a_connection_that_is_being_made_is_ended_too(step: str, certificates: Certificates) -> None:
    async with relaying(certificates.good, {step: Hang()}) as (server, relay):
        task = asyncio.create_task(deliver(relay))
        await server.until(lambda server: step in server.steps)
        await relay.aclose()
        await asyncio.sleep(0)
        await relay.aclose()
        with pytest.raises(Overloaded, match="shutting down"):
            await task
        assert len(server.connections) == 1


async def test_at_the_end_nothing_begins_again(certificates: Certificates) -> None:
    async with relaying(certificates.good, {("MAIL", 2): Hang()}) as (server, relay):
        await deliver(relay)
        task = asyncio.create_task(deliver(relay))
        await server.until(lambda server: server.steps.count("MAIL") == 2)
        await relay.aclose()
        with pytest.raises(Overloaded, match="shutting down"):
            await task
        assert len(server.connections) == 1
        assert len(server.messages) == 1


# A connection that the backend is tired of.


@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
async def test_what_is_put_off_on_one_connection_is_asked_for_on_another_at_once(
    step: str, dialogue: Dialogue, certificates: Certificates
) -> None:
    """OpenSMTPD takes so many messages on one connection, postscreen wants to see a client come back."""
    asked: Counter[int] = Counter()

    def tired(connection: Connection, _: str) -> str | None:
        asked[connection.number] += 1
        return "452 4.5.3 Too many messages sent" if asked[connection.number] > 2 else None

    async with relaying(certificates.good, {step: tired}, dialogue=dialogue) as (server, relay):
        for _ in range(7):
            await deliver(relay, dialogue=dialogue)
        assert len(server.messages) == 7
        assert [connection.verbs.count("MAIL") for connection in server.connections] == [3, 3, 3, 1]
        await server.until(lambda server: server.connections[0].ended)
        assert server.connections[0].verbs[-1] == "QUIT"


async def test_postscreen_lets_who_comes_back_in(dialogue: Dialogue, certificates: Certificates) -> None:
    def first_is_tested(connection: Connection, _: str) -> str | None:
        return "450 4.3.2 Service currently unavailable" if connection.number == 1 else None

    async with relaying(certificates.good, {"RCPT": first_is_tested}, dialogue=dialogue) as (server, relay):
        for _ in range(2):
            await deliver(relay, "r1@example.test", "r2@example.test", dialogue=dialogue)
        assert [len(message.rcpt) for message in server.messages] == [2, 2]
        assert len(server.connections) == 2


@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
async def test_who_is_put_off_twice_is_told_and_neither_connection_serves_again(
    step: str, dialogue: Dialogue, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {(step, 1): "450 4.7.1 one", (step, 2): "450 4.7.1 two"}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        with pytest.raises(Refused) as refused:
            await deliver(relay, dialogue=dialogue)
        assert refused.value.text == "two"
        await deliver(relay, dialogue=dialogue)
        assert [connection.verbs.count("MAIL") for connection in server.connections] == [1, 1, 1]


async def test_what_every_connection_says_is_asked_for_once_a_minute(
    dialogue: Dialogue, certificates: Certificates
) -> None:
    def greylisted(_: Connection, line: str) -> str:
        return f"450 4.2.0 {line[8:]}: Recipient address rejected: Greylisted, see http://x.test/{len(line)}"

    async with relaying(certificates.good, {"RCPT": greylisted}, dialogue=dialogue) as (server, relay):
        for number in range(8, 12):
            with pytest.raises(Refused):
                await deliver(relay, f"r{number}@example.test", dialogue=dialogue)
        assert len(server.connections) == 2
        relay._repeated._until.clear()  # as if a minute had passed
        with pytest.raises(Refused):
            await deliver(relay, dialogue=dialogue)
        assert len(server.connections) == 3
        del server.script["RCPT"]
        await deliver(relay, dialogue=dialogue)


def test_what_is_known_of_a_backends_words_is_bounded() -> None:
    now = 0.0
    repeated = RepeatedReplies(lambda: now)
    words = "".join(chr(ord("a") + number) for number in range(26))
    replies = [(450, f"{one}{two}") for one in words for two in words]
    for reply in replies:
        repeated.compare(reply, reply)
    assert sum(repeated.knows(*reply) for reply in replies) == 64
    assert repeated.knows(*replies[-1])
    now += 61
    assert not repeated.knows(*replies[-1])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Google ends each answer with an identifier of letters and digits.
        ("rate limited d2e1a72fcca58-77283a1b9c4si1053b3a.12 - gsmtp", "rate limited 5b1f17b-39d5ea2b.7 - gsmtp"),
        ("<a@example.test>: Greylisted, 4Zb2Yq1x", "<bob@example.test>: Greylisted, 7KcQw9"),
        ("Greylisted, see http://x.test/help/a1b2.html?r=x.test", "Greylisted, see http://x.test/help/c3d4.html?r=z"),
    ],
)
def test_words_are_the_same_whatever_they_name(first: str, second: str) -> None:
    repeated = RepeatedReplies(lambda: 0.0)
    repeated.compare((450, first), (450, second))
    assert repeated.knows(450, first)


@pytest.mark.parametrize(("greeting", "kind"), [("554 no", "554"), ("421 4.3.2 no", "421"), (Drop(), "closed")])
async def test_where_there_is_no_other_connection_what_was_said_first_stands(
    greeting: Action, kind: str, dialogue: Dialogue, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    script: dict[Step, Action] = {("RCPT", 1): "450 4.7.1 one", ("GREETING", 2): greeting}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        with pytest.raises(Refused) as refused:
            await deliver(relay, dialogue=dialogue)
        assert refused.value.text == "one"
        assert kind in caplog.text
        await deliver(relay, dialogue=dialogue)
        assert len(server.messages) == 1


async def test_what_is_taken_or_refused_for_good_is_not_asked_for_elsewhere(
    dialogue: Dialogue, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {("RCPT", 1): "450 x", ("RCPT", 2): "550 x", ("RCPT", 5): "450 x"}
    if not dialogue.together:
        del script[("RCPT", 1)]
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            recipients = [Recipient(f"r{number}@example.test") for number in range(3)]
            await transaction.add_recipients(recipients, content_follows=dialogue.together)
            await transaction.send(pieces(CONTENT))
        await deliver(relay, "r4@example.test", "r5@example.test", dialogue=dialogue)
        assert len(server.messages) == 2
        assert len(server.connections) == 1


# A backend that takes fewer connections than the pool has.


TOO_MANY = Drop(b"421 4.7.0 too many connections\r\n")


def at_most(server_connections: int, last: Drop = TOO_MANY) -> Callable[[Connection, str], Drop | None]:
    working: set[int] = set()

    def judge(connection: Connection, _: str) -> Drop | None:
        if len(working) >= server_connections and id(connection) not in working:
            return last
        working.add(id(connection))
        return None

    return judge


@pytest.mark.parametrize("encryption", ["implicit", "starttls", "none"])
@pytest.mark.parametrize("step", ["TLS", "GREETING", "AUTH"])
@pytest.mark.parametrize("last", [TOO_MANY, Drop(b"454 4.7.0 later\r\n"), Drop()], ids=["421", "454", "hang-up"])
async def test_the_pool_learns_how_many_connections_the_backend_takes(
    last: Drop, step: str, encryption: Encryption, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    if step == "TLS" and encryption != "implicit":
        pytest.skip("only there something can be said before TLS")
    if step == "AUTH" and not last.last:
        pytest.skip("that may be about the password")
    # Exim says its 421 in the clear on the port for TLS, others say it in the greeting.
    script: dict[Step, Action] = {step: at_most(2, last), ".": Say("250 2.0.0 OK", 0.02)}
    async with relaying(certificates.good, script, encryption=encryption) as (server, relay):
        clients = [replace(CLIENT, address=f"10.0.0.{number}") for number in range(18)]
        await asyncio.gather(*(deliver(relay, client=client) for client in clients))
        assert len(server.messages) == 18
        assert sum("MAIL" in connection.verbs for connection in server.connections) == 2
        assert caplog.text.count("takes fewer connections") == 1
        assert "certificate" not in caplog.text
        refused = len(server.connections) - 2
        await asyncio.gather(*(deliver(relay, client=client) for client in clients))
        assert len(server.connections) - 2 == refused, "it is remembered"


async def test_who_hangs_up_at_the_login_is_not_asked_again(certificates: Certificates) -> None:
    async with relaying(certificates.good, {"AUTH": Drop()}) as (server, relay):
        clients = [replace(CLIENT, address=f"10.0.0.{number}") for number in range(6)]
        told = await asyncio.gather(*(deliver(relay, client=each) for each in clients), return_exceptions=True)
        assert {type(each) for each in told} == {Disconnected}
        assert server.verbs.count("AUTH") == 6


async def test_the_pool_tries_one_more_after_a_while(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_NEXT_SECONDS", 0.0)
    crowded = at_most(2)
    script: dict[Step, Action] = {"GREETING": lambda *given: crowded(*given), ".": Say("250 2.0.0 OK", 0.02)}
    async with relaying(certificates.good, script) as (server, relay):
        clients = [replace(CLIENT, address=f"10.0.0.{number}") for number in range(18)]
        await asyncio.gather(*(deliver(relay, client=client) for client in clients))
        crowded = at_most(100)
        relay._pool._one_more_at = 0.0  # as if a minute had passed
        for _ in range(3):
            await asyncio.gather(*(deliver(relay, client=client) for client in clients))
        assert len(server.messages) == 4 * 18
        assert sum("MAIL" in connection.verbs for connection in server.connections) >= 3
        assert relay._pool._places.most > 3


async def test_a_backend_that_takes_nobody_says_so_to_everybody(certificates: Certificates) -> None:
    async with relaying(certificates.good, {"GREETING": Drop(b"421 4.3.2 closed\r\n")}) as (server, relay):
        clients = [replace(CLIENT, address=f"10.0.0.{number}") for number in range(18)]
        async with asyncio.timeout(10):
            told = await asyncio.gather(*(deliver(relay, client=each) for each in clients), return_exceptions=True)
        assert {type(each) for each in told} == {Overloaded}
        assert {str(each).partition("greets with ")[2][:20] for each in told} == {"421 4.3.2 closed"}
        assert len(server.connections) <= 3 * 18
        del server.script["GREETING"]
        server.script["."] = Say("250 2.0.0 OK", 0.02)
        before = len(server.connections)
        await asyncio.gather(*(deliver(relay, client=client) for client in clients))
        assert len(server.connections) == before + 10, "nothing was learnt of how many it takes"


async def test_a_dead_idle_connection_at_a_full_backend_waits_for_one_that_works(certificates: Certificates) -> None:
    script: dict[Step, Action] = {".": Say("250 2.0.0 OK", 0.1)}
    async with relaying(certificates.good, script) as (server, relay):
        await asyncio.gather(deliver(relay), deliver(relay))
        server.script["GREETING"] = Drop(b"421 4.7.0 too many connections\r\n")
        server.script[("MAIL", 3)] = Drop()
        await asyncio.gather(deliver(relay), deliver(relay))
        assert len(server.messages) == 4


async def test_one_that_says_quit_still_counts(certificates: Certificates) -> None:
    def one_at_a_time(_: Connection, __: str) -> Drop | None:
        return TOO_MANY if server.open_connections > 1 else None

    script: dict[Step, Action] = {"GREETING": one_at_a_time, "QUIT": Say("221 2.0.0 bye", 0.1)}
    limits = Limits(transactions=1)
    async with relaying(certificates.good, script, limits=limits, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        for _ in range(3):
            await deliver(relay)
        assert len(server.connections) == 3
