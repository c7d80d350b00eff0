"""SMTP devices that cost next to nothing: Postfix's `smtp-source` for load, two of our own for what it can not do."""

from __future__ import annotations

import selectors
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

from bench.sink import Board
from realservers.processes import require, wait_until

SENDER, RECIPIENT = "scanner@example.test", "office@example.test"
_EHLO = b"EHLO scanner.example.test\r\n"
_BLOCK_OCTETS = 65_536


def send(port: int, board: Board, *, count: int, octets: int, connections: int, seconds: float) -> float:
    """Send that many messages over that many connections at once; the seconds until the sink has the last of them.

    RuntimeError where one is refused, TimeoutError where they take longer.
    """
    _, delivered = spool(port, board, count=count, octets=octets, connections=connections, seconds=seconds)
    return delivered


def spool(port: int, board: Board, *, count: int, octets: int, connections: int, seconds: float) -> tuple[float, float]:
    """As `send`, through what accepts first and delivers later: the seconds until the last 250, and until the sink."""
    program = require("smtp-source", "is Postfix's load generator, without which no load is measured")
    before, begun = board.messages, time.perf_counter()
    options = {"-s": connections, "-m": count, "-l": octets, "-f": SENDER, "-t": RECIPIENT}
    words = [str(word) for option in options.items() for word in option]
    done = subprocess.run(
        [program, "-d", *words, f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode:
        raise RuntimeError(f"smtp-source: {done.stderr.strip()}")
    accepted = time.perf_counter() - begun
    wait_until(lambda: board.messages >= before + count, f"the sink has {count} messages", seconds - accepted)
    return accepted, time.perf_counter() - begun


class Device:
    """One connection, which sends messages one after the other."""

    def __init__(self, port: int, seconds: float = 30.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")
        self._expect(b"220")
        self._ask(_EHLO, b"250")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self._socket.close()

    def send(self, content: bytes, *, pipelining: bool) -> None:
        """Send one, ended by CRLF and without a dot first in a line; RuntimeError where it is refused.

        With `pipelining` the envelope goes out at once, else each command waits for the reply to the last one.
        """
        commands = [b"MAIL FROM:<%b>\r\n" % SENDER.encode(), b"RCPT TO:<%b>\r\n" % RECIPIENT.encode(), b"DATA\r\n"]
        codes = [b"250", b"250", b"354"]
        if pipelining:
            self._socket.sendall(b"".join(commands))
            for code in codes:
                self._expect(code)
        else:
            for command, code in zip(commands, codes, strict=True):
                self._ask(command, code)
        self._ask(content + b".\r\n", b"250")

    def _ask(self, octets: bytes, code: bytes) -> None:
        self._socket.sendall(octets)
        self._expect(code)

    def _expect(self, code: bytes) -> None:
        while True:
            line = self._replies.readline()
            if not line.startswith(code):
                raise RuntimeError(f"instead of {code.decode()} the server says {line!r}")
            if line[3:4] != b"-":
                return


@contextmanager
def idle(port: int, count: int, seconds: float) -> Iterator[None]:
    """That many connections that have said EHLO and read the answer, and say nothing more."""
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(count):
            each = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=seconds))
            selector.register(each, selectors.EVENT_READ, b"")
        greeted = 0
        while greeted < 2 * count:
            for key, _events in selector.select(max(0.0, deadline - time.monotonic())):
                assert isinstance(key.fileobj, socket.socket)
                came = key.data + key.fileobj.recv(_BLOCK_OCTETS)
                last = came[came.rfind(b"\n", 0, -1) + 1 :]
                if not came.startswith((b"220", b"250")):
                    raise RuntimeError(f"the server says {came!r}")
                if came.endswith(b"\n") and last[3:4] == b" ":
                    greeted += 1
                    if came.startswith(b"220"):
                        key.fileobj.sendall(_EHLO)
                    came = b""
                selector.modify(key.fileobj, selectors.EVENT_READ, came)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} connections are not greeted in {seconds:g} s")
        yield
