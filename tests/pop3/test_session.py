"""The session without I/O: any octets in any chunking, requests and answers, and a model of the mailbox."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from announced import POP3_GREETING
from legacy_email_proxy.contracts import Disconnected, Entry, LoginRefused, MessageGone, Secret
from legacy_email_proxy.pop3.commands import COMMANDS, State
from legacy_email_proxy.pop3.listing import CHUNK_ENTRIES
from legacy_email_proxy.pop3.requests import Close, Commit, NeedData, Open, Reply, Retrieve, Verdict
from legacy_email_proxy.pop3.session import SPOKE_HTTP, SPOKE_TLS, Session
from legacy_email_proxy.pop3.wire import MAX_LINE_OCTETS
from pop3.maildrops import OPTIONS, MemoryMaildrop, Play

MAILBOX = {
    "a": b"S: 1\r\n\r\n.one\r\n",
    "b": b"S: 2\n\nbare\nlf",
    "c": b"",
    "d": b"S: 4\r\n\r\n" + b"x" * 5000 + b"\r\n",
}


def mailbox() -> MemoryMaildrop:
    return MemoryMaildrop(dict(MAILBOX))


def replies_to(chunks: list[bytes], maildrop: MemoryMaildrop | None = None) -> tuple[bytes, Play]:
    play = Play(maildrop or mailbox())
    most = max(map(len, chunks), default=0)
    play.on_wait = lambda session: _bounded(session, most)
    play.greet()
    for chunk in chunks:
        if chunk:
            play.feed(chunk)
    play.feed(b"")
    assert play.closed is not None
    return bytes(play.out), play


def _bounded(session: Session, most: int) -> None:
    reader = session._reader
    assert reader.held() < MAX_LINE_OCTETS
    assert sys.getsizeof(reader._buffer) <= 2 * (MAX_LINE_OCTETS + most) + 100


# Any octets

WORDS = [keyword.encode() for keyword in COMMANDS]
ARGUMENTS = st.sampled_from([b" 1", b" 2", b" 3 1", b" 4", b" 1 0", b" 9", b" x", b"  ", b"\x00"])
LINE = st.one_of(
    st.sampled_from(WORDS),
    st.tuples(
        st.sampled_from(WORDS), st.sampled_from([b" 1", b" 2", b" 3 1", b" 4", b" 1 0", b" 9", b" x", b"  ", b"\x00"])
    ).map(b"".join),
    st.binary(max_size=20),
    st.just(b"x" * (MAX_LINE_OCTETS + 5)),
)
TALK = st.lists(st.tuples(LINE, st.sampled_from([b"\r\n", b"\n", b"\r"])).map(b"".join), max_size=40).map(b"".join)
LOGIN = st.sampled_from([b"", b"USER u\r\nPASS p\r\n"])


@given(LOGIN, st.one_of(TALK, st.binary(max_size=400)), st.lists(st.integers(0, 99999), max_size=20))
def test_chunks_do_not_matter(login: bytes, talk: bytes, cuts: list[int]) -> None:
    octets = login + talk
    places = sorted({0, len(octets), *(cut % (len(octets) + 1) for cut in cuts)})
    whole, one = replies_to([octets])
    parts, two = replies_to([octets[a:b] for a, b in pairwise(places)])
    assert parts == whole
    assert one.closed == two.closed
    assert one.maildrop.commits == two.maildrop.commits


@pytest.mark.fault("C28")
@given(TALK)
def test_each_state_takes_any_octets(talk: bytes) -> None:
    for before in (b"", b"USER u\r\n", b"USER u\r\nPASS p\r\n", b"USER u\r\nPASS p\r\nDELE 1\r\n"):
        out, play = replies_to([before + talk])
        assert out.endswith(b"\r\n")
        if play.verdict is not Verdict.QUIT:
            assert not play.maildrop.commits


@pytest.mark.fault("C28")
def test_an_endless_line_is_one_error_and_bounded() -> None:
    out, play = replies_to([b"x" * 4096] * 500)
    assert out == POP3_GREETING.encode() + b"\r\n-ERR line too long\r\n"
    assert play.verdict is Verdict.DROPPED


def test_a_million_empty_lines_are_cut_off() -> None:
    out, play = replies_to([b"\n" * 65536] * 16)
    assert out.count(b"\r\n") == 4
    assert play.verdict is Verdict.ERRORS


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\x16", SPOKE_TLS),
        (b"\x16\x03\x01\x02\x00\n\n\n", SPOKE_TLS),
        (b"GET / HTTP/1.1\r\n", SPOKE_HTTP),
        (b"CONNECT x:25 HTTP/1.1\r\n", SPOKE_HTTP),
        (b"GET /" + b"x" * 5000, SPOKE_HTTP),
        (b"PRI * HTTP/2.0\r\n", SPOKE_HTTP),
    ],
)
def test_other_protocols_get_one_error(octets: bytes, reason: str) -> None:
    for chunks in ([octets], [octets[i : i + 1] for i in range(len(octets))]):
        out, play = replies_to(chunks)
        assert out.count(b"\r\n") == 2
        assert play.closed == Close(Verdict.REFUSED, reason)


@pytest.mark.parametrize("octets", [b"GETX\r\n", b"\r\nGET / HTTP/1.1\r\n", b"NOOP\r\n\x16\r\n", b"get / \r\n"])
def test_only_the_first_octets_count_as_another_protocol(octets: bytes) -> None:
    out, play = replies_to([octets])
    assert b"plain POP3" not in out
    assert play.verdict is Verdict.DROPPED


# Requests and answers


def test_credentials_are_handed_on_as_they_were_given() -> None:
    play = Play(mailbox())
    play.greet()
    play.feed(b"USER John Doe \r\nPASS  two  words \r\n")
    assert play.opens == [Open("John Doe", Secret(" two  words "))]


def requesting(*commands: bytes) -> tuple[Session, object]:
    """A session that has just asked for something."""
    session = Session(OPTIONS)
    session.receive_data(b"USER u\r\nPASS p\r\n" + b"".join(commands))
    while isinstance(event := session.next_event(), Reply):
        pass
    if commands:
        session.opened([Entry("a", 1), Entry("b", 2)])
        while isinstance(event := session.next_event(), Reply):
            pass
    return session, event


@pytest.mark.parametrize("commands", [(), (b"RETR 1\r\n",), (b"DELE 1\r\nQUIT\r\n",)])
def test_a_request_must_be_answered_first(commands: tuple[bytes, ...]) -> None:
    session, request = requesting(*commands)
    assert isinstance(request, Open | Retrieve | Commit)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not answered"):
            session.next_event()


def test_a_wrong_answer_raises_and_changes_nothing() -> None:
    session, request = requesting(b"RETR 1\r\n")
    assert request == Retrieve(1, "a", 1, None)
    for answer in (session.committed, lambda: session.opened([]), lambda: session.commit_failed(Disconnected("x"))):
        with pytest.raises(RuntimeError, match="no "):
            answer()
    assert session.state is State.TRANSACTION
    assert session.message_end() == b"+OK 1 octets\r\n.\r\n"
    with pytest.raises(RuntimeError, match="no Retrieve"):
        session.message_piece(b"x")
    assert isinstance(session.next_event(), NeedData)


def test_ok_stands_before_the_first_piece_only() -> None:
    session, _ = requesting(b"RETR 2\r\n")
    assert session.message_piece(b"") == b"+OK 2 octets\r\n"
    assert session.message_piece(b".") == b".."
    assert session.message_end() == b"\r\n.\r\n"
    assert (session.tally.retrieved, session.tally.top) == (1, 0)


def test_only_quit_after_the_login_enters_update() -> None:
    session, _ = requesting(b"DELE 1\r\nQUIT\r\n")
    assert session.state is State.UPDATE
    session = Session(OPTIONS)
    session.receive_data(b"QUIT\r\n")
    while not isinstance(session.next_event(), Close):
        pass
    assert session.state is State.AUTHORIZATION


def test_close_stays_close() -> None:
    session, _ = requesting(b"QUIT\r\nNOOP\r\n")
    for _ in range(3):
        assert session.next_event() == Close(Verdict.QUIT)
    session.end(Verdict.IDLE)
    assert session.next_event() == Close(Verdict.QUIT)


def test_ending_from_outside_deletes_nothing() -> None:
    session, request = requesting(b"DELE 1\r\nRETR 2\r\nQUIT\r\n")
    assert isinstance(request, Retrieve)
    session.end(Verdict.DROPPED)
    assert session.next_event() == Close(Verdict.DROPPED)


@pytest.mark.parametrize("error", [ValueError("secret detail"), Disconnected("secret detail"), LoginRefused("x")])
def test_a_crash_answers_the_open_request_and_closes(error: Exception) -> None:
    for commands in ((), (b"RETR 1\r\n",), (b"DELE 1\r\nQUIT\r\n",)):
        session, _ = requesting(*commands)
        session.crashed(error)
        reply = session.next_event()
        assert isinstance(reply, Reply)
        assert reply.octets.startswith(b"-ERR [")
        assert b"secret" not in reply.octets
        close = session.next_event()
        assert isinstance(close, Close)
        assert close.verdict is Verdict.FAILED


def test_a_crash_in_a_message_or_listing_says_nothing_more() -> None:
    session, _ = requesting(b"RETR 1\r\n")
    session.message_piece(b"half")
    session.crashed(ValueError())
    assert isinstance(session.next_event(), Close)

    session = Session(OPTIONS)
    session.receive_data(b"USER u\r\nPASS p\r\n")
    while isinstance(session.next_event(), Reply):
        pass
    session.opened([Entry("u", 1)] * CHUNK_ENTRIES + [Entry("a\r\nb", 1)])
    session.receive_data(b"UIDL\r\n")
    assert [session.next_event() for _ in range(3)][1] == Reply(b"+OK unique-id listing follows\r\n")
    with pytest.raises(ValueError, match="unique-id"):
        session.next_event()
    session.crashed(ValueError())
    assert isinstance(session.next_event(), Close)


def test_the_first_failure_of_each_message_is_no_error() -> None:
    many = {f"m{n}": b"x" for n in range(50)}
    maildrop = MemoryMaildrop(many, fail={f"retrieve m{n}": MessageGone("x") for n in range(50)})
    play = Play(maildrop)
    play.log_in()
    for number in range(1, 51):
        assert play.feed(b"RETR %d\r\n" % number).startswith(b"-ERR the message was removed")
    assert play.closed is None


def test_long_listings_are_handed_out_in_parts() -> None:
    play = Play(MemoryMaildrop({f"u{n}": b"" for n in range(5 * CHUNK_ENTRIES)}))
    play.log_in()
    play.session.receive_data(b"UIDL\r\n")
    sizes = []
    while isinstance(event := play.session.next_event(), Reply):
        sizes.append(len(event.octets))
    assert len(sizes) == 7
    assert max(sizes) < 80 * CHUNK_ENTRIES


# A model of the mailbox


CONTENTS = [b"", b"H: 1\r\n\r\n.b\r\n", b"H: 2\r\n\r\nx\r\n..\r\n"]


class Mailbox(RuleBasedStateMachine):
    """Sessions one after the other on one mailbox, against a dict and a set."""

    @initialize(
        contents=st.lists(st.sampled_from([b"", b"H: 1\r\n\r\n.b\r\n", b"H: 2\r\n\r\nx\r\n..\r\n"]), max_size=5)
    )
    def fill(self, contents: list[bytes]) -> None:
        self.maildrop = MemoryMaildrop({f"u{n}": content for n, content in enumerate(contents)})
        self.arrived = len(contents)
        self.connect()

    def connect(self) -> None:
        self.play = Play(self.maildrop)
        assert self.play.log_in().count(b"+OK") == 2
        self.numbered = list(self.maildrop.messages)
        self.marked: set[int] = set()
        self.errors = 0

    def tell(self, line: str) -> list[bytes]:
        lines = self.play.feed(line.encode() + b"\r\n").split(b"\r\n")
        assert lines.pop() == b""
        return lines

    def there(self, number: int) -> bool:
        return 1 <= number <= len(self.numbered) and number not in self.marked

    def expect(self, number: int, reply: list[bytes]) -> bool:
        assert reply[0].startswith(b"+OK" if self.there(number) else b"-ERR")
        self.errors += not self.there(number)
        return self.there(number)

    def octets(self, number: int) -> int:
        return len(self.maildrop.messages[self.numbered[number - 1]])

    live = precondition(lambda self: self.errors < 19)
    numbers = st.integers(0, 6)

    @live
    @rule(number=numbers)
    def dele(self, number: int) -> None:
        if self.expect(number, self.tell(f"DELE {number}")):
            self.marked.add(number)

    @live
    @rule(number=numbers)
    def retr(self, number: int) -> None:
        reply = self.tell(f"RETR {number}")
        if self.expect(number, reply):
            content = b"".join(line.removeprefix(b".") + b"\r\n" for line in reply[1:-1])
            assert content == self.maildrop.messages[self.numbered[number - 1]]
            assert reply[0] == b"+OK %d octets" % len(content)
            assert reply[-1] == b"."

    @live
    @rule(number=numbers)
    def list_and_uidl_one(self, number: int) -> None:
        for keyword in ("LIST", "UIDL"):
            reply = self.tell(f"{keyword} {number}")
            if self.expect(number, reply):
                value = self.octets(number) if keyword == "LIST" else self.numbered[number - 1]
                assert reply == [f"+OK {number} {value}".encode()]
            if self.errors >= 19:
                return

    @live
    @rule(number=numbers)
    def top(self, number: int) -> None:
        reply = self.tell(f"TOP {number} 0")
        if self.expect(number, reply):
            assert reply[-1] == b"."
            assert b"x" not in reply

    @rule()
    def rset(self) -> None:
        assert self.tell("RSET")[0].startswith(b"+OK")
        self.marked.clear()

    @rule()
    def arrive(self) -> None:
        self.maildrop.messages[f"u{self.arrived}"] = b"H: new\r\n\r\n"
        self.arrived += 1

    @rule()
    def drop(self) -> None:
        before = dict(self.maildrop.messages)
        self.play.feed(b"")
        assert self.maildrop.messages == before
        self.connect()

    @rule()
    def quit_and_return(self) -> None:
        gone = {self.numbered[number - 1] for number in self.marked}
        expected = {uid: content for uid, content in self.maildrop.messages.items() if uid not in gone}
        self.tell("QUIT")
        assert self.maildrop.messages == expected
        self.connect()

    @rule()
    def quit_fails(self) -> None:
        before = dict(self.maildrop.messages)
        self.maildrop.fail["commit"] = Disconnected("x")
        reply = self.tell("QUIT")
        del self.maildrop.fail["commit"]
        assert reply[0].startswith(b"-ERR" if self.marked else b"+OK")
        assert self.maildrop.messages == before
        self.connect()

    @invariant()
    def listings_agree(self) -> None:
        kept = [number for number in range(1, len(self.numbered) + 1) if number not in self.marked]
        total = sum(map(self.octets, kept))
        assert self.tell("STAT") == [b"+OK %d %d" % (len(kept), total)]
        assert self.tell("LIST")[1:] == [*(b"%d %d" % (n, self.octets(n)) for n in kept), b"."]
        assert self.tell("UIDL")[1:] == [*(f"{n} {self.numbered[n - 1]}".encode() for n in kept), b"."]
        assert self.tell("NOOP") == [b"+OK"]


TestMailbox = Mailbox.TestCase
TestMailbox.settings = settings(max_examples=60, stateful_step_count=30)
