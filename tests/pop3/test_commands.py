"""Lines that are commands, and lines that only look like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from announced import CAPABILITIES
from legacy_email_proxy.contracts import Secret
from legacy_email_proxy.pop3.commands import COMMANDS, Command, Keyword, Mistake, State, capabilities, parse
from legacy_email_proxy.pop3.options import Options

GOOD = [
    (b"NOOP", Command(Keyword.NOOP)),
    (b"noop", Command(Keyword.NOOP)),
    (b"QuIt   ", Command(Keyword.QUIT)),
    (b"STAT \t", Command(Keyword.STAT)),
    (b"LIST", Command(Keyword.LIST)),
    (b"LIST ", Command(Keyword.LIST)),
    (b"LIST 3", Command(Keyword.LIST, 3)),
    (b"uidl 12  ", Command(Keyword.UIDL, 12)),
    (b"RETR 1", Command(Keyword.RETR, 1)),
    (b"RETR 01", Command(Keyword.RETR, 1)),
    (b"DELE 4294967295", Command(Keyword.DELE, 4294967295)),
    (b"TOP 1 0", Command(Keyword.TOP, 1, 0)),
    (b"TOP 2 4294967295", Command(Keyword.TOP, 2, 4294967295)),
    (b"AUTH", Command(Keyword.AUTH)),
    (b"auth ", Command(Keyword.AUTH)),
    (b"auth plain", Command(Keyword.AUTH, mechanism="PLAIN")),
    (b"AUTH PLAIN =", Command(Keyword.AUTH, mechanism="PLAIN", initial_response=Secret("="))),
    (b"AUTH CRAM-MD5 ab c", Command(Keyword.AUTH, mechanism="CRAM-MD5", initial_response=Secret("ab c"))),
    (b"STLS", Command(Keyword.STLS)),
    (b"last", Command(Keyword.LAST)),
    (b"xtnd xlst Message-Id", Command(Keyword.XTND, header="Message-Id")),
    (b"XTND XLST From 3 ", Command(Keyword.XTND, 3, header="From")),
    (b"USER me@example.org", Command(Keyword.USER, user="me@example.org")),
    (b"USER John Doe ", Command(Keyword.USER, user="John Doe")),
    (b"USER j\xc3\xbcrgen", Command(Keyword.USER, user="jürgen")),
    (b"PASS secret", Command(Keyword.PASS, password=Secret("secret"))),
    # Everything after the one space is the password (RFC 1939 §7).
    (b"PASS  two words \t"[:-1], Command(Keyword.PASS, password=Secret(" two words "))),
    (b"PASS   ", Command(Keyword.PASS, password=Secret("  "))),
    (b"PASS", Command(Keyword.PASS, password=Secret(""))),
    (b"PASS ", Command(Keyword.PASS, password=Secret(""))),
    (b'pass a"\\{5}%*', Command(Keyword.PASS, password=Secret('a"\\{5}%*'))),
    # Latin-1: the octets come back with surrogateescape.
    (b"PASS \xfc", Command(Keyword.PASS, password=Secret("\udcfc"))),
]

BAD = [
    b"",
    b" ",
    b" NOOP",
    b"NOPE",
    b"NOOP\x00",
    b"NO\rOP",
    b"NOOP x",
    b"QUIT now",
    b"STAT 1",
    b"RETR",
    b"RETR ",
    b"RETR  1",
    b"RETR +1",
    b"RETR -1",
    b"RETR 0",
    b"RETR 00",
    b"RETR 1_0",
    b"RETR 1 2",
    b"RETR 1.",
    b"RETR 0x1",
    b"RETR 1\r",
    b"RETR\t1",
    b"RETR \xd9\xa3",
    b"RETR 4294967296",
    b"RETR " + b"9" * 900,
    b"DELE abc",
    b"LIST 0",
    b"LIST 1 2",
    b"UIDL 1,2",
    b"TOP",
    b"TOP 1",
    b"TOP 1 -1",
    b"TOP 0 1",
    b"TOP 1  1",
    b"TOP 1 1 1",
    b"TOP 1 4294967296",
    b"USER",
    b"USER  ",
    b"USER a\x00b",
    b"USER a\rb",
    b"PASS a\x00b",
    b"PASS a\rDELE 1",
    b"PASS \x1b[2J",
    b"PASS a\tb",
    b"PASS \x7f",
    b"APOP a b",
    b"AUTH PL@IN",
    b"AUTH  PLAIN",
    b"AUTH PLAIN=",
    b"AUTH " + b"X" * 21,
    b"STLS now",
    b"LAST 1",
    b"XTND",
    b"XTND XMIT",
    b"XTND XLST",
    b"XTND XLST a:b",
    b"XTND XLST a\x00",
    b"XTND XLST " + b"x" * 71,
    b"XTND XLST Date 0",
    b"XTND XLST Date 1 2",
    b"XTND XLST Date x",
    b"\xff\xfb\x01",
    b"PA\xc5\xbfS x",
]


@pytest.mark.parametrize(("line", "command"), GOOD)
def test_commands(line: bytes, command: Command) -> None:
    assert parse(line) == command


@pytest.mark.fault("C28")
@pytest.mark.parametrize("line", BAD)
def test_mistakes(line: bytes) -> None:
    with pytest.raises(Mistake) as caught:
        parse(line)
    # The text is told to the client: fixed, printable, and no response code (RFC 2449 §8).
    text = str(caught.value)
    assert text.isascii()
    assert text.isprintable()
    assert not text.startswith("[")


@given(st.binary(max_size=300) | st.sampled_from(list(COMMANDS)).flatmap(
    lambda keyword: st.binary(max_size=30).map(lambda rest: keyword.encode() + rest)
))  # fmt: skip
def test_any_line_is_a_command_or_a_mistake(line: bytes) -> None:
    try:
        command = parse(line)
    except Mistake:
        return
    assert command.keyword in COMMANDS
    # Nothing that could end a line or a string passes into what a backend is told.
    for text in (command.user, command.password.reveal()):
        assert not any(ord(c) < 32 or ord(c) == 127 for c in text)


@pytest.mark.fault("C5")
@given(st.binary(min_size=1, max_size=200))
def test_a_password_reaches_the_backend_octet_for_octet(octets: bytes) -> None:
    clean = bytes(o for o in octets if o >= 32 and o != 127)
    assert parse(b"PASS " + clean).password.reveal().encode("utf-8", "surrogateescape") == clean


def test_the_password_is_not_in_the_representation() -> None:
    assert "hunter2" not in repr(parse(b"PASS hunter2"))


def test_the_table_says_what_is_valid_where() -> None:
    before = {keyword.value for keyword, row in COMMANDS.items() if State.AUTHORIZATION in row.states}
    after = {keyword.value for keyword, row in COMMANDS.items() if State.TRANSACTION in row.states}
    assert before == {"CAPA", "USER", "PASS", "AUTH", "STLS", "QUIT"}
    assert after == {
        "CAPA", "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "RSET", "NOOP", "LAST", "XTND", "QUIT",
    }  # fmt: skip
    assert not any(State.UPDATE in row.states for row in COMMANDS.values())
    assert set(COMMANDS) == set(Keyword)


ALWAYS = CAPABILITIES
PLAIN = Options("x")
WITH_TLS = Options("x", stls=True)


@pytest.mark.parametrize("state", [State.AUTHORIZATION, State.TRANSACTION])
@pytest.mark.parametrize("secured", [False, True])
@pytest.mark.parametrize("options", [PLAIN, WITH_TLS])
def test_capabilities_follow_the_table(options: Options, state: State, *, secured: bool) -> None:
    announced = capabilities(options, state, secured=secured)
    usable = options is WITH_TLS and state is State.AUTHORIZATION and not secured
    assert ("STLS" in announced) == usable
    assert tuple(line for line in announced if line != "STLS") == (*ALWAYS, "IMPLEMENTATION x")


@pytest.mark.parametrize("expire", ["NEVER", "30"])
def test_the_retention_is_announced_where_it_is_known(expire: str) -> None:
    for state in (State.AUTHORIZATION, State.TRANSACTION):
        assert f"EXPIRE {expire}" in capabilities(Options("x", expire=expire), state, secured=False)


def test_the_initial_response_is_not_in_the_representation() -> None:
    assert "aHVudGVyMg" not in repr(parse(b"AUTH PLAIN aHVudGVyMg=="))
