"""What the history keeps of each event, and how the life of a message in the spool becomes one entry."""

from __future__ import annotations

import logging
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from history.support import (
    ANN,
    BOB,
    CLIENT,
    NOON,
    SENDER,
    SESSION,
    devices_of,
    entries,
    event,
    relayed,
    spooled,
    written,
)
from legacy_email_proxy.history.database import open_to_read, open_to_write
from legacy_email_proxy.history.events import _IN_WORDS, WORDS, State, Writing
from legacy_email_proxy.history.facts import Event
from legacy_email_proxy.history.queries import hours
from pages import ROOT, rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def told(path: Path, *events: Event) -> list[dict[str, Any]]:
    written(path, events)
    return entries(path)


def fates(entry: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["address"]: (each["state"], each["said"]) for each in entry["recipients"]}


def test_a_message_that_was_relayed(path: Path) -> None:
    (entry,) = told(path, relayed(NOON, ANN, BOB, account="office"))
    assert entry == {
        "id": 1, "kind": "message", "leg": "smtp", "time": NOON, "state": "relayed", "trouble": 0, "client": CLIENT,
        "session": SESSION, "account": "office", "sender": SENDER, "octets": 1000, "backend": "250 2.0.0 Ok: queued",
        "settled": NOON, "times": 1,
        "recipients": [
            {"address": each, "state": "relayed", "said": "250 2.0.0 Ok: queued", "time": NOON} for each in (ANN, BOB)
        ],
    }  # fmt: skip
    (device,) = devices_of(path)
    assert (device["messages"], device["octets"], device["success"]) == (1, 1000, NOON)
    assert "trouble" not in device


def test_a_message_that_was_refused(path: Path) -> None:
    refused = event(
        "message refused", sender="", recipients=[ANN], octets=9, cause="the backend said 552",
        reply="552 5.3.4 Too big", advice="lower the scan's resolution",
    )  # fmt: skip
    (entry,) = told(path, refused)
    assert (entry["state"], entry["trouble"], entry["sender"], entry["advice"]) == (
        *("refused", 1, "", "lower the scan's resolution"),
    )
    assert (entry["cause"], entry["reply"]) == ("the backend said 552", "552 5.3.4 Too big")
    assert fates(entry) == {ANN: ("refused", "the backend said 552")}
    (device,) = devices_of(path)
    assert device["trouble_text"] == "its message was refused: the backend said 552"
    assert device["advice"] == "lower the scan's resolution"
    assert "success" not in device


def of_the_spool(words: str, minutes: int = 1, **facts: Any) -> Event:
    return event(words, NOON + 60 * minutes, message=12, sender=SENDER, **facts)


def test_no_batch_reads_all_that_was_written_before(path: Path) -> None:
    asked: list[str] = []
    batch = [
        relayed(),
        of_the_spool("message delivered", backend="250 ok"),
        event("smtp command refused", command="VRFY", reply="502 no"),
        pop3_ended(retrieved=1),
        event("figures", spool=(1, 2.0, 3.0)),
    ]
    with closing(open_to_write(path)) as connection:
        writing = Writing(connection)
        writing.write([spooled()])
        connection.set_trace_callback(asked.append)
        writing.write(batch)
        connection.set_trace_callback(None)
        questions = [each for each in asked if each not in ("BEGIN IMMEDIATE", "COMMIT")]
        plans = {each: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {each}")] for each in questions}
    assert re.search("SEARCH (TABLE )?recipients", str(plans.values()))
    # What it reads whole are the rows that a statement itself brings.
    whole = {each: plan for each, plan in plans.items() if re.search(r"SCAN (?!\d+(-ROW)? |CONSTANT)", str(plan))}
    assert not whole


def test_what_becomes_of_one_of_many_recipients_changes_few_rows(path: Path) -> None:
    many = [f"{number}@example.test" for number in range(100)]
    with closing(open_to_write(path)) as connection:
        writing = Writing(connection)
        writing.write([spooled(*many)])
        before = connection.total_changes
        writing.write([of_the_spool("message delivered", recipients=[many[3]], backend="250 ok")])
        assert connection.total_changes - before < 10
    (entry,) = entries(path)
    assert [name for name, (state, _) in fates(entry).items() if state == "delivered"] == [many[3]]


def test_a_message_in_the_spool_is_one_entry_from_its_arrival_to_the_last_recipient(path: Path) -> None:
    written(path, [spooled(ANN, BOB)])
    (entry,) = entries(path)
    assert (entry["state"], entry["trouble"], entry.get("settled")) == ("spooled", 0, None)
    written(path, [of_the_spool("message not delivered", 1, cause="nobody answers", recipients=[ANN, BOB])])
    (entry,) = entries(path)
    assert (entry["state"], entry["trouble"], entry["cause"]) == ("delayed", 1, "nobody answers")
    written(path, [of_the_spool("message delivered", 2, recipients=[ANN], backend="250 ok")])
    (entry,) = entries(path)
    assert entry["state"] == "delayed"
    assert fates(entry) == {ANN: ("delivered", "250 ok"), BOB: ("delayed", "nobody answers")}
    written(path, [of_the_spool("message delivered", 3, recipients=[BOB], backend="250 at last")])
    (entry,) = entries(path)
    assert (entry["state"], entry["trouble"], entry["settled"]) == ("delivered", 0, NOON + 180)
    assert (entry["backend"], entry["time"]) == ("250 at last", NOON)
    assert fates(entry)[BOB] == ("delivered", "250 at last")


def test_one_recipient_is_refused_by_the_provider_and_one_gets_it(path: Path) -> None:
    no_user = "550 5.1.1 no such user"
    (entry,) = told(
        path,
        spooled(ANN, BOB),
        of_the_spool("message delivered", recipients=[ANN], backend="250 ok"),
        of_the_spool("recipients refused", recipients=[BOB], cause=no_user),
        of_the_spool("recipient failed for good, the sender is notified", recipient=BOB, reply=no_user),
    )
    assert (entry["state"], entry["trouble"], entry["settled"]) == ("partly failed", 1, NOON + 60)
    assert fates(entry) == {ANN: ("delivered", "250 ok"), BOB: ("failed", no_user)}
    assert devices_of(path)[0]["trouble_text"] == f"its message was not delivered: {no_user}"


def test_a_message_that_nobody_gets_has_failed(path: Path) -> None:
    (entry,) = told(path, spooled(), of_the_spool("recipients refused", recipients=[ANN], cause="550 no"))
    assert (entry["state"], entry["trouble"]) == ("failed", 1)


def test_refused_recipients_without_names_change_nothing(path: Path) -> None:
    (entry,) = told(path, spooled(ANN, BOB), of_the_spool("recipients refused", cause="550 no"))
    assert entry["state"] == "spooled"


def test_delivered_before_the_session_said_that_it_is_spooled(path: Path) -> None:
    (entry,) = told(
        path, of_the_spool("message delivered", 0, recipients=[ANN], backend="250 ok", client=""), spooled()
    )
    assert (entry["state"], entry["client"], entry["octets"]) == ("delivered", CLIENT, 1000)
    assert devices_of(path)[0]["messages"] == 1


def test_numbers_of_another_spool_are_not_mixed_up(path: Path) -> None:
    one, other = told(
        path,
        spooled(),
        spooled(session="other-1", account="other"),
        of_the_spool("message delivered", recipients=[ANN], backend="250 ok"),
    )
    assert (one["state"], other["state"]) == ("delivered", "spooled")


def test_many_messages_that_came_in_an_earlier_batch(path: Path) -> None:
    numbers = range(38)  # more than are looked up at once
    older = spooled(queue_id="7", session="s2", time=NOON - 50)
    written(
        path,
        [older, *(spooled(queue_id=str(number), time=NOON + number) for number in numbers)],
        [event("message delivered", NOON + 99, recipients=[ANN], message=each, backend="250 ok") for each in numbers],
    )
    assert [(each["state"], each["queue_id"]) for each in entries(path)] == [
        ("spooled", "7"),
        *(("delivered", str(number)) for number in numbers),
    ]


@pytest.mark.parametrize(
    ("action", "state", "trouble"), [("hold", "held", 0), ("drop", "dropped", 1), ("release", "spooled", 0)]
)
def test_what_the_operator_did(path: Path, action: str, state: str, trouble: int) -> None:
    held = of_the_spool("done by the operator", action="hold", by="root")
    (entry,) = told(path, spooled(), held, of_the_spool("done by the operator", action=action, by="root"))
    assert (entry["state"], entry["trouble"], entry["cause"]) == (state, trouble, f"{action} by root")


def test_an_export_changes_nothing(path: Path) -> None:
    held = of_the_spool("done by the operator", action="hold", by="root")
    (entry,) = told(path, spooled(), held, of_the_spool("done by the operator", action="export", by="eve"))
    assert (entry["state"], entry["cause"]) == ("held", "hold by root")


def test_what_the_operator_did_is_told_after_what_came_of_it(path: Path) -> None:
    delivered = of_the_spool("message delivered", recipients=[ANN], backend="250 ok")
    (entry,) = told(path, spooled(), delivered, of_the_spool("done by the operator", action="retry", by="root"))
    assert (entry["state"], entry["backend"]) == ("delivered", "250 ok")


def test_a_recipient_that_was_not_known_before(path: Path) -> None:
    """The history began later than the message, and tells what it has heard."""
    (entry,) = told(
        path,
        of_the_spool("message delivered", recipients=[ANN], backend="250 ok"),
        of_the_spool("recipients not taken for now", recipients=[BOB], cause="450 later"),
    )
    assert entry["state"] == "delayed"
    assert fates(entry) == {ANN: ("delivered", "250 ok"), BOB: ("delayed", "450 later")}


def test_set_aside_also_without_its_beginning(path: Path) -> None:
    (entry,) = told(path, of_the_spool("message set aside", reason="it made the relay fail 10 times"))
    assert (entry["state"], entry["trouble"]) == ("set aside", 1)
    assert entry["cause"] == "it made the relay fail 10 times"


def test_refusals_are_entries_with_what_to_do(path: Path) -> None:
    auth, recipient, connection = told(
        path,
        event("smtp command refused", command="AUTH LOGIN", reply="502 5.5.1 No", advice="switch its login off"),
        event("smtp recipient refused", sender=SENDER, recipient=BOB, cause="550 5.1.1 no", reply="550 5.1.1 no"),
        event("smtp connection refused", session=None, reason="not in ALLOWED_NETWORKS"),
    )
    assert (auth["kind"], auth["state"], auth["command"]) == ("refusal", "command refused", "AUTH LOGIN")
    assert fates(recipient) == {BOB: ("refused", "550 5.1.1 no")}
    assert (connection["leg"], connection["cause"]) == ("smtp", "not in ALLOWED_NETWORKS")
    (device,) = devices_of(path)
    assert (device["refusals"], device["trouble_text"]) == (3, "it may not connect: not in ALLOWED_NETWORKS")


def test_a_flood_of_the_same_refusal_is_one_entry(path: Path) -> None:
    flood = [event("pop3 connection refused", session=f"p-{number}", reason="too many") for number in range(1000)]
    (entry,) = told(path, *flood)
    assert entry["times"] == 1000
    assert devices_of(path)[0]["refusals"] == 1000


def test_only_a_session_that_went_wrong_is_told(path: Path) -> None:
    advice = "set its encryption to none"
    (entry,) = told(
        path,
        event("smtp session ended", helo="NPI12AB34", verdict="quit", messages=1, octets=9),
        event(
            "smtp session ended",
            level=logging.WARNING,
            helo="",
            verdict="spoke TLS to the plain SMTP port",
            advice=advice,
        ),
    )
    assert (entry["state"], entry["cause"]) == ("session ended", "spoke TLS to the plain SMTP port")
    (device,) = devices_of(path)
    assert (device["helo"], device["advice"]) == ("NPI12AB34", advice)
    assert device["trouble_text"] == "its session was ended: spoke TLS to the plain SMTP port"


def pop3_ended(**facts: Any) -> Event:
    known = {"user": "ann", "retrieved": 0, "top": 0, "failed": 0, "deleted": 0, "octets": 0, "verdict": "quit"}
    return event("pop3 session ended", **{**known, **facts})


def test_a_pop3_session(path: Path) -> None:
    (entry,) = told(path, pop3_ended(retrieved=3, deleted=2, octets=700))
    assert (entry["kind"], entry["leg"], entry["state"], entry["trouble"]) == ("pop3", "pop3", "quit", 0)
    assert (entry["login"], entry["retrieved"], entry["deleted"], entry["octets"]) == ("ann", 3, 2, 700)
    (device,) = devices_of(path)
    assert (device["pop3_sessions"], device["retrieved"], device["deleted"], device["success"]) == (1, 3, 2, NOON)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_empty_mailbox_is_a_success_and_a_wrong_password_is_none(path: Path, at_once: bool) -> None:
    events = [event("pop3 login failed", cause="LOGIN refused", user="ann"), pop3_ended()]
    if at_once:
        written(path, events)
    else:
        written(path, *([each] for each in events))
    assert "success" not in devices_of(path)[0]
    written(path, [pop3_ended(session="p-2")])
    assert devices_of(path)[0]["success"] == NOON


def test_a_pop3_session_that_went_wrong(path: Path) -> None:
    (entry,) = told(path, pop3_ended(verdict="dropped", failed=1))
    assert entry["trouble"] == 1
    assert "success" not in devices_of(path)[0]


def test_figures_of_each_hour(path: Path) -> None:
    written(
        path, [relayed(NOON), relayed(NOON + 3599)], [relayed(NOON + 10), relayed(NOON + 3600), pop3_ended(retrieved=4)]
    )
    with closing(open_to_read(path)) as connection:
        found = {(each["hour"], each["what"]): (each["times"], each["octets"]) for each in hours(connection, NOON + 5)}
    assert found == {
        (NOON, "relayed"): (3, 3000),
        (NOON + 3600, "relayed"): (1, 1000),
        (NOON, "pop3"): (1, 0),
        (NOON, "retrieved"): (4, 0),
    }


def test_what_a_peer_chose_is_short_and_printable(path: Path) -> None:
    forged = relayed(
        NOON, "\x1b[2Jann@x\n250 ok", "b\udc80@x", "\u202etxe.x@x", sender="s" * 5000, backend="250 \x07" * 900
    )
    (entry,) = told(path, forged)
    assert [each["address"] for each in entry["recipients"]] == [" [2Jann@x 250 ok", " txe.x@x", "b @x"]
    assert len(entry["sender"]) == 320
    assert len(entry["backend"]) == 500
    assert entry["backend"].isprintable()


def test_facts_of_other_types_lose_nothing_else(path: Path) -> None:
    odd = event(
        "message relayed", sender=None, recipients=3, octets="many", backend=b"x", account=object(), queue_id=1 << 70
    )
    huge = relayed(octets=1 << 70)
    assert [each["state"] for each in told(path, odd, huge, relayed())] == ["relayed"] * 3


def test_the_words_are_those_of_the_log() -> None:
    sources = [path for folder in ("proxy", "plugins") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text() for path in sources if path.parent.name != "history")
    assert [words for words in WORDS if f'"{words}"' not in code] == []


def test_the_page_explains_every_state() -> None:
    told = {state for row in rows("states") for state in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert {value for name, value in vars(State).items() if name.isupper()} <= told
    assert {*_IN_WORDS} <= told
