"""Each transcript, played line by line, octet by octet and as one lump, without I/O; and once more over a socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from legacy_email_proxy.pop3.requests import Verdict
from pop3.conftest import StartLeg
from pop3.maildrops import Play
from pop3.transcripts import FILES, Transcript

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def finish(transcript: Transcript, play: Play) -> None:
    play.feed(b"")
    assert bytes(play.out) == transcript.said("S")
    assert play.closed is not None
    assert not transcript.logins or play.opens == transcript.logins
    transcript.check_deletions(play.maildrop)


@every_file
def test_line_by_line(path: Path) -> None:
    transcript = Transcript.read(path)
    play = transcript.play()
    heard = play.greet()
    for speaker, octets in transcript.dialogue:
        if speaker == "C":
            assert heard == b"", "the server said more than the transcript"
            heard = play.feed(octets)
        else:
            assert heard[: len(octets)] == octets
            heard = heard[len(octets) :]
    assert heard == b""
    finish(transcript, play)


@every_file
def test_octet_by_octet(path: Path) -> None:
    transcript = Transcript.read(path)
    play = transcript.play()
    play.greet()
    client = transcript.said("C")
    for place in range(len(client)):
        play.feed(client[place : place + 1])
    finish(transcript, play)


@every_file
def test_pipelined(path: Path) -> None:
    transcript = Transcript.read(path)
    play = transcript.play()
    play.greet()
    play.feed(transcript.said("C"))
    finish(transcript, play)


@every_file
async def test_over_a_socket(path: Path, start_leg: StartLeg) -> None:
    transcript = Transcript.read(path)
    leg = await start_leg(transcript.maildrop(), **transcript.options)
    async with leg.connected() as (reader, writer), asyncio.timeout(20):
        writer.write(transcript.said("C"))
        writer.write_eof()
        assert await reader.read() == transcript.said("S")
    await leg.ended()
    transcript.check_deletions(leg.maildrop)


def test_there_is_a_transcript_for_each_way_out_that_a_client_can_take() -> None:
    verdicts = set()
    for path in FILES:
        play = Transcript.read(path).play()
        play.greet()
        play.feed(Transcript.read(path).said("C"))
        play.feed(b"")
        verdicts.add(play.verdict)
    assert verdicts == {Verdict.QUIT, Verdict.DROPPED, Verdict.ERRORS, Verdict.REFUSED, Verdict.FAILED}
