"""A maildrop that has messages in memory: they are sent as any other, and without an iteration."""

from __future__ import annotations

import re

import pytest

from legacy_email_proxy.contracts import MessageUnavailable
from legacy_email_proxy.pop3 import conversation
from legacy_email_proxy.pop3.wire import ContentEncoder
from pop3.conftest import StartLeg
from pop3.maildrops import MemoryMaildrop, ReadyMaildrop

SENT = b"S: 1\r\n\r\n..one\r\ntwo\r\n.\r\n"


def replies(said: bytes) -> list[bytes]:
    """What follows the replies to the login and stands before that to QUIT."""
    return said.split(b"+OK ")[4:-1]


@pytest.mark.parametrize("slice_octets", [1, 262_144])
async def test_what_is_at_hand_is_not_iterated(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, slice_octets: int
) -> None:
    monkeypatch.setattr(conversation, "_SLICE_OCTETS", slice_octets)
    maildrop = ReadyMaildrop()
    leg = await start_leg(maildrop)
    said = await leg.exchange(b"USER u\r\nPASS p\r\nRETR 1\r\nRETR 2\r\nTOP 1 1\r\nDELE 1\r\nQUIT\r\n")
    assert replies(said) == [
        b"18 octets\r\n" + SENT,
        b"11 octets\r\nS: 2\r\n\r\n2\r\n.\r\n",
        b"top of message follows\r\nS: 1\r\n\r\n..one\r\n.\r\n",
        b"message 1 marked as deleted\r\n",
    ]
    assert maildrop.asked == [("a", None), ("b", None), ("b", None), ("a", 1)], "b was looked for ahead, in vain"
    assert maildrop.iterators == 1
    assert maildrop.commits == [("a",)]


@pytest.mark.parametrize(("failure", "goes_on"), [(MessageUnavailable("gone"), True), (ValueError("defect"), False)])
async def test_a_failure_is_no_message(start_leg: StartLeg, failure: Exception, goes_on: bool) -> None:
    leg = await start_leg(ReadyMaildrop(failure))
    said = await leg.exchange(b"USER u\r\nPASS p\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
    lines = said.split(b"\r\n")
    assert lines[3].startswith(b"-ERR [SYS/TEMP]")
    assert (len(lines) > 5) == goes_on
    assert leg.maildrop.messages.keys() == {"a", "b"}


# What an encoder has to know of a message is different in each: how it begins, and how it ends.
ODD = {
    "a": b"S: a\r\n\r\n1\r\n",
    "b": b".dot first\r\n\r\n.\r\n..\r\n",
    "c": b"no end",
    "d": b"ends with CR\r",
    "e": b"bare\nends\n",
    "f": b"",
    "g": b"NUL \x00 and 8 bit \xe4\r\n",
    "h": b"S: large\r\n\r\n" + b".x\r\n" * 30_000,
    "i": b"S: i\r\n\r\nlast\r\n",
}


@pytest.mark.parametrize("options", [{}, {"replace_nul": True}, {"add_blank_line": True}], ids=str)
@pytest.mark.parametrize(
    "commands",
    [
        [*(b"RETR %d" % number for number in range(1, 10))],
        [*(b"RETR %d\r\nDELE %d" % (number, number) for number in range(1, 10))],
        [b"RETR 1", b"RETR 3", b"RETR 2", b"RETR 2", b"RETR 3"],
        [b"RETR 1", b"TOP 2 1", b"RETR 2", b"TOP 3 0", b"TOP 4 9", b"RETR 5"],
        [b"RETR 1", b"DELE 2", b"RETR 2", b"RETR 3", b"RSET", b"RETR 2", b"RETR 9"],
        [b"RETR 9", b"RETR 8", b"RETR 9", b"XTND XLST subject", b"RETR 1", b"RETR 2"],
    ],
    ids=["in a row", "and deleted", "not in a row", "TOP between", "the next one deleted", "the last one"],
)
async def test_what_was_made_ready_is_what_the_client_asks_for(
    start_leg: StartLeg, commands: list[bytes], options: dict[str, bool]
) -> None:
    said = []
    for maildrop in (MemoryMaildrop(dict(ODD)), ReadyMaildrop(messages=ODD, ready=ODD.keys())):
        leg = await start_leg(maildrop, **options)
        said.append(await leg.exchange(b"USER u\r\nPASS p\r\n" + b"\r\n".join(commands) + b"\r\nQUIT\r\n"))
    assert said[0] == said[1]
    assert said[0].count(b"+OK") >= len(commands)


async def test_a_failure_at_the_next_message_is_told_when_it_is_asked_for(start_leg: StartLeg) -> None:
    maildrop = ReadyMaildrop(MessageUnavailable("gone"), ODD, ready=ODD.keys(), failing=("b",))
    leg = await start_leg(maildrop)
    said = await leg.exchange(b"USER u\r\nPASS p\r\nRETR 1\r\nNOOP\r\nRETR 2\r\nRETR 3\r\nQUIT\r\n")
    after = said.split(b"1\r\n.\r\n", 1)[1]
    assert re.fullmatch(
        rb"\+OK\s+-ERR \[SYS/TEMP\][^\r]+\r\n\+OK 6 octets\r\nno end\r\n\.\r\n\+OK [^\r]+\r\n", after
    ), after


@pytest.mark.parametrize("add_blank_line", [False, True])
@pytest.mark.parametrize("between", [b"NOOP", b"TOP %d 0", b"XTND XLST subject %d", b"LIST %d"])
async def test_each_is_looked_up_and_encoded_once(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, between: bytes, add_blank_line: bool
) -> None:
    encoded: list[bytes] = []
    encode = ContentEncoder._encode

    def counted(encoder: ContentEncoder, piece: bytes) -> bytes:
        if encoder._body_lines is None:
            encoded.append(piece)
        return encode(encoder, piece)

    monkeypatch.setattr(ContentEncoder, "_encode", counted)
    maildrop = ReadyMaildrop(messages=ODD, ready=ODD.keys())
    leg = await start_leg(maildrop, add_blank_line=add_blank_line)
    commands = [(between % number if b"%" in between else between) + b"\r\nRETR %d" % number for number in range(1, 10)]
    await leg.exchange(b"USER u\r\nPASS p\r\n" + b"\r\n".join(commands) + b"\r\nQUIT\r\n")
    assert [asked for asked in maildrop.asked if asked[1] is None] == [(name, None) for name in ODD]
    assert encoded == [*ODD.values()]


async def test_a_large_message_is_not_held_for_a_client_that_may_pause(start_leg: StartLeg) -> None:
    maildrop = ReadyMaildrop(messages=ODD, ready=ODD.keys())
    leg = await start_leg(maildrop)
    async with leg.logged_in() as (reader, writer):
        writer.write(b"RETR 7\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        assert maildrop.asked == [("g", None)]


async def test_beside_another_client_nothing_is_made_ready(start_leg: StartLeg) -> None:
    maildrop = ReadyMaildrop(messages=ODD, ready=ODD.keys())
    leg = await start_leg(maildrop)
    async with leg.logged_in(), leg.logged_in() as (reader, writer):
        writer.write(b"RETR 1\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        assert maildrop.asked == [("a", None)]
