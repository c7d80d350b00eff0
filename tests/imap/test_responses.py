"""Responses in all the shapes that RFC 9051 §9 allows, and in some more; the same is read, with any chunks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.imap import Action, Connection, Mailbox, Message
from fakes.server import Step
from imap.support import CLIENT, pair, read, read_top
from imap.test_listing import _Server
from legacy_email_proxy.contracts import Disconnected, Failure, Overloaded
from legacy_email_proxy_plugins.imap.imapclient_adapter import IMAP4, check
from legacy_email_proxy_plugins.imap.responses import (
    Attributes,
    Batch,
    Body,
    Fetched,
    Tokens,
    Value,
    announced,
    code_in,
    is_open,
    mailbox_in,
)
from legacy_email_proxy_plugins.imap.settings import Patience
from legacy_email_proxy_plugins.imap.transport import Wire
from realservers.certificates import Certificates

MAIL = [b"Subject: %d\r\n\r\nbody\r\n" % number for number in range(1, 4)]

# Whole sessions with a server of odd habits.

_RESPONSE = re.compile(rb"^(\* |[A-P]{4}\d+ |\+ )(.*?)\r\n", re.MULTILINE | re.DOTALL)
_STATUS = re.compile(rb"^((?:\*|[A-P]{4}\d+) (?:OK|NO|BAD))(?: (\[[^\]]*\]))?.*", re.DOTALL)


def every_line(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Changes what is no message; all of ours begin with a header."""

    def shape(octets: bytes) -> bytes:
        return octets if octets.startswith(b"Subject:") else b"".join(map(change, octets.splitlines(keepends=True)))

    return shape


def lower(line: bytes) -> bytes:
    tag, blank, rest = line.partition(b" ")
    return tag + blank + rest.lower()


def status(template: bytes) -> Callable[[bytes], bytes]:
    return lambda line: _STATUS.sub(lambda match: (template % (match[1], match[2] or b"")).rstrip() + b"\r\n", line)


SHAPES = {
    "as it should be": lambda line: line,
    "lower case": lower,
    "mixed case": lambda line: b" ".join(
        word if number == 0 else word.swapcase() for number, word in enumerate(line.split(b" "))
    ),
    "no text": lambda line: re.sub(rb"^([A-P]{4}\d+ (?:OK|NO))(?: \[CAP.*)?.*\r\n", rb"\1\r\n", line),
    "no text but a code": status(b"%b %b"),
    "a bracket in the text": status(b"%b %b in [node 3]"),
    "a brace in the text": status(b"%b %b text {5}"),
    "a quote in the text": status(b'%b %b text "('),
    "two blanks": lambda line: line.replace(b" ", b"  "),
    "a tab": lambda line: line.replace(b" ", b"\t"),
    "a blank at the end": lambda line: line if line.endswith(b"}\r\n") else line[:-2] + b" \r\n",
    "line feeds": lambda line: line.replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offers", [("AUTH=PLAIN", "UIDPLUS", "MOVE", "SPECIAL-USE"), ("UIDPLUS",)])
@pytest.mark.parametrize("policy", ["expunge", "trash"])
async def test_a_session_in_any_shape(
    certificates: Certificates, shape: str, offers: tuple[str, ...], policy: str
) -> None:
    box = Mailbox.of(*MAIL)
    box.listed = (r'(\HasNoChildren) "/" INBOX', r'(\HasNoChildren \Trash) "/" Bin')
    async with pair(
        certificates.good, mailbox=box, capabilities=offers, BACKEND_IMAP_DELETE=policy
    ) as (maildrop, server):  # fmt: skip
        server.shape = every_line(SHAPES[shape])
        async with maildrop.open(CLIENT, None) as session:
            assert [entry.octets for entry in session.entries] == [len(octets) for octets in MAIL]
            for position, octets in enumerate(MAIL):
                assert await read_top(session, position, 0) == octets[: octets.index(b"body")]
                assert await read(session, position) == octets
                assert await read_top(session, position, 2) == octets
            await session.commit([entry.unique_id for entry in session.entries[:2]])
        assert list(box.messages) == [3]
        assert [name.lower() for name in box.folders] == (["bin"] if policy == "trash" else [])
    assert len(server.connections) == 1
    assert server.connections[0].ended


async def test_starttls_in_lower_case(certificates: Certificates) -> None:
    async with pair(certificates.good, *MAIL, encryption="starttls") as (maildrop, server):
        server.shape = every_line(lower)
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == MAIL[0]


def opening(*lines: bytes, tagged: bytes = b"OK [READ-WRITE] done") -> bytes:
    return b"".join(b"* %b\r\n" % line for line in lines) + b"TAG " + tagged + b"\r\n"


UIDVALIDITY = b"OK [UIDVALIDITY 7] valid"
SELECTS = [
    opening(b"2 EXISTS", UIDVALIDITY),
    opening(b"2 Exists", b"ok [uidvalidity 7] valid", tagged=b"ok"),
    opening(b"2 EXISTS", b"OK [UIDVALIDITY 7] valid [box]"),
    opening(b"2 EXISTS", b"OK [UIDVALIDITY 7]", tagged=b"OK"),
    opening(b"0 EXISTS", b"2 EXISTS", UIDVALIDITY),
    opening(b"5 EXISTS", UIDVALIDITY, b"2 EXISTS", b"0 RECENT"),
    opening(b"2 EXISTS", b"OK [UIDVALIDITY 6] what?", UIDVALIDITY),
    opening(b"2 EXISTS", UIDVALIDITY, b"OK [UIDNEXT x] no", b"OK [HIGHESTMODSEQ] no", b"OK [UNSEEN] no"),
    opening(b"2 EXISTS", UIDVALIDITY, b"OK [UIDNEXT %b] no" % (b"9" * 5000)),
    opening(b"2 EXISTS", UIDVALIDITY, b"OK []", b"OK [", b"OK ]", b"NO", b"OK"),
    opening(b"2 EXISTS", UIDVALIDITY, b'OK [PERMANENTFLAGS (\\Deleted a]b "c)" \\*)] any [of them]', b"FLAGS (a]b)"),
    opening(b"2 EXISTS", UIDVALIDITY, b"FLAGS (a]b {5", b"X-NEW", b"5 X-NEW", b"X-NEW [a] (b", b"LIST ("),
    opening(
        b"2 EXISTS", UIDVALIDITY, b"X {9}\r\n* BYE bye", b"1 FETCH (X {3}\r\n)\r\n)", b"1 FETCH FLAGS", b"1 FETCH ((("
    ),
    opening(b"2 EXISTS", UIDVALIDITY, tagged=b"OK [READ-WRITE] INBOX [or so] {5}"),
    opening(b"2 EXISTS", UIDVALIDITY, b"5 LIST", b"5 OK", b"5 BYE", b"5 CAPABILITY", b"5 FLAGS", b"5 READ-ONLY"),
]


@pytest.mark.parametrize("answer", SELECTS)
async def test_a_folder_opens_in_any_shape(certificates: Certificates, answer: bytes) -> None:
    box = Mailbox.of(*MAIL[:2])
    async with pair(certificates.good, mailbox=box, script={"SELECT": answer}) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert [entry.unique_id for entry in session.entries] == ["0000000100000007", "0000000200000007"]
            await session.commit([session.entries[0].unique_id])
    assert list(box.messages) == [2]


@pytest.mark.parametrize(
    ("code", "deletable"),
    [
        (b"OK [PERMANENTFLAGS (\\Deleted [x] \\*)] kept [for good]", True),
        (b"ok [permanentflags (\\DELETED)]", True),
        (b"OK [PERMANENTFLAGS (\\Seen a]b)] \\Deleted", False),
        (b"OK [PERMANENTFLAGS ()] none", False),
        (b"OK nothing about flags [PERMANENTFLAGS ()]", True),
    ],
)
async def test_what_may_be_deleted_is_read_from_the_code(
    certificates: Certificates, code: bytes, deletable: bool
) -> None:
    box = Mailbox.of(*MAIL)
    async with pair(
        certificates.good, mailbox=box, script={"SELECT": opening(b"3 EXISTS", UIDVALIDITY, code)}
    ) as (maildrop, _):  # fmt: skip
        async with maildrop.open(CLIENT, None) as session:
            chosen = [session.entries[0].unique_id]
            if deletable:
                await session.commit(chosen)
            else:
                with pytest.raises(Failure, match="may not delete"):
                    await session.commit(chosen)
    assert list(box.messages) == ([2, 3] if deletable else [1, 2, 3])


def logs_in(box: Mailbox, answer: bytes) -> dict[Step, Action]:
    def judge(connection: Connection, _: str) -> bytes:
        connection.mailbox = box
        return answer

    return {"PLAIN": judge}


@pytest.mark.parametrize(
    ("answer", "expunges"),
    [
        (b"TAG OK [CAPABILITY IMAP4rev1 UIDPLUS] in [node 3]\r\n", True),
        (b"TAG OK [capability imap4rev1 uidplus]\r\n", True),
        (b"* CAPABILITY IMAP4rev1\r\n* CAPABILITY IMAP4rev1 UIDPLUS\r\nTAG OK\r\n", True),
        (b"TAG OK [CAPABILITY IMAP4rev1] in [UIDPLUS]\r\n", False),
        (b"TAG OK\r\n", False),
    ],
)
async def test_capabilities_are_read_whole(certificates: Certificates, answer: bytes, expunges: bool) -> None:
    box = Mailbox.of(*MAIL)
    async with pair(
        certificates.good, mailbox=box, capabilities=("AUTH=PLAIN",), script=logs_in(box, answer)
    ) as (maildrop, server):  # fmt: skip
        async with maildrop.open(CLIENT, None) as session:
            await session.commit([session.entries[0].unique_id])
    assert ("UID EXPUNGE 1" in server.commands) == expunges


# A listing that can't be read whole.

ROWS = b"* 1 FETCH (UID 1 RFC822.SIZE 19)\r\n* 2 FETCH (UID 2 RFC822.SIZE 19)\r\n"
LAST = b"* 4 FETCH (UID 4 RFC822.SIZE 19)\r\n"
OK = b"TAG OK done\r\n"
ODD_LISTINGS = [
    (ROWS + b"* 3 FETCH (UID 0 RFC822.SIZE 19)\r\n" + LAST + OK, "UID 0"),
    (ROWS + b"* 3 FETCH (UID 4294967296 RFC822.SIZE 19)\r\n" + LAST + OK, "UID 4294967296"),
    (ROWS + b"* 3 FETCH (UID x RFC822.SIZE 19)\r\n" + LAST + OK, "UID x"),
    (ROWS + b"* 3 FETCH (UID NIL)\r\n" + LAST + OK, "UID None"),
    (ROWS + b"* 3 FETCH (UID 3 RFC822.SIZE)\r\n" + LAST + OK, "(UID 3 RFC822.SIZE)"),
    (ROWS + b"* 3 FETCH (UID 3 RFC822.SIZE 19\r\n" + LAST + OK, "(UID 3 RFC822.SIZE 19"),
    (ROWS + b'* 3 FETCH (UID 3 X ")\r\n' + LAST + OK, '(UID 3 X ")'),
    (ROWS + b"* 3 FETCH " + b"(" * 60_000 + b"\r\n" + LAST + OK, "((("),
    (ROWS + b"* 3 FETCH\r\n" + LAST + OK, "1 rows"),
    (ROWS + b"* 3 FETCH )X {4}\r\n(UID 3)\r\n" + LAST + OK, ")X"),
    (b"* 3 FETCH (UID 0 RFC822.SIZE 19)\r\n" + ROWS + LAST + OK, "UID 0"),
    (ROWS + LAST + b"TAG NO some messages could not be fetched\r\n", "NO some messages"),
    (ROWS + LAST + b"TAG NO [SERVERBUG] internal error\r\n", "SERVERBUG"),
]


@pytest.mark.parametrize(("answer", "named"), ODD_LISTINGS)
async def test_one_odd_row_hides_its_message_only(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, answer: bytes, named: str
) -> None:
    box = Mailbox({uid: Message(b"Subject: %d\r\n\r\nbody\r\n" % uid) for uid in range(1, 5)})
    async with pair(certificates.good, mailbox=box, script={"LISTING": answer}) as (maildrop, _):
        for times in (1, 2):
            async with maildrop.open(CLIENT, None) as session:
                uids = [int(entry.unique_id[:8], 16) for entry in session.entries]
                assert uids == [1, 2, 4], "and is looked for again the next time"
                assert await read(session, 2) == box.messages[4].octets
            told = [record for record in caplog.records if record.getMessage().startswith("the server's listing")]
            assert len(told) == times
            facts = told[-1].__dict__["facts"]
            assert (facts["shown"], facts["of"]) == (3, 4)
            assert named in facts["cause"]
            assert len(facts["cause"]) < 500


async def test_an_odd_row_among_the_new_ones(certificates: Certificates) -> None:
    """What was listed before stays shown, and so does what comes with it."""
    box = Mailbox.of(*MAIL[:2])

    def spoil(_: Connection, command: str) -> bytes:
        return odd if command.startswith("UID FETCH 3:") else ROWS + b"* 3 FETCH (UID 0)\r\n" + LAST + OK

    async with pair(certificates.good, mailbox=box) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 2
        box.messages |= {3: Message(b"x"), 4: Message(b"y")}
        server.script["LISTING"] = spoil
        for odd in (b"* 3 FETCH (UID 0 RFC822.SIZE 19)\r\n" + OK, b"TAG NO no\r\n"):  # noqa: B007 (see above)
            async with maildrop.open(CLIENT, None) as session:
                assert [int(entry.unique_id[:8], 16) for entry in session.entries] == [1, 2, 4]


FLAGGED = b"* 1 FETCH (UID 1 FLAGS ($Pop3Deleted))\r\n* 2 FETCH (UID 2 FLAGS (\\Seen a]b))\r\n"


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (FLAGGED + OK, [2, 3]),
        (FLAGGED.replace(b"$Pop3Deleted", b'"$Pop3Deleted" "\\\\Seen"') + OK, [2, 3]),
        (FLAGGED + b"* 3 FETCH (UID 3 FLAGS (\r\n" + OK, [2]),
        (FLAGGED + b"* 3 FETCH (UID 3 MODSEQ (5))\r\n* 3 FETCH (UID 3 FLAGS (\r\n" + OK, [2]),
        (FLAGGED + b"TAG NO some could not be fetched\r\n", [2]),
    ],
)
async def test_what_may_have_been_deleted_is_not_shown(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, answer: bytes, shown: list[int]
) -> None:
    """Where a server does not tell a message's flags, nobody knows whether a device has deleted it."""
    box = Mailbox.of(*MAIL)
    box.permanent_flags = r"\Deleted \*"

    def flags(_: Connection, command: str) -> bytes | None:
        return answer if "FLAGS" in command else None

    async with pair(
        certificates.good, mailbox=box, script={"LISTING": flags}, BACKEND_IMAP_DELETE="flag"
    ) as (maildrop, server):  # fmt: skip
        async with maildrop.open(CLIENT, None) as session:
            assert [int(entry.unique_id[:8], 16) for entry in session.entries] == shown
        assert ("flags or dates can not be read" in caplog.text) == (shown == [2])
        server.script["LISTING"] = lambda _, command: "NO nothing" if "FLAGS" in command else None
        with pytest.raises(Failure):
            async with maildrop.open(CLIENT, None):
                pass


@pytest.mark.parametrize("answer", ["NO no", "NO [UNAVAILABLE] later", b"* 1 FETCH (UID 0 RFC822.SIZE 1)\r\n" + OK])
async def test_a_listing_with_nothing_to_show_is_no_empty_maildrop(certificates: Certificates, answer: Action) -> None:
    async with pair(certificates.good, *MAIL, script={"LISTING": answer}) as (maildrop, _):
        with pytest.raises(Failure):
            async with maildrop.open(CLIENT, None):
                pass


async def test_a_server_that_asks_for_patience_behind_the_rows_gets_it(certificates: Certificates) -> None:
    answer = ROWS + b"TAG NO [UNAVAILABLE] later\r\n"
    async with pair(certificates.good, *MAIL, script={("LISTING", 1): answer}) as (maildrop, _):
        with pytest.raises(Overloaded):
            async with maildrop.open(CLIENT, None):
                pass
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 3


# The parts, with any chunks and any shape.


def fetched(into: Fetched, answer: bytes, cuts: Collection[int]) -> IMAP4:
    """`answer`, in portions that end at `cuts`, read into `into`."""
    wire = Wire(Patience())
    wire.allow(60, 1 << 22)
    wire._socket = _Server(answer, cuts)  # type: ignore[assignment]
    wire._read_from_socket()
    imap = IMAP4(wire)
    imap.debug = 0
    imap.state = "SELECTED"
    imap.fetched = into
    check(imap.uid("FETCH", "1:*", "(ALL)"))
    return imap


ATOMS = st.text(st.sampled_from('abyzABYZ0189.-_$\\[]<>*%{}"\x7fé'), min_size=1, max_size=8).filter(
    lambda text: (
        not text.startswith('"')
        and text.upper() != "NIL"
        and not re.match(r"(BODY|BINARY)\[", text, re.IGNORECASE)
        and not re.search(r"\{\d+\+?\}$", text)
    )
)
STRINGS = st.binary(max_size=30)
VALUES: st.SearchStrategy[Value] = st.recursive(
    st.none() | ATOMS | STRINGS, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8
)
NAMES = st.from_regex(r"\A[A-Z][A-Z0-9.-]{1,12}\Z").filter(lambda name: name not in ("UID", "NIL"))
BLANKS = st.sampled_from([b" ", b"  ", b"\t", b" \t "])


@st.composite
def written(draw: st.DrawFn, value: Value) -> bytes:
    """One of the ways to write it."""
    if value is None:
        return draw(st.sampled_from([b"NIL", b"nil", b"Nil"]))
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, tuple):
        parts = [draw(written(part)) for part in value]
        return b"(" + b"".join(part + draw(BLANKS) for part in parts[:-1]) + b"".join(parts[-1:]) + b")"
    if not any(octet in value for octet in b"\r\n\0") and draw(st.booleans()):
        return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return b"%b{%d%b}\r\n%b" % (
        draw(st.sampled_from([b"", b"~"])),
        len(value),
        draw(st.sampled_from([b"", b"+"])),
        value,
    )


def cased(draw: st.DrawFn, name: str) -> bytes:
    return "".join(draw(st.sampled_from([letter.upper(), letter.lower()])) for letter in name).encode()


@st.composite
def response(draw: st.DrawFn, attributes: Attributes) -> bytes:
    """A FETCH response with these attributes in any order."""
    names = draw(st.permutations(sorted(attributes)))
    items = [cased(draw, name) + draw(BLANKS) + draw(written(attributes[name])) for name in names]
    number, end = draw(st.integers(1, 1 << 32)), draw(st.sampled_from([b"\r\n", b"\n"]))
    return (
        b"*%b%d%b%b (" % (draw(BLANKS), number, draw(BLANKS), cased(draw, "FETCH"))
        + draw(BLANKS).join(items)
        + b")"
        + end
    )


BESIDES = [
    b"* 4 EXISTS\r\n",
    b"* OK [ALERT] text {5}\r\n",
    b'* NO [X ("]")] "\r\n',
    b"* 1 FETCH (FLAGS (\\Seen))\n",
    b"* LIST () NIL {2}\r\n\r\n\r\n",
    b'* LIST () NIL "a\nA1 OK done"\n',
]


@given(st.data())
def test_fetch_responses_are_read_as_they_were_meant(data: st.DataObject) -> None:
    meant = data.draw(st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=5))
    rows: list[Attributes] = [{"UID": str(uid), **attributes} for uid, attributes in enumerate(meant, 1)]
    lines = []
    for row in rows:
        lines += data.draw(st.lists(st.sampled_from(BESIDES), max_size=2))
        lines.append(data.draw(response(row)))
    answer = b"".join(lines)
    into = Fetched()
    fetched(into, answer, data.draw(st.sets(st.integers(0, len(answer) + 20), max_size=20)))
    assert [row for row in into.rows if "UID" in row] == rows


@given(st.data())
def test_a_body_is_found_wherever_it_stands(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(["BODY[]", "BODY[HEADER]", "BODY[]<0>", "BODY[]<65536>"]))
    octets = data.draw(st.binary(min_size=1, max_size=60))
    attributes = data.draw(st.dictionaries(NAMES, VALUES, max_size=4)) | {"UID": "7"}
    name = section[:-1] + ".65536>" if section.endswith(">") and data.draw(st.booleans()) else section
    others = b"".join(data.draw(st.lists(st.sampled_from(BESIDES), max_size=3)))
    answer = others + data.draw(response(attributes | {name: octets})) + others
    cuts = data.draw(st.sets(st.integers(0, len(answer) + 20), max_size=20) | st.just(range(len(answer) + 20)))
    pieces: list[bytes] = []
    body = Body(7, section, pieces.append)
    imap = fetched(body, answer, cuts)
    assert pieces == [], "not before all of it is proven"
    body.finish(imap.completion[1])
    assert b"".join(pieces) == octets
    batch = Batch([7], section, 1000)
    fetched(batch, answer, cuts)
    assert batch.messages in ({7: octets}, {}), "a quoted one is left for later"


@given(st.binary(max_size=80) | st.text(st.sampled_from('(){}[]"\\ 1aNILUDBOY<>~+\n\t'), max_size=80).map(str.encode))
def test_whatever_comes_is_read_or_refused(line: bytes) -> None:
    for answer in (b"* 1 FETCH " + line + b"\r\n", b"* " + line + b"\r\n", line + b"\r\n"):
        for into in (Fetched(), Body(1, "BODY[]", lambda _: None), Batch([1], "BODY[]", 100)):
            with suppress(Disconnected, ValueError, IMAP4.error):
                fetched(into, answer, ())
    code_in(line)
    mailbox_in((line,))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"[UIDVALIDITY 7] valid [box]", ("UIDVALIDITY", b"7")),
        (b"[uidvalidity 7]", ("UIDVALIDITY", b"7")),
        (b"[READ-WRITE] done", ("READ-WRITE", b"")),
        (b"[PERMANENTFLAGS (a]b [c] \\*)] x]", ("PERMANENTFLAGS", b"(a]b [c] \\*)")),
        (b'[X "a]b\\"]" 5] y]', ("X", b'"a]b\\"]" 5')),
        (b'[X "a] y', ("X", b'"a')),
        (b"[X (a] y", ("X", b"(a")),
        (b"[CAPABILITY IMAP4rev1 UIDPLUS] in [node 3]", ("CAPABILITY", b"IMAP4rev1 UIDPLUS")),
        (b"text [UIDVALIDITY 7]", None),
        (b"[] x", None),
        (b"[X", None),
        (b"", None),
    ],
)
def test_codes(text: bytes, code: tuple[str, bytes] | None) -> None:
    assert code_in(text) == code


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        (b"(BODY[] {28}", 28),
        (b"(BODY[]  ~{28}", 28),
        (b"(BODY[]{28}", 28),
        (b"({0}", 0),
        (b"{5+}", 5),
        (b'() "/" {5}', 5),
        (b'() "/" a{5}', None),
        (b"{-1}", None),
        (b"{5} ", None),
        (b"{}", None),
        (b"}", None),
        (b"", None),
    ],
)
def test_marks_of_literals(text: bytes, octets: int | None) -> None:
    found = announced(text)
    assert (found and found[1]) == octets


def test_strings_that_are_open() -> None:
    assert [is_open(text) for text in (b'"a', b'"a\\"', b'"a" "', b'"\\\\" "')] == [True] * 4
    closed = (b"", b'"a"', b'"a\\"" ("b")', b'""', b'x]" y', b'a"b', b'(A ]")')
    assert [is_open(text) for text in closed] == [False] * len(closed)


HOSTILE = [
    b'"' * 60_000,
    b'\\"' * 30_000,
    b'"\\' * 30_000,
    b"(" * 60_000,
    b"[" * 60_000,
    b"[X " + b"(" * 60_000,
    b"[X " + b"()" * 30_000,
    b'[X "' + b'\\"' * 30_000,
    b"[" + b"X" * 60_000,
    b"[" + b" " * 60_000,
    b"(" + b" " * 60_000 + b"x",
    b"() " + b'"\\' * 30_000,
    b"BODY[" * 12_000,
    b"BODY[ " * 10_000,
    b'" ' + b'\\" ' * 20_000,
    b'"' + b"(\\" * 30_000,
    b"BODY[]<" + b"1" * 60_000,
    b"{" * 60_000 + b"}",
    b"{" + b"1" * 60_000 + b"}",
    b"() NIL " + b" (" * 30_000,
]


def test_a_string_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(Disconnected, match="without an end"):
        fetched(Fetched(), b'* LIST () NIL "' + b"a\n" * 60_000, ())


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:8].decode())
def test_no_line_takes_long(text: bytes) -> None:
    """In a thread that holds the interpreter, all other sessions would wait."""
    began = time.process_time()
    code_in(text)
    announced(text)
    is_open(text)
    mailbox_in((text,))
    for part in (text, b"(" + text):
        with suppress(ValueError):
            Tokens().text(part)
    assert time.process_time() - began < 0.3
