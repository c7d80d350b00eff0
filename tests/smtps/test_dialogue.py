"""Replies, commands and content without a socket: tables of ugly cases, and properties wherever octets are split."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Refused, Secret
from legacy_email_proxy_plugins.backend_settings import Encryption
from legacy_email_proxy_plugins.smtps.protocol import (
    MAX_LINE_OCTETS,
    MAX_REPLY_OCTETS,
    UNASKED,
    ContentEncoder,
    Extensions,
    Malformed,
    Reply,
    ReplyReader,
    command,
    mail_command,
    rcpt_command,
)
from legacy_email_proxy_plugins.smtps.sasl_login import Exchange
from legacy_email_proxy_plugins.smtps.settings import Chunking, Endpoint

REPLIES = [
    (b"250 OK\r\n", [Reply(250, ("OK",))]),
    (b"250\r\n", [Reply(250, ("",))]),
    (b"250-\r\n250 \r\n", [Reply(250, ("", ""))]),
    (b"250-a\r\n250-b c\r\n250 d\r\n", [Reply(250, ("a", "b c", "d"))]),
    # Some servers end lines with LF; a bare CR, or any other control character, is text.
    (b"250-a\n250 b\n", [Reply(250, ("a", "b"))]),
    (b"550 a\rb\x00\r\n", [Reply(550, ("a\rb\x00",))]),
    (b"550 gr\xc3\xb6\xc3\x9fer\xff\r\n", [Reply(550, ("gr\u00f6\u00dfer\ufffd",))]),
    (b"220 a\r\n250 b\r\n", [Reply(220, ("a",)), Reply(250, ("b",))]),
]
NO_REPLIES = [
    b"\r\n",
    b"25\r\n",
    b"2500\r\n",
    b"250_OK\r\n",
    b"150 OK\r\n",
    b"600 OK\r\n",
    b" 250 OK\r\n",
    b"+OK\r\n",
    b"250-a\r\n251 b\r\n",
    b"250-a\r\nb\r\n",
    b"2\xb2\xb3 x\r\n",
]


def read(*pieces: bytes, owed: int = 50) -> tuple[list[Reply], str]:
    reader = ReplyReader()
    reader.ask(owed)
    for piece in pieces:
        reader.feed(piece)
    replies = []
    while (reply := reader.next()) is not None:
        replies.append(reply)
    return replies, reader.part


@pytest.mark.parametrize(("octets", "replies"), REPLIES)
def test_replies_are_the_same_in_one_piece_and_in_many(octets: bytes, replies: list[Reply]) -> None:
    single = [octets[i : i + 1] for i in range(len(octets))]
    assert read(octets) == (replies, "")
    assert read(*single) == (replies, "")
    assert read(octets, b"25") == (replies, "25")
    assert read(octets, b"250-\r\n") == (replies, "250")
    assert read(octets, b"\r")[1]


@pytest.mark.parametrize("octets", NO_REPLIES)
def test_what_is_no_reply(octets: bytes) -> None:
    with pytest.raises(Malformed):
        read(octets)
    with pytest.raises(Malformed):
        read(*(octets[i : i + 1] for i in range(len(octets))))


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_any_octets_are_replies_or_malformed(pieces: list[bytes]) -> None:
    def outcome(*given: bytes) -> object:
        try:
            return read(*given)
        except Malformed:
            return Malformed

    assert outcome(*pieces) == outcome(b"".join(pieces))


@pytest.mark.quirk("aiosmtplib-6")
@pytest.mark.parametrize(
    "octets",
    [
        b"250 " + b"x" * MAX_LINE_OCTETS,
        b"250 " + b"x" * MAX_LINE_OCTETS + b"\r\n",
        b"250-a\r\n" * (MAX_REPLY_OCTETS // 7 + 1),
        b"250 a\r\n" * (MAX_REPLY_OCTETS // 7 + 1),
    ],
    ids=["line", "ended line", "reply", "replies"],
)
def test_a_reply_has_a_limit(octets: bytes) -> None:
    with pytest.raises(Malformed, match=r"octets|no reply"):
        read(*(octets[i : i + 1000] for i in range(0, len(octets), 1000)), owed=1)


def test_replies_that_were_taken_do_not_count_against_the_limit() -> None:
    reader = ReplyReader()
    for _ in range(MAX_REPLY_OCTETS // 4):
        reader.ask(1)
        reader.feed(b"250-a\r\n250 b\r\n")
        assert reader.next() is not None


@pytest.mark.quirk("aiosmtplib-6")
def test_many_recipients_have_room_for_their_verdicts() -> None:
    reader = ReplyReader()
    reader.ask(1000)
    reader.feed(b"550 5.1.1 %b\r\n" % (b"x" * 400) * 1000)
    assert sum(reader.next() is not None for _ in range(1001)) == 1000


SURPLUS = [
    (b"250 a\r\n", 1, "", 1),
    (b"250 a\r\n250 b\r\n", 1, "250 b", None),
    (b"250 a\r\n250 b\r\n", 2, "", 2),
    (b"250 a\r\n250-b\r\n", 1, "250 b", 1),
    (b"250 a\r\n2", 1, "2", 1),
    (b"250 a\r\n\r", 1, "a blank", 1),
    (b"250 a\r\n250 b\r\n2", 2, "2", 2),
    # It says goodbye: what came before that stands.
    (b"250 a\r\n421 b\r\n", 1, "421 b", 1),
    (b"250 a\r\n421 b\r\n250 c\r\n", 1, "421 b", 1),
    (b"250 a\r\n250 b\r\n421 c\r\n", 1, "250 b", None),
    (b"421 a\r\n", 0, "421 a", 0),
    (b"250 a\r\n", 0, "250 a", None),
    (b"", 3, "", 0),
]


@pytest.mark.quirk("aiosmtplib-4")
@pytest.mark.parametrize(("octets", "asked", "unasked", "taken"), SURPLUS)
def test_what_nobody_asked_for_is_noticed_and_makes_the_rest_worthless(
    octets: bytes, asked: int, unasked: str, taken: int | None
) -> None:
    reader = ReplyReader()
    reader.ask(asked)
    reader.feed(octets)
    assert reader.unasked == unasked
    if taken is None:
        with pytest.raises(Malformed, match=UNASKED):
            reader.next()
    else:
        for left in range(taken, 0, -1):
            assert reader.owed == asked - taken + left
            assert reader.next() is not None
        assert taken < asked or reader.unasked == unasked


@pytest.mark.quirk("aiosmtplib-4")
@given(st.integers(0, 5), st.integers(0, 8), st.lists(st.integers(0, 200), max_size=6))
def test_never_more_replies_are_given_than_were_asked_for(asked: int, sent: int, cuts: list[int]) -> None:
    reader = ReplyReader()
    reader.ask(asked)
    octets = b"".join(b"250-%d\r\n250 .\r\n" % number for number in range(sent))
    borders = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    taken = 0
    for start, end in pairwise(borders):
        reader.feed(octets[start:end])
        try:
            while taken < asked and (reply := reader.next()) is not None:
                assert reply.lines[0] == str(taken)
                taken += 1
        except Malformed:
            assert sent > asked
            break
    assert taken <= min(asked, sent)
    assert bool(reader.unasked) == (sent > asked)


ENHANCED = [
    ("550 5.1.1 no such user", "5.1.1", "no such user"),
    ("550 5.1.1", "5.1.1", ""),
    ("550-5.7.1 one\n550 5.7.1 two", "5.7.1", "one two"),
    ("550-5.7.1 one\n550 two", "5.7.1", "one two"),
    ("450 5.7.1 odd", "", "5.7.1 odd"),
    ("550 5.1 half", "", "5.1 half"),
    ("550 5.1.1.1 an address", "", "5.1.1.1 an address"),
    ("550 5.1.1234 far", "", "5.1.1234 far"),
    ("550 x 5.1.1", "", "x 5.1.1"),
    ("550", "", ""),
]


@pytest.mark.parametrize(("line", "enhanced", "text"), ENHANCED)
def test_the_enhanced_code_is_told_from_the_text(line: str, enhanced: str, text: str) -> None:
    (reply,), _ = read("".join(f"{each}\r\n" for each in line.split("\n")).encode())
    assert (reply.enhanced, reply.text) == (enhanced, text)


def test_a_reply_in_the_log_is_one_line() -> None:
    shown = str(Reply(550, ("a\rb\x00\x1b[2J\u2028c", "d" * 1000)))
    assert shown.startswith("550 a b [2J c ddd")
    assert len(shown) == 400


LONG = "correct-horse-" * 5 + "staple!"
REPEATED = [
    ("two  blanks!", [b"two  blanks!"], "two"),
    ("two  blanks!", [b"it was two blanks!"], "two"),
    ("two  blanks!", [b"it was two", b"blanks!"], "two"),
    (" at the ends! ", [b"at the ends!"], "ends"),
    (LONG, [b"x" * 350 + b" " + LONG.encode()], "horse"),
    (LONG, [b"x" * 350, LONG.encode()], "horse"),
    ("p\u00e4ss w\u00f6rd!", ["p\u00e4ss w\u00f6rd!".encode()], "ss w"),
    ("p\u00e4ss w\u00f6rd!", ["P\u00c4SS W\u00d6RD!".encode()], "SS W"),
    ("p\u00e4ss w\u00f6rd!", ["p\u00e4ss w\u00f6rd!".encode("latin-1")], "ss w"),
    ("p\u00e4ss w\u00f6rd!", ["p\u00e4ss w\u00f6rd!".encode().decode("latin-1").encode()], "ss w"),
    ("p\u00e4ss w\u00f6rd!", [b"p?ss w??rd!"], "ss w"),
    ("p\udce4ss w\udcf6rd!", [b"p\xe4ss w\xf6rd!"], "ss w"),
    ("p\u00a0a\u2003ss!", ["p\u00a0a\u2003ss!".encode()], "ss!"),
    ("f\u00f6\x85\u00f6x!", ["f\u00f6\x85\u00f6x!".encode()], "x!"),
    ("AGF", [b"AGFsaWNlAEFHRg=="], "saWNl"),
    ("\u043f\u0430\u0440\u043e\u043b\u044c", ["\u043f\u0430\u0440\u043e\u043b\u044c".encode()], "\u0430"),
]


def login(password: str) -> Exchange:
    endpoint = Endpoint("fake.test", 25, Encryption.NONE, None, "alice", None, 1, None, Chunking(wanted=True))
    return Exchange("PLAIN", endpoint, Secret(password))


@pytest.mark.parametrize(("password", "lines", "piece"), REPEATED)
def test_a_repeated_password_is_not_shown_even_in_part(password: str, lines: list[bytes], piece: str) -> None:
    (reply,), _ = read(b"".join(b"535-" + line + b"\r\n" for line in lines) + b"535 is wrong\r\n")
    shown = login(password).shown(reply)
    assert "***" in shown
    assert piece not in shown
    assert len(shown) <= 400


@pytest.mark.parametrize("password", ["", " ", "\t"])
def test_a_password_of_nothing_hides_nothing(password: str) -> None:
    assert login(password).shown(Reply(535, ("5.7.8 no  such", "user"))) == ("535 5.7.8 no such user")


def test_a_long_reply_is_searched_fast() -> None:
    exchange = login("\u00f6?\u00f6?\u00f6?\u00f6 \u00f6 \u00f6!")
    started = time.process_time()
    exchange.shown(Reply(535, ("\u00f6?\u00f6 " * (MAX_REPLY_OCTETS // 6),)))
    assert time.process_time() - started < 2


def test_extensions() -> None:
    extensions = Extensions.parse(Reply(250, ("size 1", "Size 1000", "auth=login", "AUTH PLAIN login", "", "x")))
    assert extensions.max_octets == 1000
    assert extensions.mechanisms == {"PLAIN", "LOGIN"}
    assert "X" in extensions
    assert "STARTTLS" not in extensions


LEGAL = st.one_of(
    st.just(""),
    st.from_regex(r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~.@,:;()\[\]-]{1,60}", fullmatch=True),
    st.from_regex(r'"(?:[ !#-\[\]-~]|\\[ -~]){0,30}"@[a-z.]{1,20}', fullmatch=True),
)


@pytest.mark.quirk("aiosmtplib-1")
@given(LEGAL)
def test_a_path_arrives_octet_for_octet(path: str) -> None:
    assert mail_command(path, {}, Extensions()) == b"MAIL FROM:<" + path.encode() + b">\r\n"
    assert rcpt_command(path, {}, {}, Extensions()) == b"RCPT TO:<" + path.encode() + b">\r\n"


COMMANDS = [
    rb"MAIL FROM:<(?P<path>[^\r\n]*)>(?: SIZE=[0-9]+)?(?: BODY=8BITMIME)? SMTPUTF8(?: RET=\w+)?(?: ENVID=[!-~]+)?\r\n",
    rb"RCPT TO:<(?P<path>[^\r\n]*)>(?: NOTIFY=[A-Z,]+)?(?: ORCPT=[!-~]+)?\r\n",
]


@pytest.mark.quirk("aiosmtplib-1")
@given(st.text(max_size=40), st.one_of(st.text(max_size=20), st.from_regex(r"rfc822;[^\n]{1,9}|[A-Z+,=\r\n ]{1,9}")))
def test_no_path_and_no_parameter_ever_makes_a_second_command_or_parameter(path: str, value: str) -> None:
    parameters = {
        "SIZE": value, "BODY": value, "SMTPUTF8": None, "RET": value, "ENVID": value, "NOTIFY": value, "ORCPT": value,
    }  # fmt: skip
    extensions = Extensions({"SIZE": (), "8BITMIME": (), "SMTPUTF8": (), "DSN": ()})
    try:
        lines = [
            mail_command(path, parameters, extensions),
            rcpt_command(path, parameters, parameters, extensions),
        ]
    except Refused:
        return
    for line, pattern in zip(lines, COMMANDS, strict=True):
        found = re.fullmatch(pattern, line, re.DOTALL)
        assert found is not None
        assert found["path"] == path.encode()
        unquoted = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", found["path"])
        assert not set(unquoted) & set(b' <>"\\')


@pytest.mark.parametrize("word", ["a\r\nQUIT", "a\n", "\0", "\x7f", "\x80"])
def test_a_command_holds_no_control_characters(word: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        command("EHLO", word)


def sent(*pieces: bytes, dots: bool = True) -> bytes:
    encoder = ContentEncoder(dots=dots)
    return b"".join([*map(encoder.encode, pieces), encoder.end()])


def received(octets: bytes) -> bytes:
    """What a strict server takes from the wire: nothing but CRLF ends a line, and a line's first dot is no content."""
    lines = octets.split(b"\r\n")
    assert lines[-2:] == [b".", b""], "one end-of-data, at the end"
    assert b"." not in lines[:-2], "and no other"
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:-2])


UGLY = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"", b"\r\n.\r\n"]), max_size=30)
CLEAN = st.lists(st.sampled_from([b"\r\n", b".", b"..", b"a", b"\xff\x00"]), max_size=30)


@given(CLEAN, st.lists(st.integers(0, 80), max_size=10))
def test_clean_content_arrives_octet_for_octet_however_it_is_split(words: list[bytes], cuts: list[int]) -> None:
    content = b"".join(words) + b"\r\n"
    borders = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = [content[start:end] for start, end in pairwise(borders)]
    assert received(sent(*pieces)) == content
    assert sent(*pieces, dots=False) == content


@given(UGLY)
def test_no_content_ever_ends_early_whatever_a_server_takes_for_a_line_end(pieces: list[bytes]) -> None:
    octets = sent(*pieces)
    assert octets.endswith(b"\r\n.\r\n") or octets == b".\r\n"
    ends = re.finditer(rb"(?<![^\r\n])\.(?=[\r\n])", octets)
    assert [found.end() for found in ends] == [len(octets) - 2]


@given(UGLY)
def test_a_bare_line_end_near_a_dot_or_at_the_end_becomes_crlf(words: list[bytes]) -> None:
    content = b"".join([b".", *words])
    expected = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    if not expected.endswith(b"\r\n"):
        expected += b"\r\n"
    assert received(sent(content)) == expected
    assert sent(b"a", b"\n", dots=False) == b"a\r\n"
