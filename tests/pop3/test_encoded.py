"""Beginnings of messages that are encoded once for several clients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.pop3 import wire
from legacy_email_proxy.pop3.encoded import MAX_PIECE_OCTETS, EncodedMessages
from legacy_email_proxy.pop3.wire import ContentEncoder

_PIECES = st.lists(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"x", b"\0"])).map(b"".join), max_size=4)


def encoded(pieces: list[bytes], shared: EncodedMessages | None, *, replace_nul: bool = False) -> bytes:
    encoder = ContentEncoder(replace_nul=replace_nul, shared=shared)
    return b"".join([*map(encoder.encode, pieces), encoder.finish()])


@given(_PIECES, st.booleans())
def test_every_client_gets_what_it_would_get_alone(pieces: list[bytes], replace_nul: bool) -> None:
    shared = EncodedMessages()
    alone = encoded(pieces, None, replace_nul=replace_nul)
    with shared.client(), shared.client():
        assert [encoded(pieces, shared, replace_nul=replace_nul) for _ in range(3)] == [alone] * 3


def test_a_message_is_encoded_once_for_two_clients_and_each_time_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bytes] = []
    monkeypatch.setattr(wire, "_has_bare_lf", looked_at.append)
    shared, message = EncodedMessages(), bytearray(b"a\r\n.b\r\n")
    piece = bytes(message)
    with shared.client():
        encoded([piece], shared)
        encoded([piece], shared)
        assert len(looked_at) == 2
        with shared.client():
            encoded([piece], shared)
            encoded([piece], shared)
            assert len(looked_at) == 3
            # Equal, but not the same object: another account may have got it.
            encoded([bytes(message)], shared)
            assert len(looked_at) == 4


def test_the_top_of_a_message_is_no_whole_message() -> None:
    shared, piece = EncodedMessages(), b"a: b\r\n\r\n1\r\n2\r\n3\r\n"
    with shared.client(), shared.client():
        whole = encoded([piece], shared)
        top = ContentEncoder(1, shared=shared)
        assert top.encode(piece) + top.finish() == b"a: b\r\n\r\n1\r\n.\r\n"
        assert encoded([piece], shared) == whole


def test_it_keeps_no_more_than_it_may_and_nothing_for_one_client() -> None:
    shared = EncodedMessages(max_octets=200)
    pieces = [*(b"%d" % number * 40 for number in range(4)), b"x" * (MAX_PIECE_OCTETS + 1)]
    with shared.client():
        with shared.client():
            for piece in pieces:
                encoded([piece], shared)
            assert [shared.get(piece) is not None for piece in pieces] == [False, False, True, True, False]
            # What has become longer counts too.
            encoded([b"\n" * 60], shared)
            assert not any(map(shared.get, pieces))
        assert not any(map(shared.get, pieces))
