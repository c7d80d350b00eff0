"""A maildrop that has messages in memory: they are sent as any other, and without an iteration."""

from __future__ import annotations

import pytest

from legacy_email_proxy.contracts import MessageUnavailable
from legacy_email_proxy.pop3 import conversation
from pop3.conftest import StartLeg
from pop3.maildrops import ReadyMaildrop

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
    assert maildrop.asked == [("a", None), ("b", None), ("a", 1)]
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
