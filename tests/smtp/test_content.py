"""The octets behind DATA: where the message ends and what its lines are, however the input is cut."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import normalised
from legacy_email_proxy.smtp.content import MAX_CRS, ChunkDecoder, DataDecoder, LFDataDecoder
from smtp.wire import decoded

CASES = [
    # plain
    (b"a\r\n.\r\n", b"a\r\n", b""),
    (b".\r\n", b"", b""),
    (b"\r\n.\r\n", b"\r\n", b""),
    (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", b"QUIT\r\n"),
    # dot-stuffing comes off once, at the beginning of a line only
    (b"..\r\n.\r\n", b".\r\n", b""),
    (b"...a\r\na..b\r\n.\r\n", b"..a\r\na..b\r\n", b""),
    (b".a\r\n.\r\n", b"a\r\n", b""),
    # bare line ends are repaired, and never end the message
    (b"a\nb\rc\r\n.\r\n", b"a\r\nb\r\nc\r\n", b""),
    (b"a\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n", b""),
    (b"a\n.\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n", b""),
    (b"a\r.\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n", b""),
    (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n", b""),
    (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\r\nb\r\n", b""),
    (b"a\r.\rb\r\n.\r\n", b"a\r\n.\r\nb\r\n", b""),
    (b"a\r\n\0.\r\n.\r\n", b"a\r\n\0.\r\n", b""),
    (b"a\r\n.\0\r\n.\r\n", b"a\r\n\0\r\n", b""),
    # several CRs before an LF: one line end, from programs that translate line ends twice; and never an end-of-data
    (b"A: 1\r\r\nB: 2\r\r\n\r\r\nx\r\r\n.\r\n", b"A: 1\r\nB: 2\r\n\r\nx\r\n", b""),
    (b"a\r\r\r\nb\r\r\n\nc\r\n.\r\n", b"a\r\nb\r\n\r\nc\r\n", b""),
    (b"\r\r\n.\r\r\n.\r\n", b"\r\n\r\n", b""),
    (b"a\r\n.\r\r\n.\r\n", b"a\r\n\r\n", b""),
    (b"a\r\r\n..b\r\r\n.\r\n", b"a\r\n.b\r\n", b""),
    (b"a\r\rb\r\n.\r\n", b"a\r\n\r\nb\r\n", b""),
    (b"a\r\r.\r\r\n\r\n.\r\n", b"a\r\n\r\n.\r\n\r\n", b""),
    # as many as are taken for one line end, and one more
    (b"a" + b"\r" * MAX_CRS + b"\nb\r\n.\r\n", b"a\r\nb\r\n", b""),
    (b"a" + b"\r" * MAX_CRS + b"\r\nb\r\n.\r\n", b"a\r\n\r\nb\r\n", b""),
    (b"a" + b"\r" * MAX_CRS + b"\r\n.\r\n", b"a\r\n\r\n", b""),
]


LF_CASES = [
    (b"a\r\n.\r\nb", b"a\r\n", b"b"),
    (b"a\n.\nb", b"a\r\n", b"b"),
    (b"a\n.\r\nb", b"a\r\n", b"b"),
    (b"a\r\n.\nb", b"a\r\n", b"b"),
    (b".\nb", b"", b"b"),
    (b"..\n...\r\n.x\n.\n", b".\r\n..\r\nx\r\n", b""),
    # A bare CR is an ending of a line here no more than elsewhere, while the end is looked for.
    (b"a\r.\rb\r.\n.\nc", b"a\r\n.\r\nb\r\n.\r\n", b"c"),
    (b"a\n.\r\r\n.\n", b"a\r\n\r\n", b""),
    (b"a\r\r\n.\n", b"a\r\n", b""),
    (b"a" + b"\r" * MAX_CRS + b"\r\n.\n", b"a\r\n\r\n", b""),
]


def decode(pieces: list[bytes], kind: type[DataDecoder] = DataDecoder) -> tuple[bytes, bytes, bool]:
    return decoded(kind(), pieces)


@pytest.mark.fault("A12")
@pytest.mark.quirk("imap-B14")
@pytest.mark.parametrize(("octets", "content", "rest"), CASES)
def test_whole_and_split_everywhere(octets: bytes, content: bytes, rest: bytes) -> None:
    assert decode([octets]) == (content, rest, True)
    for first in range(len(octets) + 1):
        for second in range(first, len(octets) + 1):
            assert decode([octets[:first], octets[first:second], octets[second:]]) == (content, rest, True)


@pytest.mark.parametrize(("octets", "content", "rest"), LF_CASES)
def test_where_lf_ends_a_message(octets: bytes, content: bytes, rest: bytes) -> None:
    assert decode([octets], LFDataDecoder) == (content, rest, True)
    for first in range(len(octets) + 1):
        for second in range(first, len(octets) + 1):
            pieces = [octets[:first], octets[first:second], octets[second:]]
            assert decode(pieces, LFDataDecoder) == (content, rest, True)


@pytest.mark.parametrize("octets", [b"", b"a", b"a\r\n.", b"a\r\n.\r", b"a\n.\n", b"a\r\n.x\r\n", b"a\r.\r"])
def test_not_ended(octets: bytes) -> None:
    assert not decode([octets])[2]


PIECES = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b".", b"\r\n", b"\r\r\n", b"\r\n.", b"\r\n.\r\n", b"\r" * (MAX_CRS - 1), b"a", b"\0", b"\xff"]
    )
)


BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


@pytest.mark.fault("A12")
@pytest.mark.parametrize("kind", [DataDecoder, LFDataDecoder])
@given(pieces=PIECES)
def test_any_cut_gives_the_same(kind: type[DataDecoder], pieces: list[bytes]) -> None:
    whole = decode([b"".join(pieces)], kind)
    assert decode(pieces, kind) == whole
    assert not BARE.search(whole[0])


def reference(octets: bytes) -> tuple[bytes, bytes, bool]:
    """What :class:`DataDecoder` does, octet after octet and as the RFC says it."""
    text = b"\r\n" + octets
    end = text.find(b"\r\n.\r\n")
    content = text[: end + 2] if end >= 0 else text
    lines = content.split(b"\r\n")
    plain = b"\r\n".join([lines[0], *(line.removeprefix(b".") for line in lines[1:])])[2:]
    return re.sub(rb"\r{1,%d}\n|\r|\n" % MAX_CRS, b"\r\n", plain), text[end + 5 :] if end >= 0 else b"", end >= 0


@given(PIECES)
def test_the_decoder_against_the_rfc(pieces: list[bytes]) -> None:
    content, rest, ended = decode(pieces)
    expected = reference(b"".join(pieces))
    assert (rest, ended) == expected[1:]
    assert content == expected[0] if ended else expected[0].startswith(content)


@given(PIECES)
def test_any_chunks_give_the_same(pieces: list[bytes]) -> None:
    decoder = ChunkDecoder()
    content = b"".join(decoder.feed(piece, last=False) for piece in pieces) + decoder.feed(b"", last=True)
    whole = b"".join(pieces)
    assert content == ChunkDecoder().feed(whole, last=True)
    assert not BARE.search(content)
    lines = re.sub(rb"\r{1,%d}\n|\r|\n" % MAX_CRS, b"\r\n", whole)
    assert content in (lines, lines + b"\r\n")
    assert content.endswith(b"\r\n") or not whole


@given(PIECES)
@example([b".", b"\n"])
@example([b"a\n.", b"\r\n"])
@example([b"a\r\n", b".", b"\n"])
@example([b"a\n.\n", b"b"])
def test_an_end_that_only_a_lenient_server_sees_is_noticed(pieces: list[bytes]) -> None:
    decoder = DataDecoder()
    for piece in pieces:
        if not decoder.ended:
            decoder.feed(piece)
    text = b"\r\n" + b"".join(pieces)
    assert decoder.stopped_at_bare_end == (not decoder.ended and bool(re.search(rb"\n\.\r?\n\Z", text)))


@pytest.mark.fault("A12")
@given(st.lists(st.sampled_from([b".", b"a", b"\r\n", b"..", b"\xe9", b"\0"])))
def test_what_a_correct_client_stuffed_comes_back(pieces: list[bytes]) -> None:
    content = b"".join(pieces) + b"\r\n"
    stuffed = re.sub(rb"^\.", b"..", content.replace(b"\r\n", b"\n"), flags=re.MULTILINE).replace(b"\n", b"\r\n")
    assert decode([stuffed + b".\r\nrest"]) == (content, b"rest", True)


@pytest.mark.parametrize("tail", [b"\n", b"\n.", b"\n.\r", b"x"])
@pytest.mark.parametrize("kind", [DataDecoder, LFDataDecoder])
def test_a_run_of_crs_wherever_it_is_cut(kind: type[DataDecoder], tail: bytes) -> None:
    octets = b"a" + b"\r" * (MAX_CRS * 2 + 3) + tail + b"\r\n.\r\n"
    whole = decode([octets], kind)
    assert whole[2]
    for cut in range(len(octets)):
        assert decode([octets[:cut], octets[cut:]], kind) == whole
    assert decode([octets[at : at + 1] for at in range(len(octets))], kind) == whole


def test_nothing_but_crs_is_neither_held_nor_slow() -> None:
    decoder, chunks = DataDecoder(), ChunkDecoder()
    began = time.process_time()
    for _ in range(100):
        assert len(decoder.feed(b"\r" * 10_000)) >= 2 * (10_000 - MAX_CRS - 4)
        assert len(chunks.feed(b"\r" * 10_000, last=False)) >= 2 * (10_000 - MAX_CRS)
    assert time.process_time() - began < 10


def test_memory_is_bounded() -> None:
    decoder = DataDecoder()
    for _ in range(1000):
        assert len(decoder.feed(b"x" * 1000)) >= 996


@pytest.mark.parametrize(
    ("octets", "expected"),
    [(b"", b""), (b"a\r\nb", b"a\r\nb"), (b"\n\r", b"\r\n\r\n"), (b"\r\r\n\n", b"\r\n\r\n\r\n")],
)
def test_normalised(octets: bytes, expected: bytes) -> None:
    assert normalised(octets) == expected
