"""A fake IMAP server that answers as a script says, and tells every octet that it received.

    script = {("SELECT", 2): "NO [UNAVAILABLE] later", "BODY": Cut(40), ("STORE", 1): Drop()}
    async with FakeIMAPServer({("alice", "secret"): Mailbox.of(b"first")}, tls=context, script=script) as server:
        ...

A step is a command's name without `UID`, or one of `TLS` (before an implicit handshake), `GREETING`, `PLAIN` (the
response of that mechanism), `LISTING` (FETCH of sizes) and `BODY` (FETCH of content).

`str`, `bytes`, `Drop`, `Reset` and `Hang` stand in for the command, which is then not carried out. `Cut` and `Drip`
carry it out and spoil its answer.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from scramp import ScramException

from fakes import server
from fakes.scram import scram_server
from fakes.server import Drop, Encryption, Hang, Reset
from fakes.stream import Gone, Stream

__all__ = (
    "Action",
    "Connection",
    "Cut",
    "Drip",
    "Drop",
    "Encryption",
    "FakeIMAPServer",
    "Hang",
    "Mailbox",
    "Message",
    "Reset",
    "Simple",
)

CHUNK_OCTETS = 65536


@dataclass(frozen=True)
class Cut:
    """Carry the command out, but close after so many octets of the answer; negative counts from its end."""

    after: int


@dataclass(frozen=True)
class Drip:
    """Carry the command out and send the answer, or `octets` for ever, one at a time, `interval` seconds apart."""

    interval: float = 0.02
    octets: bytes = b""


Simple = str | bytes | Drop | Reset | Hang | Cut | Drip | None
Action = Simple | Callable[["Connection", str], Simple | Awaitable[Simple]]
"""`str` is the tagged answer without its tag. `bytes` are sent as they are, `TAG` in them replaced by the tag. A
callable gets the connection and the command and gives an action; `None` is the ordinary answer."""


@dataclass
class Message:
    """One message; `size` is what RFC822.SIZE says, if that is not the truth."""

    octets: bytes
    flags: set[str] = field(default_factory=set)
    size: int | None = None
    date: str = "01-Feb-2024 03:04:05 +0000"


@dataclass
class Mailbox:
    """The one folder of an account. `listed` are the answers to LIST, `folders` what COPY and MOVE put elsewhere."""

    messages: dict[int, Message] = field(default_factory=dict)
    uidvalidity: int = 1_000_000_007
    read_only: bool = False
    permanent_flags: str | None = None
    listed: tuple[str, ...] = (r'(\HasNoChildren) "/" INBOX',)
    folders: dict[str, list[bytes]] = field(default_factory=dict)
    uidnext: int = 1

    @classmethod
    def of(cls, *messages: bytes) -> Self:
        """A mailbox with these messages, from UID 1 on."""
        return cls({uid: Message(octets) for uid, octets in enumerate(messages, 1)})


@dataclass
class Connection(server.Connection):
    """One connection as the server saw it."""

    mailbox: Mailbox | None = None
    tag: str = "*"


class FakeIMAPServer(server.DialogueServer[Action, Connection]):
    """`accounts` is (user, password) → mailbox.

    `challenge` is what asks for the first response to AUTHENTICATE, `server_final` what stands in for SCRAM's last one.
    """

    def __init__(
        self,
        accounts: Mapping[tuple[str, str], Mailbox] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        encryption: Encryption = "implicit",
        script: Mapping[server.Step, Action] | None = None,
        capabilities: Sequence[str] = ("AUTH=PLAIN", "UIDPLUS", "ID"),
    ) -> None:
        self.accounts = dict(accounts or {})
        super().__init__(tls, script)
        self.encryption = encryption
        self.capabilities = tuple(capabilities)
        self.challenge = b"+ \r\n"
        self.server_final: str | None = None
        self.connections: list[Connection] = []
        self.sent_octets = 0
        self.shape: Callable[[bytes], bytes] = lambda octets: octets
        """Writes what is sent, lines and pieces of literals, in another way; for servers with habits of their own."""

    async def listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Outlet(self._accept), "127.0.0.1", self.port)

    @property
    def commands(self) -> list[str]:
        """The commands of all connections, without tags, one connection after the other."""
        return [command for connection in self.connections for command in connection.commands]

    def _accept(self, stream: _Outlet) -> None:
        connection = Connection(len(self.connections) + 1)
        self.start(self.serve(connection, stream, _Session(self, connection, stream).run), stream.drop)


class _Outlet(Stream):
    """A stream whose writer waits while the peer does not read."""

    def __init__(self, connected: Callable[[_Outlet], None]) -> None:
        super().__init__(lambda _: connected(self))

    async def send(self, octets: bytes) -> None:
        """Write, and return once (nearly) all of it is on its way."""
        # Looked at instead of being told: asyncio's TLS calls resume_writing on a protocol that it has let go.
        self.transport.set_write_buffer_limits(high=1 << 30)
        self.write(octets)
        while self.transport.get_write_buffer_size() and not self._ended:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class _Session(server.Session[Connection, _Outlet]):
    def __init__(self, server: FakeIMAPServer, connection: Connection, stream: _Outlet) -> None:
        super().__init__(connection, stream)
        self._server = server

    async def run(self) -> None:
        if self._server.encryption == "implicit":
            await self._do("TLS", "", ())
            await self._server.start_tls(self._connection, self._stream)
        await self._do("GREETING", "", [b"* OK fake.test greets you\r\n"])
        while True:
            self._connection.tag, _, command = (await self._command()).partition(" ")
            self._connection.commands.append(command)
            await self._server.notice()
            name = command.upper().removeprefix("UID ").partition(" ")[0]
            carry_out = getattr(self, f"do_{name}", None) if name.isalpha() else None
            if carry_out is None:
                await self._do(name, command, self._tagged("BAD what?"))
            else:
                await carry_out(command)

    # Commands.

    async def do_CAPABILITY(self, command: str) -> None:
        capabilities = list(self._server.capabilities)
        if self._server.encryption == "starttls" and not self._connection.tls:
            capabilities = ["STARTTLS", "LOGINDISABLED"]
        await self._do("CAPABILITY", command, self._tagged("OK done", f"CAPABILITY IMAP4rev1 {' '.join(capabilities)}"))

    async def do_STARTTLS(self, command: str) -> None:
        if await self._do("STARTTLS", command, self._tagged("OK go ahead")):
            await self._server.start_tls(self._connection, self._stream)

    async def do_LOGIN(self, command: str) -> None:
        user, password = _strings(command.partition(" ")[2])
        await self._do("LOGIN", command, self._judged(user, password))

    async def do_AUTHENTICATE(self, command: str) -> None:
        action = self._server.act("AUTHENTICATE")
        if action is not None:
            await self._perform(action, command, ())
            return
        await self._send(self._server.challenge)
        if " SCRAM-" in command:
            await self._take_proof(command)
            return
        if not command.endswith(" PLAIN"):
            await self._take_token(command)
            return
        _, user, password = base64.b64decode(await self._line()).decode().split("\0")
        await self._do("PLAIN", command, self._judged(user, password))

    async def _take_proof(self, command: str) -> None:
        """SCRAM: the account is the one of that user."""
        known = list(self._server.accounts)
        server, user = scram_server(command.split(" ")[1], known)
        try:
            server.set_client_first(base64.b64decode(await self._line()).decode())
            await self._send(b"+ " + base64.b64encode(server.get_server_first().encode()) + b"\r\n")
            server.set_client_final(base64.b64decode(await self._line()).decode())
        except ScramException:
            await self._do("SCRAM", command, self._judged(user(), ""))
            return
        final = server.get_server_final() if self._server.server_final is None else self._server.server_final
        if final:
            await self._send(b"+ " + base64.b64encode(final.encode()) + b"\r\n")
            if await self._line() == b"*":
                await self._do("SCRAM", command, self._tagged("BAD cancelled"))
                return
        await self._do("SCRAM", command, self._judged(*next(key for key in known if key[0] == user())))

    async def _take_token(self, command: str) -> None:
        """XOAUTH2 and OAUTHBEARER: a token that is no account's is told what is wrong, and waits for an answer."""
        response = base64.b64decode(await self._line()).decode()
        found = re.fullmatch(r"(?:user=|n,a=)([^,\x01]*)[^=]*(?:host=.*)?\x01auth=Bearer ([^\x01]*)\x01\x01", response)
        assert found is not None, response
        if (found[1], found[2]) not in self._server.accounts:
            await self._send(b"+ " + base64.b64encode(b'{"status":"401","scope":"mail"}') + b"\r\n")
            await self._line()
        await self._do("TOKEN", command, self._judged(found[1], found[2]))

    def _judged(self, user: str, password: str) -> Iterator[bytes]:
        self._connection.user, self._connection.password = user, password
        self._connection.mailbox = self._server.accounts.get((user, password))
        if self._connection.mailbox is None:
            yield from self._tagged("NO [AUTHENTICATIONFAILED] wrong")
        else:
            yield from self._tagged("OK welcome")

    async def do_ID(self, command: str) -> None:
        await self._do("ID", command, self._tagged("OK nice to meet you", 'ID ("name" "fake")'))

    async def do_NOOP(self, command: str) -> None:
        await self._do("NOOP", command, self._tagged("OK done"))

    async def do_LOGOUT(self, command: str) -> None:
        await self._do("LOGOUT", command, [b"* BYE bye\r\n", *self._tagged("OK bye")])
        raise Gone

    async def do_SELECT(self, command: str) -> None:
        mailbox = self._mailbox
        mode = "READ-ONLY" if mailbox.read_only else "READ-WRITE"
        mailbox.uidnext = max(mailbox.uidnext, max(mailbox.messages, default=0) + 1)
        lines = (
            r"FLAGS (\Answered \Flagged \Deleted \Seen \Draft)",
            f"{len(mailbox.messages)} EXISTS",
            "0 RECENT",
            *([] if mailbox.permanent_flags is None else [f"OK [PERMANENTFLAGS ({mailbox.permanent_flags})] kept"]),
            f"OK [UIDVALIDITY {mailbox.uidvalidity}] UIDs valid",
            f"OK [UIDNEXT {mailbox.uidnext}] predicted",
        )
        await self._do("SELECT", command, self._tagged(f"OK [{mode}] selected", *lines))

    async def do_FETCH(self, command: str) -> None:
        _, _, uids, items = command.split(" ", 3)
        step = "BODY" if "BODY" in items else "LISTING"
        await self._do(step, command, self._fetched(uids, items.strip("()").split(" ")))

    def _fetched(self, uids: str, items: Sequence[str]) -> Iterator[bytes]:
        for uid in _in_set(uids, self._mailbox):
            yield from self.fetch_response(uid, items)
        yield from self._tagged("OK fetched")

    def fetch_response(self, uid: int, items: Sequence[str]) -> Iterator[bytes]:
        message = self._mailbox.messages[uid]
        # Our side never looks at sequence numbers, and counting them takes its time in a large mailbox.
        number = list(self._mailbox.messages).index(uid) + 1 if len(self._mailbox.messages) < 1000 else uid
        text = f"* {number} FETCH ("
        for position, item in enumerate(items):
            text += " " if position else ""
            if item == "UID":
                text += f"UID {uid}"
            elif item == "RFC822.SIZE":
                text += f"RFC822.SIZE {len(message.octets) if message.size is None else message.size}"
            elif item == "INTERNALDATE":
                text += f'INTERNALDATE "{message.date}"'
            elif item == "FLAGS":
                text += f"FLAGS ({' '.join(sorted(message.flags))})"
            else:
                name, octets = _section(item, message.octets)
                yield f"{text}{name} {{{len(octets)}}}\r\n".encode()
                for offset in range(0, len(octets), CHUNK_OCTETS):
                    yield octets[offset : offset + CHUNK_OCTETS]
                text = ""
        yield f"{text})\r\n".encode()

    async def do_STORE(self, command: str) -> None:
        await self._do("STORE", command, self._stored(command))

    def _stored(self, command: str) -> Iterator[bytes]:
        _, _, uids, _, flags = command.split(" ", 4)
        for uid in _in_set(uids, self._mailbox):
            self._mailbox.messages[uid].flags |= set(flags.strip("()").split())
        yield from self._tagged("OK stored")

    async def do_LIST(self, command: str) -> None:
        await self._do("LIST", command, self._tagged("OK listed", *(f"LIST {line}" for line in self._mailbox.listed)))

    async def do_XLIST(self, command: str) -> None:
        await self._do("XLIST", command, self._tagged("OK listed", *(f"XLIST {line}" for line in self._mailbox.listed)))

    async def do_COPY(self, command: str) -> None:
        await self._do("COPY", command, self._copied(command))

    def _copied(self, command: str) -> Iterator[bytes]:
        _, _, uids, name = command.split(" ", 3)
        copies = [self._mailbox.messages[uid].octets for uid in _in_set(uids, self._mailbox)]
        self._mailbox.folders.setdefault(name.strip('"'), []).extend(copies)
        yield from self._tagged("OK copied")

    async def do_MOVE(self, command: str) -> None:
        await self._do("MOVE", command, self._moved(command))

    def _moved(self, command: str) -> Iterator[bytes]:
        for _ in self._copied(command):
            pass
        for uid in _in_set(command.split(" ")[2], self._mailbox):
            yield f"* {list(self._mailbox.messages).index(uid) + 1} EXPUNGE\r\n".encode()
            del self._mailbox.messages[uid]
        yield from self._tagged("OK moved")

    async def do_EXPUNGE(self, command: str) -> None:
        await self._do("EXPUNGE", command, self._expunged(command))

    def _expunged(self, command: str) -> Iterator[bytes]:
        messages = self._mailbox.messages
        chosen = _in_set(command.split(" ")[2], self._mailbox) if command.startswith("UID") else list(messages)
        for uid in chosen:
            if r"\Deleted" in messages[uid].flags:
                position = list(messages).index(uid) + 1
                del messages[uid]
                yield f"* {position} EXPUNGE\r\n".encode()
        yield from self._tagged("OK expunged")

    # Answering.

    @property
    def _mailbox(self) -> Mailbox:
        assert self._connection.mailbox is not None, "not logged in"
        return self._connection.mailbox

    def _tagged(self, status: str, *untagged: str) -> Iterator[bytes]:
        yield "".join(f"* {line}\r\n" for line in untagged).encode()
        # A tag is what a client sent, and may be no text: the first octets of TLS, say.
        yield f"{self._connection.tag} {status}\r\n".encode(errors="surrogateescape")

    async def _do(self, step: str, command: str, answer: Iterable[bytes]) -> bool:
        action = self._server.act(step)
        await self._server.notice()
        return await self._perform(action, command, answer)

    async def _perform(self, action: Action, command: str, answer: Iterable[bytes]) -> bool:
        """Whether the command was carried out and answered in the ordinary way."""
        match await self._given(action, command):
            case None:
                for chunk in answer:
                    await self._send(chunk)
                return True
            case str(status):
                await self._send(f"{self._connection.tag} {status}\r\n".encode())
            case bytes(octets):
                await self._send(octets.replace(b"TAG", self._connection.tag.encode()))
            case Drop() | Reset() | Hang() as end:
                await self._leave(end)
            case Cut(after):
                await self._send(b"".join(answer)[:after])
                raise Gone
            case Drip(interval, octets):
                await self._drip(octets or b"".join(answer), interval, for_ever=bool(octets))
                return True
        return False

    async def _drip(self, octets: bytes, interval: float, *, for_ever: bool) -> None:
        # Without somebody who reads, TLS does not tell that the peer is gone.
        gone = asyncio.ensure_future(self._stream.gone()) if for_ever else None
        try:
            while True:
                for octet in octets:
                    await self._send(bytes((octet,)))
                    await asyncio.sleep(interval)
                    if gone is not None and gone.done():
                        raise Gone
                if gone is None:
                    return
        finally:
            if gone is not None:
                gone.cancel()

    async def _send(self, octets: bytes) -> None:
        if octets:
            await self._stream.send(self._server.shape(octets))
            self._server.sent_octets += len(octets)

    # Reading.

    async def _command(self) -> str:
        """One command; its literals stand in it as quoted strings."""
        text = ""
        while True:
            line = (await self._line()).decode("utf-8", "surrogateescape")
            literal = re.search(r"\{(\d+)\}$", line)
            if literal is None:
                return text + line
            await self._send(b"+ go on\r\n")
            octets = (await self._read(int(literal[1]))).decode("utf-8", "surrogateescape")
            quoted = octets.replace("\\", "\\\\").replace('"', '\\"')
            text += f'{line[: literal.start()]}"{quoted}"'

    async def _read(self, octets: int) -> bytes:
        while len(self._buffer) < octets:
            await self._receive()
        read = bytes(self._buffer[:octets])
        del self._buffer[:octets]
        return read


def _strings(text: str) -> list[str]:
    """The quoted strings and atoms of a command's arguments."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', text, re.DOTALL)
    return [atom or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) for quoted, atom in found]


def _in_set(uids: str, mailbox: Mailbox) -> list[int]:
    highest = max(mailbox.messages, default=0)
    chosen: set[int] = set()
    for item in uids.replace("*", str(highest)).split(","):
        first, _, last = item.partition(":")
        low, high = sorted((int(first), int(last or first)))
        chosen |= {uid for uid in mailbox.messages if low <= uid <= high}
    return sorted(chosen)


def _section(item: str, octets: bytes) -> tuple[str, bytes]:
    if match := re.fullmatch(r"BODY\.PEEK\[\]<(\d+)\.(\d+)>", item):
        offset, count = int(match[1]), int(match[2])
        return f"BODY[]<{offset}>", octets[offset : offset + count]
    if item == "BODY.PEEK[HEADER]":
        header, blank, _ = octets.partition(b"\r\n\r\n")
        return "BODY[HEADER]", header + blank
    assert item == "BODY.PEEK[]", item
    return "BODY[]", octets
