"""The server over real sockets: what clients, plugins and the system do wrong, and what must hold anyway."""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import poplib
import socket
import ssl
import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from ipaddress import ip_network

import pytest

from announced import POP3_GREETING
from clients import reset_when_closed
from legacy_email_proxy import listeners
from legacy_email_proxy.access import Admission
from legacy_email_proxy.contracts import (
    Client,
    Disconnected,
    Entry,
    Login,
    LoginRefused,
    MessageUnavailable,
    Secret,
    Unreachable,
)
from legacy_email_proxy.pop3 import conversation, server
from legacy_email_proxy.pop3.connection import Connection
from pop3.conftest import Leg, StartLeg
from pop3.maildrops import OPTIONS, MemoryMaildrop, MemorySession
from waiting import until

Ends = Callable[[], list[dict[str, object]]]

LOGIN = b"USER u\r\nPASS p\r\n"
MIB = 1 << 20


def two() -> MemoryMaildrop:
    return MemoryMaildrop({"a": b"S: 1\r\n\r\n.one\r\n", "b": b"S: 2\r\n\r\ntwo\r\n"})


class StreamingMaildrop(MemoryMaildrop):
    """One message "big", made while it is sent. It never waits by itself unless ``gate`` is closed."""

    def __init__(self, octets: int, piece: bytes = b"x" * 998 + b"\r\n") -> None:
        super().__init__({"big": b"", "small": b"S: s\r\n\r\n"})
        self.pieces_left = octets // len(piece)
        self.octets = self.pieces_left * len(piece)
        self.piece = piece
        self.handed_out = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[MemorySession]:
        async with super().open(client, login):
            yield StreamingSession(self, (Entry("big", self.octets), Entry("small", 8)))


class StreamingSession(MemorySession):
    async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        maildrop = self.maildrop
        assert isinstance(maildrop, StreamingMaildrop)
        maildrop.iterators += 1
        try:
            if unique_id == "small":
                yield b"S: s\r\n\r\n"
                return
            for _ in range(maildrop.pieces_left):
                maildrop.handed_out += len(maildrop.piece)
                yield maildrop.piece
                await maildrop.gate.wait()
        finally:
            maildrop.closed += 1


def small_window(address: tuple[str, int]) -> socket.socket:
    """A client that takes only a few KiB until it reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(address)
    return sock


# Whole sessions


async def test_poplib_reads_and_deletes(start_leg: StartLeg, ends: Ends) -> None:
    leg = await start_leg(two())

    def session() -> None:
        client = poplib.POP3(*leg.address, timeout=50)
        assert client.capa()["IMPLEMENTATION"] == ["test"]
        client.user("u")
        client.pass_("p")
        assert client.stat() == (2, 27)
        assert client.list()[1] == [b"1 14", b"2 13"]
        assert client.uidl()[1] == [b"1 a", b"2 b"]
        assert client.retr(1)[1] == [b"S: 1", b"", b".one"]
        assert client.top(2, 0)[1] == [b"S: 2", b""]
        client.dele(1)
        client.quit()

    await asyncio.to_thread(session)
    await leg.ended()
    assert leg.maildrop.commits == [("a",)]
    facts = ends()[-1]
    assert facts | {"session": ""} == {
        "session": "", "client": "127.0.0.1", "user": "u",
        "messages": 2, "retrieved": 1, "top": 1, "failed": 0, "deleted": 1, "octets": 15 + 8, "verdict": "quit",
    }  # fmt: skip


async def test_pipelined_replies_are_sent_together(start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch) -> None:
    sends: list[bytes] = []
    send = Connection.send

    async def counting(self: Connection, octets: bytes) -> None:
        sends.append(octets)
        await send(self, octets)

    monkeypatch.setattr(Connection, "send", counting)
    leg = await start_leg(two())
    async with leg.logged_in() as (reader, writer):
        sends.clear()
        writer.write(b"NOOP\r\n" * 200 + b"STAT\r\n")
        assert (await reader.readuntil(b"+OK 2 27\r\n")).count(b"+OK") == 201
    assert len(sends) == 1


@pytest.mark.parametrize("ask_backend", [True, False])
async def test_who_judges_the_login(start_leg: StartLeg, *, ask_backend: bool) -> None:
    leg = await start_leg(two(), ask_backend=ask_backend)
    await leg.exchange(b"USER me\r\nPASS my pass \r\nQUIT\r\n")
    assert leg.maildrop.logins == [Login("me", Secret("my pass ")) if ask_backend else None]


async def test_the_maildrop_is_left_before_the_last_reply(start_leg: StartLeg) -> None:
    # A client that polls again on our +OK must not find its own lock.
    leg = await start_leg(two())
    async with leg.logged_in() as (reader, writer):
        writer.write(b"DELE 1\r\nQUIT\r\n")
        await reader.readline()
        await reader.readline()
        assert leg.maildrop.left == 1


# Ends of a session


async def test_quit_and_half_close(start_leg: StartLeg) -> None:
    leg = await start_leg(two())
    out = await leg.exchange(LOGIN + b"DELE 2\r\nQUIT\r\n")
    assert out.endswith(b"+OK goodbye\r\n")
    assert leg.maildrop.commits == [("b",)]


@pytest.mark.fault("C22")
@pytest.mark.parametrize("reset", [False, True])
async def test_quit_and_close_without_waiting(start_leg: StartLeg, *, reset: bool) -> None:
    leg = await start_leg(two())
    client = socket.create_connection(leg.address)
    client.sendall(LOGIN + b"DELE 1\r\n")
    if reset:
        # What it was sent is unread: the close is a reset, and our writes fail.
        await until(lambda: leg.maildrop.entered == 1)
        await asyncio.sleep(0.05)
    client.sendall(b"QUIT\r\n")
    client.close()
    await until(lambda: leg.maildrop.commits == [("a",)])
    await leg.ended()
    assert leg.maildrop.commits == [("a",)]


@pytest.mark.fault("C22")
async def test_quit_commits_though_no_reply_can_be_sent(start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(self: Connection, octets: bytes) -> None:
        self.send_failed = True
        await asyncio.sleep(0)

    leg = await start_leg(two())
    async with leg.logged_in() as (_, writer):
        monkeypatch.setattr(Connection, "send", failing)
        writer.write(b"DELE 1\r\n")
        writer.write(b"QUIT\r\n")
        await until(lambda: bool(leg.maildrop.commits))
        await leg.ended()
    assert leg.maildrop.commits == [("a",)]


@pytest.mark.quirk("pop3-P18")
@pytest.mark.fault("C19")
@pytest.mark.parametrize("last", [b"DELE 1\r\n", b"DELE 1\r\nQUIT", b"DELE 1\r\nQUI", b"DELE 1\r\nRSET\r\nQUIT\r\n"])
@pytest.mark.parametrize("reset", [False, True])
async def test_without_quit_nothing_is_deleted(start_leg: StartLeg, ends: Ends, last: bytes, *, reset: bool) -> None:
    leg = await start_leg(two())
    client = socket.create_connection(leg.address)
    client.sendall(LOGIN + last)
    await until(lambda: leg.maildrop.entered == 1)
    if reset:
        reset_when_closed(client)
    client.close()
    await leg.ended()
    assert leg.maildrop.commits == []
    assert len(leg.maildrop.messages) == 2
    assert ends()[-1]["deleted"] == 0
    assert ends()[-1]["verdict"] == ("quit" if b"QUIT\r\n" in last else "dropped")


async def test_a_message_that_did_not_arrive_is_not_deleted(start_leg: StartLeg, ends: Ends) -> None:
    # It pipelined the DELE and QUIT behind a RETR that it never read.
    maildrop = StreamingMaildrop(50 * MIB)
    leg = await start_leg(maildrop)
    client = small_window(leg.address)
    client.sendall(LOGIN + b"RETR 1\r\nDELE 1\r\nQUIT\r\n")
    await until(lambda: maildrop.handed_out > 0)
    client.close()
    await leg.ended()
    assert maildrop.commits == []
    assert maildrop.iterators == maildrop.closed == 1
    assert ends()[-1]["verdict"] == "dropped"


@pytest.mark.fault("C21")
async def test_a_failed_deletion_is_told(start_leg: StartLeg, ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    maildrop = two()
    maildrop.fail["commit"] = Disconnected("EXPUNGE was not answered", look_at="BACKEND_IMAP_HOST")
    leg = await start_leg(maildrop)
    out = await leg.exchange(LOGIN + b"DELE 1\r\nQUIT\r\n")
    assert out.splitlines()[-1].startswith(b"-ERR [SYS/TEMP] ")
    assert out.endswith(b"not removed\r\n")
    await leg.ended()
    assert maildrop.steps.count("commit") == 1
    assert ends()[-1]["verdict"] == "failed"
    causes = [vars(r)["facts"]["cause"] for r in caplog.records if "cause" in vars(r).get("facts", {})]
    assert causes == ["EXPUNGE was not answered (see BACKEND_IMAP_HOST)"]


# Messages


@pytest.mark.fault("C13")
async def test_a_failure_before_the_first_piece_is_an_error_reply(start_leg: StartLeg) -> None:
    maildrop = two()
    maildrop.fail["retrieve a"] = Disconnected("x")
    leg = await start_leg(maildrop)
    out = await leg.exchange(LOGIN + b"RETR 1\r\nRETR 2\r\nQUIT\r\n")
    assert out.splitlines()[3:5] == [
        b"-ERR [SYS/TEMP] the connection to the backend was lost, try again later",
        b"+OK 13 octets",
    ]


async def test_a_message_that_can_not_be_had_is_named_each_time(
    start_leg: StartLeg, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    maildrop = two()
    maildrop.fail["retrieve a"] = MessageUnavailable("FETCH was answered without data")
    leg = await start_leg(maildrop)
    out = await leg.exchange(LOGIN + b"RETR 1\r\nTOP 1 0\r\nRETR 1\r\nRETR 2\r\nQUIT\r\n")
    # Each time, and the rest of the maildrop is not blocked by it.
    refusal = b"-ERR [SYS/TEMP] the backend does not hand out this message"
    assert out.splitlines()[3:7] == [refusal, refusal, refusal, b"+OK 13 octets"]
    await leg.ended()
    named = [vars(r)["facts"]["unique_id"] for r in caplog.records if r.getMessage() == "pop3 message failed"]
    assert named == ["a"] * 3
    assert (ends()[-1]["failed"], ends()[-1]["retrieved"]) == (3, 1)
    assert maildrop.commits == []


@pytest.mark.fault("C13")
@pytest.mark.parametrize("error", [Disconnected("x"), ValueError("x")])
async def test_a_failure_in_the_message_closes_without_the_dot(
    start_leg: StartLeg, ends: Ends, error: Exception
) -> None:
    maildrop = two()
    maildrop.fail["break a"] = error
    leg = await start_leg(maildrop)
    out = await leg.exchange(LOGIN + b"DELE 2\r\nRETR 1\r\nQUIT\r\n")
    assert out.endswith(b"+OK 14 octets\r\nS: 1\r\n")
    await leg.ended()
    assert maildrop.commits == []
    assert ends()[-1]["verdict"] == "failed"


async def test_top_stops_the_maildrop_early(start_leg: StartLeg) -> None:
    maildrop = StreamingMaildrop(50 * MIB, b"S: x\r\n\r\n" + b"y" * 1000 + b"\r\n")
    leg = await start_leg(maildrop)
    out = await leg.exchange(LOGIN + b"TOP 1 0\r\nQUIT\r\n")
    assert b"+OK top of message follows\r\nS: x\r\n\r\n.\r\n+OK" in out
    assert maildrop.handed_out == len(maildrop.piece)
    assert maildrop.iterators == maildrop.closed == 1


class Pieces:
    """An iterator that no garbage collector closes."""

    def __init__(self) -> None:
        self.closes = 0

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        return b"S: x\r\n\r\n" + b"y" * 100_000

    async def aclose(self) -> None:
        self.closes += 1


@pytest.mark.parametrize("command", [b"TOP 1 0\r\nQUIT\r\n", b"RETR 1\r\n"])
async def test_an_iterator_that_is_not_exhausted_is_closed(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, command: bytes
) -> None:
    pieces = Pieces()
    monkeypatch.setattr(MemorySession, "retrieve", lambda session, unique_id: pieces)
    leg = await start_leg(two())
    client = small_window(leg.address)
    client.sendall(LOGIN + command)
    await until(lambda: leg.maildrop.entered == 1)
    client.close()
    await leg.ended()
    assert pieces.closes == 1


@pytest.mark.fault("C26")
async def test_a_slow_reader_costs_little_memory(start_leg: StartLeg) -> None:
    maildrop = StreamingMaildrop(100 * MIB, (b"y" * 998 + b"\r\n") * 100)
    leg = await start_leg(maildrop)
    client = small_window(leg.address)
    tracemalloc.start()
    try:
        client.sendall(LOGIN + b"RETR 1\r\n")
        await until(lambda: maildrop.handed_out > 0)
        before = -1
        while before != maildrop.handed_out:
            before = maildrop.handed_out
            await asyncio.sleep(0.05)
        # The system's buffers are full, and no more is asked of the maildrop.
        assert maildrop.handed_out < 16 * MIB
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()

    def read_all() -> int:
        total = 0
        tail = b""
        while not tail.endswith(b"\r\n.\r\n"):
            got = client.recv(1 << 20)
            assert got
            total += len(got)
            tail = (tail + got)[-5:]
        return total

    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    total = await asyncio.wait_for(asyncio.to_thread(read_all), 30)
    client.close()
    assert 0 <= total - maildrop.octets < 300
    await leg.ended()


@pytest.mark.fault("C26")
async def test_a_reader_that_stopped_is_cut_off(start_leg: StartLeg, ends: Ends) -> None:
    maildrop = StreamingMaildrop(100 * MIB)
    leg = await start_leg(maildrop, progress_seconds=0.2)
    with small_window(leg.address) as client:
        client.sendall(LOGIN + b"RETR 1\r\n")
        await until(lambda: bool(ends()))
        assert ends()[-1]["verdict"] == "idle"
        with pytest.raises(ConnectionResetError):
            _ = [*iter(lambda: client.recv(1 << 20), b"")]
    assert maildrop.iterators == maildrop.closed == 1


async def test_nothing_is_read_ahead_while_a_message_is_sent(start_leg: StartLeg) -> None:
    maildrop = StreamingMaildrop(100 * MIB)
    leg = await start_leg(maildrop)
    client = small_window(leg.address)
    client.setblocking(False)
    client.send(LOGIN + b"RETR 1\r\n")
    await until(lambda: maildrop.handed_out > 0)
    sent = 0
    for _ in range(100):
        with suppress(BlockingIOError):
            while sent < 64 * MIB:
                sent += client.send(b"NOOP\r\n" * 10000)
        await asyncio.sleep(0.002)
    client.close()
    assert sent < 16 * MIB
    await leg.ended()


async def test_a_fast_plugin_and_a_fast_client_leave_room_for_others(start_leg: StartLeg) -> None:
    maildrop = StreamingMaildrop(200 * MIB, (b"y" * 998 + b"\r\n") * 1000)
    leg = await start_leg(maildrop)

    def greedy() -> None:
        with socket.create_connection(leg.address) as client:
            client.sendall(LOGIN + b"RETR 1\r\n")
            while len(client.recv(1 << 20)) > 0:
                if stop.is_set():
                    return

    stop = asyncio.Event()
    thread = asyncio.create_task(asyncio.to_thread(greedy))
    async with leg.logged_in() as (reader, writer):
        await until(lambda: maildrop.handed_out > 0)
        for _ in range(20):
            started = time.monotonic()
            writer.write(b"RETR 2\r\n")
            await reader.readuntil(b"\r\n.\r\n")
            assert time.monotonic() - started < 2
    stop.set()
    await thread


# Plugins


class Outlaw(BaseException):
    """No Exception: it would pass every ordinary except."""


ERRORS = [ValueError("secret detail"), Outlaw("secret detail"), asyncio.CancelledError(), SystemExit(3)]


@pytest.mark.fault("D13")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["open", "retrieve a", "commit"])
async def test_a_broken_plugin_ends_that_session_only(start_leg: StartLeg, step: str, error: BaseException) -> None:
    maildrop = two()
    leg = await start_leg(maildrop)
    async with leg.logged_in() as (reader, writer):
        if step == "open":
            maildrop.fail_open.append(error)
        else:
            maildrop.fail[step] = error
        out = await leg.exchange(LOGIN + b"RETR 1\r\nDELE 1\r\nQUIT\r\n")
        assert out.splitlines()[-1].startswith(b"-ERR [SYS/TEMP] local error, try again later")
        assert b"secret" not in out
        writer.write(b"STAT\r\n")
        assert await reader.readline() == b"+OK 2 27\r\n"
    assert maildrop.commits == []


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


async def test_an_error_that_can_not_even_be_logged(start_leg: StartLeg) -> None:
    maildrop = two()
    maildrop.fail["retrieve a"] = Unspeakable()
    leg = await start_leg(maildrop)
    async with leg.logged_in() as (reader, writer):
        assert (await leg.exchange(LOGIN + b"RETR 1\r\n")).count(b"\r\n") == 3
        writer.write(b"STAT\r\n")
        assert await reader.readline() == b"+OK 2 27\r\n"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_plugin_that_can_not_let_go(start_leg: StartLeg, error: BaseException) -> None:
    maildrop = two()
    maildrop.fail["leave"] = error
    leg = await start_leg(maildrop)
    out = await leg.exchange(LOGIN + b"DELE 1\r\nQUIT\r\n")
    # The commit returned: the messages are gone, and the client is told so.
    assert out.endswith(b"+OK goodbye\r\n")
    assert maildrop.commits == [("a",)]
    maildrop.fail.clear()
    assert (await leg.exchange(LOGIN + b"QUIT\r\n")).count(b"+OK") == 4


@pytest.mark.fault("C31")
async def test_a_traceback_is_logged_and_no_secret(start_leg: StartLeg, caplog: pytest.LogCaptureFixture) -> None:
    maildrop = two()
    maildrop.fail_open = [LoginRefused("no"), ValueError("bug")]
    leg = await start_leg(maildrop, ask_backend=True)
    await leg.exchange(b"USER scanner\x1b\r\nUSER scan\xc3\xbcer\r\nPASS hunter2-xyz\r\nUSER u\r\nPASS hunter2-xyz\r\n")
    await leg.ended()
    assert [r.levelno for r in caplog.records if r.exc_info] == [logging.ERROR]
    text = caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert "hunter2" not in text
    assert base64.b64encode(b"hunter2-xyz").decode() not in text
    assert "pop3 login failed" in text
    assert "\\x1b" not in text
    failed = [
        record for record in caplog.records if record.getMessage() in ("pop3 login failed", "pop3 session broke off")
    ]
    assert [vars(record)["facts"].get("user") for record in failed] == ["scan er", "u"]


# Logins


@pytest.mark.fault("C30")
async def test_only_a_refused_login_is_delayed(start_leg: StartLeg) -> None:
    maildrop = two()
    maildrop.fail_open = [Unreachable("x"), LoginRefused("x")]
    leg = await start_leg(maildrop, login_delay_seconds=1.5)
    async with leg.connected() as (reader, writer):
        await reader.readline()

        async def log_in() -> tuple[bytes, float]:
            started = time.monotonic()
            writer.write(LOGIN)
            await reader.readline()
            return await reader.readline(), time.monotonic() - started

        reply, seconds = await log_in()
        assert reply.startswith(b"-ERR [SYS/TEMP]")
        assert seconds < 1.4
        reply, seconds = await log_in()
        assert reply.startswith(b"-ERR [AUTH]")
        assert seconds > 1.4
        reply, seconds = await log_in()
        assert reply.startswith(b"+OK")
        assert seconds < 1.4


@pytest.mark.fault("C30")
async def test_three_failed_logins_close(start_leg: StartLeg, ends: Ends) -> None:
    maildrop = two()
    maildrop.fail_open = [LoginRefused("x")] * 5
    leg = await start_leg(maildrop)
    out = await leg.exchange(LOGIN * 5)
    assert out.count(b"-ERR [AUTH]") == 3
    assert len(maildrop.fail_open) == 2
    await leg.ended()
    assert (ends()[-1]["verdict"], ends()[-1]["reason"]) == ("refused", "too many failed logins")


@pytest.mark.parametrize(
    ("said", "level"),
    [(b"", logging.DEBUG), (b"CAPA\r\n", logging.INFO), (LOGIN, logging.INFO)],
    ids=["nothing", "CAPA", "a login that fails"],
)
async def test_only_who_says_nothing_leaves_no_line(
    start_leg: StartLeg, caplog: pytest.LogCaptureFixture, said: bytes, level: int
) -> None:
    """README: each session ends with one line. A health check, which comes all day and is no news, has none."""
    caplog.set_level(logging.DEBUG)
    maildrop = two()
    maildrop.fail_open = [Unreachable("x")]
    leg = await start_leg(maildrop)
    await leg.exchange(said)
    await leg.ended()
    assert [each.levelno for each in caplog.records if each.getMessage() == "pop3 session ended"] == [level]


# Other protocols


async def test_a_tls_client_is_told_and_named(start_leg: StartLeg, ends: Ends) -> None:
    leg = await start_leg(two())

    def hello() -> None:
        context = ssl.create_default_context()
        with socket.create_connection(leg.address, timeout=50) as plain, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(plain, server_hostname="localhost")

    await asyncio.to_thread(hello)
    await leg.ended()
    assert (ends()[-1]["verdict"], ends()[-1]["reason"]) == ("refused", "spoke TLS to the plain POP3 port")


@pytest.mark.parametrize("first", [b"\x16\x03\x01", b"GET /x"])
async def test_other_protocols_are_closed_at_once(start_leg: StartLeg, first: bytes) -> None:
    # No line end is waited for, and the reply arrives although the client goes on sending.
    leg = await start_leg(two())
    async with leg.connected() as (reader, writer), asyncio.timeout(5):
        writer.write(first + b"y" * 100_000)
        out = await reader.read()
    assert out == POP3_GREETING.encode() + b"\r\n-ERR this is a plain POP3 server\r\n"


async def test_the_last_reply_is_not_lost_to_a_reset(start_leg: StartLeg) -> None:
    # Closing on unread octets is a reset, and many systems then throw away what was not read yet.
    leg = await start_leg(two())
    with socket.create_connection(leg.address) as client:
        client.sendall(b"\x16" + b"y" * 100_000)
        await until(lambda: leg.server.sessions == 1)
        await leg.ended()
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert b"-ERR this is a plain POP3 server\r\n" in client.recv(1000)


# Time


@pytest.mark.fault("C19", "C32")
@pytest.mark.parametrize("login", [b"", LOGIN])
async def test_an_idle_session_is_closed_without_a_word(start_leg: StartLeg, ends: Ends, login: bytes) -> None:
    leg = await start_leg(two(), idle_seconds=0.2)
    async with leg.connected() as (reader, writer), asyncio.timeout(5):
        writer.write(login + (b"DELE 1\r\n" if login else b""))
        started = time.monotonic()
        out = await reader.read()
        assert time.monotonic() - started > 0.15
    assert out.count(b"\r\n") == (4 if login else 1)
    await leg.ended()
    assert leg.maildrop.commits == []
    assert ends()[-1]["verdict"] == "idle"


@pytest.mark.fault("C32")
async def test_commands_keep_a_session_and_octets_do_not(start_leg: StartLeg) -> None:
    leg = await start_leg(two(), idle_seconds=1)
    async with leg.logged_in() as (reader, writer), asyncio.timeout(20):
        for _ in range(5):
            await asyncio.sleep(0.25)
            writer.write(b"NOOP\r\n")
            assert await reader.readline() == b"+OK\r\n"
        started = time.monotonic()
        # An octet that comes after the server has closed is answered with a reset.
        with suppress(ConnectionResetError):
            while not reader.at_eof() and time.monotonic() - started < 9:
                writer.write(b"x")
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(10), 0.05)
        assert time.monotonic() - started < 5


# Drain


async def test_drain_closes_who_is_not_logged_in_and_the_listener(start_leg: StartLeg, ends: Ends) -> None:
    leg = await start_leg(two())
    async with leg.connected() as (reader, _), asyncio.timeout(5):
        await reader.readline()
        started = time.monotonic()
        await leg.server.drain(30)
        await leg.task
        assert time.monotonic() - started < 9
        assert await reader.read() == b""
    assert ends()[-1]["verdict"] == "drained"
    with pytest.raises(ConnectionRefusedError):
        await leg.exchange(b"")


@pytest.mark.fault("D8")
async def test_drain_lets_a_busy_session_finish(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, ends: Ends
) -> None:
    monkeypatch.setattr(conversation, "DRAIN_PAUSE_SECONDS", 1)
    maildrop = StreamingMaildrop(2 * MIB)
    maildrop.gate.clear()
    leg = await start_leg(maildrop)
    async with leg.logged_in() as (reader, writer), asyncio.timeout(10):
        writer.write(b"RETR 1\r\n")
        await until(lambda: maildrop.handed_out > 0)
        draining = asyncio.create_task(leg.server.drain(30))
        await asyncio.sleep(1.1)
        # Longer than the pause: a running command isn't one.
        maildrop.gate.set()
        while await reader.readline() != b".\r\n":
            pass
        for command in (b"DELE 1\r\n", b"NOOP\r\n", b"NOOP\r\n", b"NOOP\r\n"):
            await asyncio.sleep(0.3)
            writer.write(command)
            assert (await reader.readline()).startswith(b"+OK")
        writer.write(b"QUIT\r\n")
        assert (await reader.readline()).startswith(b"+OK")
        writer.close()
        await draining
        await leg.task
    assert maildrop.commits == [("big",)]
    assert ends()[-1]["verdict"] == "quit"


async def test_drain_closes_a_session_that_pauses(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, ends: Ends
) -> None:
    monkeypatch.setattr(conversation, "DRAIN_PAUSE_SECONDS", 0.2)
    leg = await start_leg(two())
    async with leg.logged_in() as (reader, writer), asyncio.timeout(5):
        writer.write(b"DELE 1\r\n")
        await reader.readline()
        started = time.monotonic()
        await leg.server.drain(30)
        assert 0.1 < time.monotonic() - started < 9
        assert await reader.read() == b""
    assert leg.maildrop.commits == []
    assert ends()[-1]["verdict"] == "drained"


@pytest.mark.parametrize("grace", [0, 0.2])
async def test_after_the_grace_the_rest_is_cut_off(start_leg: StartLeg, ends: Ends, grace: float) -> None:
    maildrop = StreamingMaildrop(2 * MIB)
    maildrop.gate.clear()
    leg = await start_leg(maildrop)
    async with leg.logged_in() as (_, writer), asyncio.timeout(5):
        writer.write(b"RETR 1\r\n")
        await until(lambda: maildrop.handed_out > 0)
        # A second, less patient call ends the first as well.
        patient = asyncio.create_task(leg.server.drain(30))
        await asyncio.sleep(0.05)
        await leg.server.drain(grace)
        await patient
        await leg.task
    assert maildrop.iterators == maildrop.closed == 1
    assert maildrop.entered == maildrop.left == 1
    assert ends()[-1]["verdict"] == "drained"


async def test_a_cancelled_server_lets_go_of_everything(start_leg: StartLeg) -> None:
    leg = await start_leg(two())
    async with leg.logged_in() as (reader, _):
        leg.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leg.task
        assert await reader.read() == b""
    assert leg.server.sessions == 0
    leg.task = asyncio.create_task(asyncio.sleep(0))


# Admission and accept


async def test_a_stranger_is_refused(start_leg: StartLeg, caplog: pytest.LogCaptureFixture) -> None:
    leg = await start_leg(two(), networks="10.0.0.0/8")
    async with leg.connected() as (reader, _), asyncio.timeout(5):
        assert await reader.read() == b"-ERR [SYS/PERM] your address may not use this server\r\n"
    record = next(record for record in caplog.records if record.getMessage() == "pop3 connection refused")
    assert vars(record)["facts"] == {"client": "127.0.0.1", "reason": "not in ALLOWED_NETWORKS"}


async def test_a_place_is_free_again_when_its_session_has_ended(start_leg: StartLeg) -> None:
    leg = await start_leg(two(), max_connections=1)
    for _ in range(3):
        async with leg.connected() as (reader, _writer), asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"+OK")
            async with leg.connected() as (second, _writer):
                assert await second.read() == b"-ERR [SYS/TEMP] too many connections\r\n"
        await leg.ended()


class FullSystem(socket.socket):
    """accept() fails for a while."""

    failures = 0
    number = errno.EMFILE

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(self.number, "the system is full")
        return super().accept()


@pytest.mark.fault("D10")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOBUFS, errno.EPROTO])
async def test_a_failing_accept_is_survived(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(listeners, "ACCEPT_PAUSE_SECONDS", 0.01)
    listener = FullSystem()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    leg = await start_leg(two(), listener=listener)
    async with leg.logged_in() as (reader, writer):
        listener.failures, listener.number = 20, number
        assert (await leg.exchange(LOGIN + b"QUIT\r\n")).count(b"+OK") == 4
        writer.write(b"STAT\r\n")
        assert await reader.readline() == b"+OK 2 27\r\n"
    assert listener.failures == 0
    assert [record.getMessage() for record in caplog.records].count("pop3 accept failed") == 1


def bare_server() -> server.Server:
    admission = Admission([ip_network("127.0.0.0/8")], 10, 10)
    return server.Server(two(), admission, OPTIONS)


async def test_several_listeners() -> None:
    several = bare_server()
    several_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [listener.getsockname() for listener in several_sockets]
    task = asyncio.create_task(several.serve(several_sockets))
    for address in addresses:
        out = await Leg(several, two(), address, task).exchange(b"QUIT\r\n")
        assert out.count(b"+OK") == 2
    await several.drain(0)
    await task


async def test_drained_before_it_served() -> None:
    early = bare_server()
    await early.drain(0)
    listener = socket.create_server(("127.0.0.1", 0))
    async with asyncio.timeout(5):
        await early.serve([listener])
    assert listener.fileno() == -1


async def test_idle_sessions_are_cheap(start_leg: StartLeg) -> None:
    leg = await start_leg(two())
    count = 200
    clients = [socket.socket() for _ in range(count + 1)]
    try:
        clients[count].connect(leg.address)
        clients[count].send(LOGIN)
        await until(lambda: leg.maildrop.entered == 1)
        tracemalloc.start()
        for client in clients[:count]:
            client.connect(leg.address)
            client.send(LOGIN)
        await until(lambda: leg.maildrop.entered == count + 1)
        per_session = tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()
        for client in clients:
            client.close()
    assert per_session < 30 * 1024
    await leg.ended()


async def test_the_maildrop_knows_the_listener(start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []
    maildrop = MemoryMaildrop()
    plain = maildrop.open

    def noted(client: Client, login: Login | None) -> AbstractAsyncContextManager[MemorySession]:
        ports.append(client.port)
        return plain(client, login)

    monkeypatch.setattr(maildrop, "open", noted)
    leg = await start_leg(maildrop)
    await leg.exchange(b"USER u\r\nPASS p\r\nQUIT\r\n")
    assert ports == [leg.address[1]]
