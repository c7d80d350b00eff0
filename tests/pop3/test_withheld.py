"""What a device asked for and did not get is not deleted, whatever the reason was and however it goes on."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from legacy_email_proxy import contracts
from legacy_email_proxy.contracts import Disconnected, Failure, MessageUnavailable
from pop3.conftest import StartLeg
from pop3.maildrops import MemoryMaildrop, Play

ONE, TWO = b"S: 1\r\n\r\none\r\n", b"S: 2\r\n\r\ntwo\r\n"
FAILURES = [
    kind
    for name in contracts.__all__
    if isinstance(kind := getattr(contracts, name), type)
    and issubclass(kind, Failure)
    and kind is not contracts.Refused
]
KEPT = "-ERR [SYS/TEMP] some deleted messages were not removed, because they could not be read before"


def two() -> MemoryMaildrop:
    return MemoryMaildrop({"a": ONE, "b": TWO})


def talk(maildrop: MemoryMaildrop, *commands: str) -> list[str]:
    """The first line of what each is answered."""
    play = Play(maildrop)
    play.log_in()
    return [play.feed(command.encode() + b"\r\n").split(b"\r\n")[0].decode() for command in commands]


@pytest.mark.parametrize("kind", [*FAILURES, None])
def test_every_failure_of_retr(kind: type[Failure] | None) -> None:
    maildrop = two()
    maildrop.fail["retrieve a"] = kind("x") if kind else contracts.Refused(550, "", "x")
    answers = talk(maildrop, "RETR 1", "DELE 1", "RETR 2", "DELE 2", "QUIT")
    assert [answer[:3] for answer in answers] == ["-ER", "+OK", "+OK", "+OK", "-ER"]
    assert answers[-1] == KEPT
    assert maildrop.commits == [("b",)], "those that it got are deleted"
    assert maildrop.messages == {"a": ONE}


@pytest.mark.parametrize("asked", ["RETR 1", "TOP 1 0", "TOP 1 20", "TOP 1 4294967295"])
def test_when_nothing_else_was_deleted(asked: str) -> None:
    maildrop = two()
    maildrop.fail["retrieve a"] = MessageUnavailable("x")
    assert talk(maildrop, asked, "DELE 1", "QUIT")[-1] == KEPT
    assert maildrop.commits == []


ORDERS = [
    # What is said while the message can not be had, and what after; whether it is deleted.
    (["RETR 1"], ["DELE 1"], False),
    (["RETR 1"], ["RETR 1", "DELE 1"], True),
    (["RETR 1", "DELE 1"], ["RSET", "DELE 1"], False),
    (["RETR 1", "DELE 1"], ["RSET", "RETR 1", "DELE 1"], True),
    (["RETR 1", "DELE 1"], ["RETR 1"], False),  # A message that is marked is not handed out.
    (["DELE 1", "RSET", "RETR 1"], ["DELE 1"], False),
    (["DELE 1", "RETR 1"], [], True),  # Never asked for: RETR of a marked message is the client's own mistake.
    (["RETR 1", "RETR 1"], ["RETR 1", "DELE 1"], True),
    (["RETR 1"], ["TOP 1 0", "DELE 1"], False),
    (["RETR 1"], ["TOP 1 4294967295", "DELE 1"], False),
    (["TOP 1 4294967295"], ["TOP 1 0", "DELE 1"], False),
    (["TOP 1 4294967295"], ["TOP 1 4294967295", "DELE 1"], True),
    (["TOP 1 4294967295"], ["RETR 1", "DELE 1"], True),
    (["TOP 1 0"], ["DELE 1"], False),
    (["TOP 1 0"], ["TOP 1 0", "DELE 1"], True),
    (["TOP 1 0"], ["TOP 1 5", "DELE 1"], True),
    (["RETR 1", "TOP 1 0"], ["TOP 1 0", "DELE 1"], False),
    (["XTND XLST Subject"], ["DELE 1"], False),
    (["XTND XLST Subject"], ["XTND XLST Subject", "DELE 1"], True),
    (["XTND XLST Subject 1"], ["RETR 1", "DELE 1"], True),
    (["RETR 1"], ["STAT", "LIST", "UIDL", "NOOP", "DELE 1"], False),
]


@pytest.mark.parametrize(("while_broken", "after", "deleted"), ORDERS)
def test_in_every_order(while_broken: list[str], after: list[str], deleted: bool) -> None:
    maildrop = two()
    play = Play(maildrop)
    play.log_in()
    maildrop.fail["retrieve a"] = Disconnected("x")
    if while_broken[-1].startswith("XTND"):
        # Anything else would end that command with the session.
        maildrop.fail["retrieve a"] = MessageUnavailable("x")
    for command in while_broken:
        play.feed(command.encode() + b"\r\n")
    del maildrop.fail["retrieve a"]
    for command in after:
        play.feed(command.encode() + b"\r\n")
    last = play.feed(b"QUIT\r\n")
    assert (("a" not in maildrop.messages), last.startswith(b"+OK")) == (deleted, deleted)
    assert "b" in maildrop.messages


async def test_a_device_that_looks_at_no_answer(start_leg: StartLeg, caplog: pytest.LogCaptureFixture) -> None:
    maildrop = two()
    maildrop.fail["retrieve a"] = Disconnected("x")
    leg = await start_leg(maildrop)
    out = await leg.exchange(b"USER u\r\nPASS p\r\nRETR 1\r\nDELE 1\r\nRETR 2\r\nDELE 2\r\nQUIT\r\n")
    assert out.endswith(KEPT.encode() + b"\r\n")
    assert maildrop.messages == {"a": ONE}
    await leg.ended()
    (end,) = [record for record in caplog.records if record.getMessage() == "pop3 session ended"]
    facts = vars(end)["facts"]
    assert (facts["deleted"], facts["withheld"], end.levelname) == (1, 1, "WARNING")
    # Only one session: the next one may delete what it can not read, if its user wants to.
    await leg.exchange(b"USER u\r\nPASS p\r\nDELE 1\r\nQUIT\r\n")
    assert maildrop.messages == {}


async def test_a_message_that_breaks_off_ends_the_session(start_leg: StartLeg) -> None:
    maildrop = two()
    maildrop.fail["break a"] = Disconnected("x")
    leg = await start_leg(maildrop)
    out = await leg.exchange(b"USER u\r\nPASS p\r\nRETR 2\r\nDELE 2\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
    assert not out.endswith(b".\r\n")
    assert (maildrop.commits, len(maildrop.messages)) == ([], 2)


async def test_what_fails_besides_is_told_as_well(start_leg: StartLeg) -> None:
    maildrop = two()
    maildrop.fail |= {"retrieve a": Disconnected("x"), "commit": Disconnected("x")}
    leg = await start_leg(maildrop)
    out = await leg.exchange(b"USER u\r\nPASS p\r\nRETR 1\r\nDELE 1\r\nDELE 2\r\nQUIT\r\n")
    assert out.splitlines()[-1].startswith(b"-ERR [SYS/TEMP] the connection to the backend was lost")
    assert len(maildrop.messages) == 2


class Devices(RuleBasedStateMachine):
    """Any sequence of commands, with a backend that fails now and then: what was not got whole last is still there."""

    @initialize()
    def begin(self) -> None:
        self.maildrop = MemoryMaildrop(dict.fromkeys("abc", ONE))
        self.connect()

    def connect(self) -> None:
        self.play = Play(self.maildrop)
        self.play.log_in()
        self.names = list(self.maildrop.messages)
        self.marked: set[str] = set()
        self.not_got: set[str] = set()

    @rule(number=st.integers(1, 3), kind=st.sampled_from([None, *FAILURES]))
    def retr(self, number: int, kind: type[Failure] | None) -> None:
        if number > len(self.names):
            return
        name = self.names[number - 1]
        self.maildrop.fail = {f"retrieve {name}": kind("x")} if kind else {}
        self.play.feed(b"RETR %d\r\n" % number)
        self.maildrop.fail = {}
        if name not in self.marked:
            (self.not_got.discard if kind is None else self.not_got.add)(name)
        if self.play.closed is not None:
            self.connect()

    @rule(number=st.integers(1, 3))
    def dele(self, number: int) -> None:
        if number <= len(self.names):
            self.play.feed(b"DELE %d\r\n" % number)
            self.marked.add(self.names[number - 1])
        if self.play.closed is not None:
            self.connect()

    @rule()
    def rset(self) -> None:
        self.play.feed(b"RSET\r\n")
        self.marked.clear()

    @rule()
    def quit_and_return(self) -> None:
        last = self.play.feed(b"QUIT\r\n")
        assert set(self.maildrop.messages) == set(self.names) - (self.marked - self.not_got)
        assert last.startswith(b"-ERR" if self.marked & self.not_got else b"+OK")
        self.maildrop.messages.setdefault("d", TWO)
        self.connect()


TestDevices = Devices.TestCase
TestDevices.settings = settings(max_examples=60, stateful_step_count=30)
