"""A fake SMTP backend that answers as a script says, and tells what it received and what it took responsibility for.

    script = {("RCPT", 2): "550 5.1.1 unknown", "DATA": Drop(), (".", 1): Drip("250 OK")}
    async with FakeSMTPServer(tls=context, script=script) as server:
        ...

A step is a command's name, or one of `TLS` (before an implicit handshake), `GREETING`, `AUTH` (every line of the
login), `BODY` (content, see `after`), `BDAT` (a chunk that isn't the last) and `.` (end-of-data, or the last chunk).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from scramp import ScramException

from fakes import server
from fakes.scram import scram_server
from fakes.server import Encryption
from fakes.stream import Gone, Stream

__all__ = (
    "Action",
    "Connection",
    "Drip",
    "Drop",
    "Encryption",
    "FakeSMTPServer",
    "Hang",
    "Message",
    "Raw",
    "Reset",
    "Say",
)


@dataclass(frozen=True)
class Say:
    """Answer with these lines, after `delay` seconds. A plain `str` in a script is this without a delay."""

    text: str
    delay: float = 0.0


@dataclass(frozen=True)
class Raw:
    """Send exactly these octets, and go on as if the step had been answered. Plain `bytes` in a script are this."""

    octets: bytes


@dataclass(frozen=True)
class Drop(server.Drop):
    """At `BODY`: once `after` octets of it, transparency included, have come.

    At `.`, `accept` makes the server responsible for the message although nobody hears of it.
    """

    after: int = 0
    accept: bool = False


@dataclass(frozen=True)
class Reset(server.Reset):
    """`after` as for `Drop`."""

    after: int = 0


@dataclass(frozen=True)
class Hang(server.Hang):
    """`after` as for `Drop`. See `read_body` for a server that stops reading."""

    after: int = 0


@dataclass(frozen=True)
class Drip:
    """Send the reply octet by octet, `interval` seconds apart."""

    text: str
    interval: float = 0.05


Simple = str | bytes | Say | Raw | Drop | Reset | Hang | Drip | None
Action = Simple | Callable[["Connection", str], Simple | Awaitable[Simple]]
"""A callable gets the connection and the line, and gives an action; `None` is the ordinary answer."""


@dataclass(frozen=True)
class Message:
    """What the server answered 2yz for: it is responsible for this. Content is without transparency."""

    mail: str
    rcpt: tuple[str, ...]
    content: bytes
    octets: int
    sha256: str


@dataclass
class Connection(server.Connection):
    """One connection as the server saw it."""

    @property
    def verbs(self) -> list[str]:
        return [command.split(" ", 1)[0].partition(":")[0].upper() for command in self.commands]


class FakeSMTPServer(server.DialogueServer[Action, Connection]):
    """Takes any mail of anybody, once logged in if it has accounts. `server_final` stands in for SCRAM's last word."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        encryption: Encryption = "implicit",
        script: Mapping[server.Step, Action] | None = None,
        keywords: Sequence[str] = ("SIZE 50000000", "8BITMIME", "SMTPUTF8", "AUTH PLAIN LOGIN"),
        accounts: Mapping[str, str] | None = None,
        keep_content: bool = True,
    ) -> None:
        super().__init__(tls, script)
        self.encryption = encryption
        self.keywords = tuple(keywords)
        self.accounts = dict(accounts or {})
        self.keep_content = keep_content
        self.connections: list[Connection] = []
        self.messages: list[Message] = []
        self.body_octets = 0
        self.steps: list[str] = []
        self.server_final = ""
        self.read_body = asyncio.Event()
        self.read_body.set()
        self._streams: dict[int, Stream] = {}

    async def listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Stream(self._accept), "127.0.0.1", self.port)

    @property
    def verbs(self) -> list[str]:
        """The verbs of all connections, one connection after the other."""
        return [verb for connection in self.connections for verb in connection.verbs]

    def hang_up(self, number: int, last: bytes = b"") -> None:
        """Close that connection, although nobody has sent anything; say `last` before."""
        with suppress(Gone):
            self._streams[number].write(last)
        self._streams[number].drop()

    def _accept(self, stream: Stream) -> None:
        connection = Connection(len(self.connections) + 1)
        self._streams[connection.number] = stream
        self.start(self.serve(connection, stream, _Session(self, connection, stream).run), stream.drop)


class _Session(server.Session[Connection, Stream]):
    line_end = b"\n"

    def __init__(self, server: FakeSMTPServer, connection: Connection, stream: Stream) -> None:
        super().__init__(connection, stream, keep=server.keep_content)
        self._server = server
        self._mail = ""
        self._rcpt: list[str] = []
        self._kept = bytearray()
        self._octets = 0
        self._digest = hashlib.sha256()

    async def run(self) -> None:
        if self._server.encryption == "implicit":
            await self._do("TLS", "", None)
            await self._server.start_tls(self._connection, self._stream)
        await self._do("GREETING", "", "220 fake.test ESMTP")
        while True:
            line = (await self._line()).decode("utf-8", "backslashreplace")
            self._connection.commands.append(line)
            verb = line.split(" ", 1)[0].upper()
            command = getattr(self, f"do_{verb}", None) if verb.isalpha() else None
            if command is None:
                await self._do(verb, line, "500 5.5.1 what?")
            else:
                await command(line)

    # Commands.

    async def do_EHLO(self, line: str) -> None:
        keywords = list(self._server.keywords)
        if self._server.encryption == "starttls" and not self._connection.tls:
            keywords = ["STARTTLS", *(keyword for keyword in keywords if not keyword.startswith("AUTH"))]
        lines = ["fake.test greets you", *keywords]
        await self._do("EHLO", line, "".join(f"250-{each}\n" for each in lines[:-1]) + f"250 {lines[-1]}")

    async def do_HELO(self, line: str) -> None:
        await self._do("HELO", line, "250 fake.test")

    async def do_STARTTLS(self, line: str) -> None:
        if (await self._do("STARTTLS", line, "220 2.0.0 go ahead")).startswith("220"):
            await self._server.start_tls(self._connection, self._stream)

    async def do_AUTH(self, line: str) -> None:
        _, mechanism, *answers = line.split(" ")
        if mechanism.startswith("SCRAM-") and mechanism in " ".join(self._server.keywords).split():
            await self._take_proof(line, mechanism, *answers)
            return
        needed = 2 if mechanism == "LOGIN" else 1
        while True:
            # "VXNlcm5hbWU6" is "Username:", and what a client expects next is "Password:".
            prompt = ("VXNlcm5hbWU6", "UGFzc3dvcmQ6")[len(answers) % 2] if mechanism == "LOGIN" else ""
            default = f"334 {prompt}" if len(answers) < needed else self._judge(mechanism, answers)
            if not (await self._do("AUTH", line, default)).startswith("334"):
                return
            line = (await self._line()).decode("ascii", "backslashreplace")
            answers.append(line)

    async def _take_proof(self, line: str, mechanism: str, first: str) -> None:
        server, user = scram_server(mechanism, self._server.accounts.items())
        try:
            server.set_client_first(base64.b64decode(first).decode())
            for challenge in (server.get_server_first, server.get_server_final):
                said = challenge() if challenge == server.get_server_first else self._server.server_final or challenge()
                if not (await self._do("AUTH", line, f"334 {_base64(said)}")).startswith("334"):
                    return
                line = (await self._line()).decode("ascii")
                if challenge == server.get_server_first:
                    server.set_client_final(base64.b64decode(line).decode())
        except ScramException:
            await self._do("AUTH", line, "535 5.7.8 wrong")
            return
        self._connection.user, self._connection.password = user(), self._server.accounts[user()]
        await self._do("AUTH", line, "235 2.7.0 welcome")

    def _judge(self, mechanism: str, answers: Sequence[str]) -> str:
        if mechanism not in ("PLAIN", "LOGIN"):
            return "504 5.5.4 what?"
        fields = [base64.b64decode(answer).decode("utf-8") for answer in answers]
        user, password = fields[0].split("\0")[1:] if mechanism == "PLAIN" else fields[:2]
        self._connection.user, self._connection.password = user, password
        return "235 2.7.0 welcome" if self._server.accounts.get(user) == password else "535 5.7.8 wrong"

    async def do_MAIL(self, line: str) -> None:
        if (await self._do("MAIL", line, "503 5.5.1 twice" if self._mail else "250 2.1.0 OK")).startswith("2"):
            self._mail = line

    async def do_RCPT(self, line: str) -> None:
        if (await self._do("RCPT", line, "250 2.1.5 OK" if self._mail else "503 5.5.1 MAIL first")).startswith("2"):
            self._rcpt.append(line)

    async def do_DATA(self, line: str) -> None:
        said = await self._do("DATA", line, "354 go ahead" if self._rcpt else "503 5.5.1 RCPT first")
        if not said.startswith("354"):
            return
        await self._end(*await self._content())

    async def do_BDAT(self, line: str) -> None:
        """A chunk is read whatever is said of it (RFC 3030 §2); after a refused one, none counts until RSET."""
        _, octets, *last = line.split(" ")
        chunk = await self._chunk(int(octets))
        self._digest.update(chunk)
        self._octets += len(chunk)
        if self._server.keep_content:
            self._kept += chunk
        if last:
            await self._end(bytes(self._kept), self._octets, self._digest.hexdigest())
            return
        said = await self._do("BDAT", line, f"250 2.0.0 {octets} octets" if self._rcpt else "503 5.5.1 RCPT first")
        if not said.startswith("2"):
            self._rcpt = []

    async def _chunk(self, octets: int) -> bytes:
        action = self._server.act("BODY")
        limit = getattr(action, "after", 0)
        acted = action is None
        chunk = bytearray()
        while True:
            came = min(octets - len(chunk), len(self._buffer))
            chunk += self._buffer[:came]
            del self._buffer[:came]
            self._server.body_octets += came
            await self._server.notice()
            if not acted and len(chunk) >= limit:
                acted = True
                await self._perform(action, "BODY", None)
            if not self._server.read_body.is_set():
                await self._server.read_body.wait()
            if len(chunk) == octets:
                return bytes(chunk)
            await self._receive()

    async def _end(self, content: bytes, octets: int, sha256: str) -> None:
        message = Message(self._mail, tuple(self._rcpt), content, octets, sha256)
        taken = "250 2.0.0 queued" if self._rcpt else "554 5.5.1 for nobody"
        self._forget()
        self._connection.commands.append(".")
        action = self._server.act(".")
        if isinstance(action, Drop) and action.accept:
            self._server.messages.append(message)
        if (await self._perform(action, ".", taken)).startswith("2"):
            self._server.messages.append(message)
        await self._server.notice()

    async def do_RSET(self, line: str) -> None:
        self._forget()
        await self._do("RSET", line, "250 2.0.0 OK")

    async def do_NOOP(self, line: str) -> None:
        await self._do("NOOP", line, "250 2.0.0 OK")

    async def do_QUIT(self, line: str) -> None:
        await self._do("QUIT", line, "221 2.0.0 bye")
        raise Gone

    def _forget(self) -> None:
        self._mail = ""
        self._rcpt = []
        self._kept = bytearray()
        self._octets = 0
        self._digest = hashlib.sha256()

    # Content.

    async def _content(self) -> tuple[bytes, int, str]:
        """The content without its transparency (RFC 5321 §4.5.2); then octets and digest of it as it was sent."""
        action = self._server.act("BODY")
        limit = getattr(action, "after", 0)
        acted = action is None
        digest = hashlib.sha256()
        kept = bytearray()
        octets = 0
        window = bytearray(b"\r\n")  # the end of the DATA command is the line end before the first line …
        foreign = 2  # … and no part of the content
        while True:
            if not acted and octets + len(window) - foreign + len(self._buffer) >= limit:
                acted = True
                await self._perform(action, "BODY", None)
            if not self._server.read_body.is_set():
                await self._server.read_body.wait()
            if not self._buffer:
                await self._receive()
            window += self._buffer
            self._buffer.clear()
            end = window.find(b"\r\n.\r\n")
            if end >= 0:
                self._buffer += window[end + 5 :]
                piece = bytes(window[: end + 2])
                del window[:]
            else:
                piece = bytes(window[:-4])
                del window[:-4]
            piece, foreign = piece[foreign:], max(0, foreign - len(piece))
            octets += len(piece)
            self._server.body_octets += len(piece)
            await self._server.notice()
            digest.update(piece)
            if self._server.keep_content:
                kept += piece
            if end >= 0:
                return (b"\r\n" + kept).replace(b"\r\n.", b"\r\n")[2:], octets, digest.hexdigest()

    # Octets.

    async def _line(self) -> bytes:
        return (await super()._line()).removesuffix(b"\r")

    async def _send(self, octets: bytes) -> None:
        self._stream.write(octets)

    async def _do(self, step: str, line: str, default: str | None) -> str:
        self._server.steps.append(step)
        await self._server.notice()
        return await self._perform(self._server.act(step), line, default)

    async def _perform(self, action: Action, line: str, default: str | None) -> str:
        """Do what the script says, and tell what was said."""
        given = await self._given(action, line)
        match default if given is None else given:
            case str(text):
                return self._say(text)
            case Say(text, delay):
                await asyncio.sleep(delay)
                return self._say(text)
            case bytes(octets) | Raw(octets):
                self._stream.write(octets)
                return octets.decode("latin-1")
            case Drip(text, interval):
                for octet in _wire(text):
                    self._stream.write(bytes((octet,)))
                    await asyncio.sleep(interval)
                return text
            case Drop() | Reset() | Hang() as end:
                await self._leave(end)
        return ""

    def _say(self, text: str) -> str:
        self._stream.write(_wire(text))
        return text


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _wire(text: str) -> bytes:
    return "".join(f"{line}\r\n" for line in text.split("\n")).encode("utf-8", "surrogateescape")
