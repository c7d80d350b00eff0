"""The soak's own judgement: every kind of mistake that it is there to find is a fault, and nothing else is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import pytest

from soak.growth import HOUR, Growth, Life, Slope
from soak.ledger import Ledger, Mailbox, Outcome, Trouble
from soak.mail import mark, message, receipt
from soak.proxies import Proxy

RECEIVED = (
    b"Received: from [127.0.0.1] (unknown [127.0.0.1])\n\t(using TLSv1.3 with cipher X (256/256 bits))\n"
    b"\tby mail.example.test (Postfix) with ESMTPSA id %b\n\tfor <a@example.test>; %b (UTC)\n"
)
AT = 1_796_026_000.0
FIRST, SECOND = b"Mon, 30 Nov 2026 08:06:40 +0000", b"Mon, 30 Nov 2026 08:06:50 +0000"


def arrive(folder: Path, name: str, number: bytes = b"A1", when: bytes = FIRST, *, damaged: bool = False) -> Path:
    content = message(name, "a@example.test", 500, random.Random(name)).replace(b"\r\n", b"\n")
    file = folder / f"{name}-{len(list(folder.iterdir()))}"
    file.write_bytes(RECEIVED % (number, when) + (content[:-3] if damaged else content))
    return file


def settled(ledger: Ledger, outcome: Outcome, reply: str = "") -> str:
    sent = ledger.new("small", AT)
    ledger.settle(sent, outcome, reply, AT + 1)
    return sent.name


def test_a_message_is_known_again_and_its_damage_is_seen() -> None:
    content = message("direct-small-1", "a@example.test", 5000, random.Random(1))
    assert mark(content) == mark(content.replace(b"\r\n", b"\n")) == ("direct-small-1", True)
    assert mark(content[:-3]) == ("direct-small-1", False)
    assert mark(b"Subject: a notification\r\n\r\n") == ("", False)
    assert receipt(RECEIVED % (b"4fKz", FIRST) + content) == ("4fKz", AT)


@pytest.mark.parametrize("outcome", ["accepted", "unanswered"])
def test_what_arrived_once_is_no_fault(tmp_path: Path, outcome: Outcome) -> None:
    ledger = Ledger("sqlite", keeps=True)
    ledger.harvest([arrive(tmp_path, settled(ledger, outcome, "250 ok"))])
    assert not ledger.judge([], set())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("outcome", "reply", "arrivals", "fault"),
    [
        ("accepted", "250 ok", [], "lost"),
        ("refused", "550 no", [], "a good message was answered 550"),
        ("refused", "451 later", [b"A1"], "delivered although"),
        ("broken off", "", [b"A1"], "without its end"),
        ("accepted", "250 ok", [b"A1", b"B2"], "delivered 2 times"),
        ("unanswered", "", [b"A1", b"B2"], "delivered 2 times"),
    ],
)
def test_what_must_not_be_is_a_fault(
    tmp_path: Path, outcome: Outcome, reply: str, arrivals: list[bytes], fault: str
) -> None:
    ledger = Ledger("sqlite", keeps=True)
    name = settled(ledger, outcome, reply)
    ledger.harvest([arrive(tmp_path, name, number) for number in arrivals])
    (said,) = ledger.judge(
        [Trouble("kill", "Dovecot", AT - 5, AT + 5), Trouble("reload", "sqlite", AT, AT)], {"sqlite"}
    )
    assert fault in said


@pytest.mark.parametrize(("keeps", "faults"), [(True, 0), (False, 1)])
def test_a_kill_explains_a_second_delivery_where_there_is_a_spool(tmp_path: Path, keeps: bool, faults: int) -> None:
    ledger = Ledger("sqlite", keeps=keeps)
    name = settled(ledger, "accepted", "250 ok")
    ledger.harvest([arrive(tmp_path, name, b"A1"), arrive(tmp_path, name, b"B2", SECOND)])
    assert len(ledger.judge([Trouble("kill", "sqlite", AT + 3, AT + 4)], {"sqlite"})) == faults
    assert len(ledger.judge([Trouble("kill", "sqlite", AT + 20, AT + 30)], {"sqlite"})) == 1
    assert ledger.count()["doubled"] == 1


def test_a_second_delivery_of_postfix_itself_is_counted_apart(tmp_path: Path) -> None:
    ledger = Ledger("direct", keeps=False)
    name = settled(ledger, "accepted", "250 ok")
    ledger.harvest([arrive(tmp_path, name), arrive(tmp_path, name)])
    assert not ledger.judge([], set())
    assert ledger.count()["doubled by Postfix"] == 1


def test_what_arrives_damaged_or_from_elsewhere_is_a_fault(tmp_path: Path) -> None:
    ledger = Ledger("direct", keeps=False)
    ledger.harvest([arrive(tmp_path, settled(ledger, "accepted", "250 ok"), damaged=True), arrive(tmp_path, "strange")])
    damaged, strange = ledger.judge([], set())
    assert "arrived changed" in damaged
    assert "something else arrived" in strange


def test_a_mailbox_holds_what_was_not_deleted_and_nothing_else(tmp_path: Path) -> None:
    mailbox = Mailbox("box", "password", put={"kept", "gone", "deleted", "unsure"})
    mailbox.deleted, mailbox.unsure = {"deleted"}, {"unsure"}
    assert not mailbox.judge([arrive(tmp_path, "kept"), arrive(tmp_path, "gone")])
    mailbox.listed("deleted")
    mailbox.listed("never")
    relisted, strange, still, gone = mailbox.judge([arrive(tmp_path, "kept"), arrive(tmp_path, "deleted")])
    assert "lists deleted, which QUIT had deleted" in relisted
    assert "never put in" in strange
    assert "deleted is still there" in still
    assert "gone is gone" in gone


def test_the_line_is_that_of_the_last_life_without_its_first_part() -> None:
    growth = Growth(cast("Proxy", None), 1.0)
    growth.lives = [Life(1, 0.0), Life(2, 100.0)]
    growth.lives[0].samples = [(float(second), (1000.0, 1.0, 1.0)) for second in range(100)]
    growth.lives[1].samples = [
        (100.0 + second, (50.0 + max(second - 600, 0) / 60, 20.0, 9.0 - (second < 600) * 5)) for second in range(1300)
    ]
    memory, descriptors, threads = growth.slopes(1500.0)
    assert memory.an_hour == pytest.approx(60.0)
    assert (descriptors.an_hour, threads.an_hour) == pytest.approx((0.0, 0.0))
    assert [slope.too_much for slope in (memory, descriptors, threads)] == [True, False, False]


@pytest.mark.parametrize(("change", "too_much"), [({}, True), ({"seconds": 60.0}, False), ({"an_hour": 5.0}, False)])
def test_growth_counts_above_the_noise_of_a_run_that_is_long_enough(change: dict[str, Any], too_much: bool) -> None:
    given: dict[str, Any] = {
        "what": "memory MiB",
        "an_hour": 30.0,
        "seconds": HOUR / 2,
        "first": 50.0,
        "last": 65.0,
        "peak": 70.0,
    }
    assert Slope(**given | change).too_much is too_much
