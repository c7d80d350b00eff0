"""An SMTPS backend that does nothing but take mail, quickly: any login, every message, all counted.

A process of its own: `sink.py PORT BOARD CERTIFICATE KEY`. The board is a file that both sides have in memory: the sink
counts there, and reads there how far away it shall seem and what it shall offer.
"""

from __future__ import annotations

import ctypes
import heapq
import mmap
import selectors
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

_BLOCK_OCTETS = 65_536
_END = b"\r\n.\r\n"
_OFFERS = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 0\r\n250-ENHANCEDSTATUSCODES\r\n"
_GO_ON = b"354 go on\r\n"
_MECHANISMS = b"250 AUTH PLAIN LOGIN XOAUTH2\r\n"


class Board(ctypes.Structure):
    """`messages`, their `octets` and `connections` are counted; every reply leaves `delay_ns` after its command came.

    How late they truly leave is summed up in `waited_ns`, for all `waits`; in `waiting_ns` the time in which at
    least one of a connection's replies was on its way, so that commands sent together wait but once. With `chunking`,
    EHLO offers CHUNKING.
    """

    messages: int
    octets: int
    connections: int
    delay_ns: int
    waited_ns: int
    waits: int
    waiting_ns: int
    chunking: int
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("messages", "octets", "connections", "delay_ns", "waited_ns", "waits", "waiting_ns", "chunking")
    ]

    @classmethod
    def create(cls, file: Path) -> Self:
        file.write_bytes(bytes(ctypes.sizeof(cls)))
        return cls.open(file)

    @classmethod
    def open(cls, file: Path) -> Self:
        with file.open("r+b") as opened:
            return cls.from_buffer(mmap.mmap(opened.fileno(), 0))


class Peer:
    """One connection of a relay."""

    def __init__(self, sock: ssl.SSLSocket, board: Board) -> None:
        self.socket = sock
        self._board = board
        self._held = b""
        self._in_data = False
        self._in_chunk = 0
        self._last_chunk = False
        self._logins = 0
        self._delayed = 0
        self._delayed_since = 0
        self.closing = False
        self.greeted = False

    def take(self, octets: bytes) -> bytes:
        """What came; returns the replies to it."""
        replies: list[bytes] = []
        held = self._held + octets if self._held else octets
        while held:
            if self._in_chunk:
                taken = min(len(held), self._in_chunk)
                held = held[taken:]
                self._in_chunk -= taken
                self._board.octets += taken
                if not self._in_chunk:
                    replies.append(self._chunk_done())
            elif self._in_data:
                end = held.find(_END)
                if end < 0:
                    kept = min(len(held), len(_END) - 1)
                    self._board.octets += len(held) - kept
                    held = held[-kept:]
                    break
                self._board.octets += end
                self._board.messages += 1
                self._in_data = False
                held = held[end + len(_END) :]
                replies.append(b"250 2.0.0 taken\r\n")
            else:
                line, newline, rest = held.partition(b"\n")
                if not newline:
                    break
                replies.append(self._obey(line.strip()))
                self._in_data = replies[-1] == _GO_ON
                # The line end of DATA is the one that a dot in the first line of the content would follow.
                held = b"\r\n" + rest if self._in_data else rest
        self._held = held
        return b"".join(replies)

    def _obey(self, line: bytes) -> bytes:
        if self._logins:
            self._logins -= 1
            return b"334 UGFzc3dvcmQ6\r\n" if self._logins else b"235 2.7.0 welcome\r\n"
        words = line.upper().split()
        verb = words[0] if words else b""
        if verb == b"DATA":
            return _GO_ON
        if verb == b"BDAT":
            self._in_chunk = int(words[1])
            self._last_chunk = words[-1] == b"LAST"
            return b"" if self._in_chunk else self._chunk_done()
        if verb == b"EHLO":
            return _OFFERS + (b"250-CHUNKING\r\n" if self._board.chunking else b"") + _MECHANISMS
        if verb == b"AUTH":
            if len(words) > 2 and words[1] != b"LOGIN":
                return b"235 2.7.0 welcome\r\n"
            self._logins = 2 if words[1] == b"LOGIN" and len(words) == 2 else 1
            return b"334 VXNlcm5hbWU6\r\n" if self._logins == 2 else b"334 \r\n"
        if verb == b"QUIT":
            self.closing = True
            return b"221 2.0.0 bye\r\n"
        return b"250 2.0.0 ok\r\n"

    def delayed(self, replies: int) -> None:
        """One more of its replies is on its way, or one less."""
        if not self._delayed:
            self._delayed_since = time.monotonic_ns()
        self._delayed += replies
        if not self._delayed:
            self._board.waiting_ns += time.monotonic_ns() - self._delayed_since

    def _chunk_done(self) -> bytes:
        if self._last_chunk:
            self._board.messages += 1
        return b"250 2.0.0 taken\r\n"


class Sink:
    """Accepts, reads, replies, all in one loop; `select` and not `epoll`, whose timeouts are whole milliseconds."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext, board: Board) -> None:
        self._listener = listener
        self._context = context
        self._board = board
        self._selector = selectors.SelectSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._due: list[tuple[int, int, Peer, bytes]] = []
        self._order = 0

    def run(self) -> None:
        while True:
            wait = max(0.0, (self._due[0][0] - time.monotonic_ns()) / 1e9) if self._due else None
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    self._accept()
                else:
                    self._serve(key.data)
            while self._due and self._due[0][0] <= time.monotonic_ns():
                due, _, peer, reply = heapq.heappop(self._due)
                self._board.waited_ns += time.monotonic_ns() - due + self._board.delay_ns
                self._board.waits += 1
                peer.delayed(-1)
                self._send(peer, reply)

    def _accept(self) -> None:
        plain, _ = self._listener.accept()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setblocking(False)
        secured = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._selector.register(secured, selectors.EVENT_READ, Peer(secured, self._board))

    def _serve(self, peer: Peer) -> None:
        try:
            if not peer.greeted:
                peer.socket.do_handshake()
                peer.greeted = True
                self._board.connections += 1
                self._send(peer, b"220 sink ESMTP\r\n")
            while octets := peer.socket.recv(_BLOCK_OCTETS):
                self._reply(peer, peer.take(octets))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            pass  # it hung up its own way
        self._close(peer)

    def _reply(self, peer: Peer, reply: bytes) -> None:
        if not reply:
            return
        if self._board.delay_ns:
            self._order += 1
            peer.delayed(1)
            heapq.heappush(self._due, (time.monotonic_ns() + self._board.delay_ns, self._order, peer, reply))
        else:
            self._send(peer, reply)

    def _send(self, peer: Peer, reply: bytes) -> None:
        if peer.socket.fileno() < 0:
            return
        with suppress(OSError):
            peer.socket.sendall(reply)
        if peer.closing:
            self._close(peer)

    def _close(self, peer: Peer) -> None:
        if peer.socket.fileno() >= 0:
            self._selector.unregister(peer.socket)
            peer.socket.close()


def main(port: str, board_file: str, certificate_file: str, key_file: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    with socket.create_server(("127.0.0.1", int(port)), backlog=1000) as listener:
        Sink(listener, context, Board.open(Path(board_file))).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
