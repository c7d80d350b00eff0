"""Each transcript, run line by line, octet by octet, and as one pipelined lump with a half-close behind it.

Only behind a DATA that is refused does each of them wait for the reply: what comes without waiting there is content.

``C:`` is a line of the client, ``C=`` octets with Python's escapes, ``S:`` a line of the server, ``DELIVERED:`` the
envelope of a message that the relay took over, in order, with its content's lines behind ``|`` or octets behind ``|=``.
``LOGIN: user password`` is a login that is judged, in order, so that AUTH is offered; behind ``FAIL: kind`` it does so.
``S: {GREETING}`` and the like stand for what :mod:`announced` has.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import announced
from legacy_email_proxy import contracts
from legacy_email_proxy.contracts import Failure, Login, Secret
from smtp.conftest import Leg, StartLeg


def _octets(text: str) -> bytes:
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def _content(line: str) -> bytes:
    return _octets(line[3:]) if line.startswith("|= ") else line[2:].encode() + b"\r\n"


FILES = sorted((Path(__file__).parent.parent / "transcripts" / "smtp").glob("*.txt"))


@dataclass
class Transcript:
    dialogue: list[tuple[str, bytes]] = field(default_factory=list)
    delivered: list[tuple[str, bytes]] = field(default_factory=list)
    logins: list[tuple[Login, Failure | None]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Transcript:
        found = cls()
        failure: Failure | None = None
        for line in path.read_text().splitlines():
            if line.startswith("S:") and line[3:] in announced.SMTP:
                found.dialogue += [("S", said.encode() + b"\r\n") for said in announced.SMTP[line[3:]]]
            elif line.startswith(("C:", "S:")):
                found.dialogue.append((line[0], line[3:].encode() + b"\r\n"))
            elif line.startswith("C= "):
                found.dialogue.append(("C", _octets(line[3:])))
            elif line.startswith("DELIVERED: "):
                found.delivered.append((line[11:], b""))
            elif line.startswith("|"):
                envelope, content = found.delivered.pop()
                found.delivered.append((envelope, content + _content(line)))
            elif line.startswith("FAIL: "):
                failure = getattr(contracts, line[6:])("the detail is not for the device")
            elif line.startswith("LOGIN: "):
                user, _, password = line[7:].partition(" ")
                found.logins.append((Login(user, Secret(password)), failure))
                failure = None
            else:
                assert not line or line.startswith("#"), line
        assert found.dialogue
        return found

    def lumps(self) -> list[tuple[bytes, bytes]]:
        """What can be sent without waiting, and what is read then."""
        found = [(b"", b"")]
        for number, (speaker, octets) in enumerate(self.dialogue):
            sent, read = found[-1]
            found[-1] = (sent + octets, read) if speaker == "C" else (sent, read + octets)
            if self.dialogue[number - 1][1][:4].upper() == b"DATA" and speaker == "S" and not octets.startswith(b"354"):
                found.append((b"", b""))
        return found

    async def start(self, start_leg: StartLeg) -> Leg:
        judged = iter(self.logins)

        async def verify(login: Login, address: str) -> None:
            expected, failure = next(judged)
            assert login == expected
            if failure:
                raise failure

        return await start_leg(verifier=verify if self.logins else None)


def _delivered(leg: Leg) -> list[tuple[str, bytes]]:
    return [
        (f"{message.reverse_path} > {' '.join(message.forward_paths)}", message.content)
        for message in leg.relay.delivered
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_line_by_line(path: Path, start_leg: StartLeg) -> None:
    transcript = Transcript.read(path)
    leg = await transcript.start(start_leg)
    async with leg.connected() as (reader, writer), asyncio.timeout(20):
        for speaker, octets in transcript.dialogue:
            if speaker == "C":
                writer.write(octets)
            else:
                assert await reader.readline() == octets
        assert await reader.read() == b""
    assert _delivered(leg) == transcript.delivered


@pytest.mark.fault("A19", "A20")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_pipelined(path: Path, start_leg: StartLeg) -> None:
    transcript = Transcript.read(path)
    leg = await transcript.start(start_leg)
    async with leg.connected() as (reader, writer), asyncio.timeout(20):
        lumps = transcript.lumps()
        for sent, read in lumps:
            writer.write(sent)
            if (sent, read) == lumps[-1]:
                writer.write_eof()
            assert await reader.readexactly(len(read)) == read
        assert await reader.read() == b""
    assert _delivered(leg) == transcript.delivered


@pytest.mark.fault("A19")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_octet_by_octet(path: Path, start_leg: StartLeg) -> None:
    transcript = Transcript.read(path)
    leg = await transcript.start(start_leg)
    async with leg.connected() as (reader, writer), asyncio.timeout(20):
        writer.transport.get_extra_info("socket").setsockopt(6, 1, 1)
        for sent, read in transcript.lumps():
            for octet in sent:
                writer.write(bytes([octet]))
                await asyncio.sleep(0)
            assert await reader.readexactly(len(read)) == read
        assert await reader.read() == b""
    assert _delivered(leg) == transcript.delivered
