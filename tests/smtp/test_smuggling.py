"""SMTP smuggling: what looks like an end-of-data makes one message or none, never two, however it is cut."""

from __future__ import annotations

import pytest

from smtp.conftest import Leg
from smuggling import BARE, ENVELOPE, SEQUENCES, second


@pytest.mark.fault("A8")
def test_the_table_has_the_published_ones() -> None:
    published = rb"\n.\n \n.\r\n \r.\r\n \r\n.\n \r\n.\r \r.\r \r.\n \n.\r \r\n.\0\r\n \r\n\0.\r\n \r\n.\r\r\n".split()
    assert set(SEQUENCES) >= {each.decode().encode().decode("unicode_escape").encode("latin-1") for each in published}


def check(leg: Leg) -> None:
    (message,) = leg.relay.delivered
    assert (message.reverse_path, message.forward_paths) == ("a@example.com", ["b@example.com"])
    assert not BARE.search(message.content)
    assert b"MAIL FROM:<evil@example.com>\r\n" in message.content
    assert leg.relay.asked == ["b@example.com"]
    leg.relay.delivered.clear()
    leg.relay.asked.clear()


@pytest.mark.fault("A8")
@pytest.mark.parametrize("sequence", SEQUENCES, ids=repr)
async def test_by_data(leg: Leg, sequence: bytes) -> None:
    octets = b"one" + sequence + second()
    async with leg.wire() as wire:
        await wire.send(b"EHLO x\r\n")
        for cut in range(len(octets)):
            await wire.send(ENVELOPE + b"DATA\r\n" + octets[:cut])
            await wire.send(octets[cut:])
            check(leg)
        assert wire.said.count(b"\r\n250 2.0.0 OK, the message") == len(octets)


@pytest.mark.fault("A8")
@pytest.mark.parametrize("sequence", SEQUENCES, ids=repr)
async def test_by_chunks(leg: Leg, sequence: bytes) -> None:
    octets = b"one" + sequence + second()
    async with leg.wire() as wire:
        await wire.send(b"EHLO x\r\n")
        for cut in range(len(octets)):
            await wire.send(ENVELOPE + b"BDAT %d\r\n%b" % (cut, octets[:cut]))
            rest = b"BDAT %d LAST\r\n%b" % (len(octets) - cut, octets[cut:])
            await wire.send(rest[: len(rest) // 2])
            await wire.send(rest[len(rest) // 2 :])
            check(leg)
        assert wire.said.count(b"\r\n250 2.0.0 OK, the message") == len(octets)
