"""IMAP over TLS without parsing: fills the backend's mailboxes, and shows what the backend can do at best."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Self

_BLOCK_OCTETS = 262_144
_TAIL_OCTETS = 512
_APPEND_OCTETS = 8_000_000


class RawIMAP:
    """One connection, logged in and in the INBOX; `seconds` is how long it may be silent.

    An answer has ended when the last line of what came starts with the command's tag, so no octet is looked at twice.
    The tag is one that no message of ours contains.
    """

    def __init__(self, port: int, ca_file: Path, user: str, password: str, seconds: float = 120.0) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self._socket = ssl.create_default_context(cafile=ca_file).wrap_socket(plain, server_hostname="localhost")
        self._block = bytearray(_BLOCK_OCTETS)
        self._number = 0
        self._until(b"* OK")
        self.ask(b"LOGIN %s %s" % (user.encode(), password.encode()))
        self.ask(b"SELECT INBOX")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, command: bytes) -> int:
        """Send a command; how many octets came until it was done. RuntimeError if it is refused."""
        self._number += 1
        tag = b"x9F%d" % self._number
        self._socket.sendall(tag + b" " + command + b"\r\n")
        return self._until(tag + b" ")

    def _until(self, start: bytes) -> int:
        octets, tail, view = 0, b"", memoryview(self._block)
        while True:
            received = self._socket.recv_into(self._block)
            if not received:
                raise EOFError("the IMAP server hung up")
            octets += received
            tail = (tail + bytes(view[max(0, received - _TAIL_OCTETS) : received]))[-_TAIL_OCTETS:]
            if tail.endswith(b"\r\n"):
                last = tail[tail.rfind(b"\n", 0, -1) + 1 :]
                if last.startswith(start):
                    if not last[len(start) :].lstrip().startswith(b"OK") and start != b"* OK":
                        raise RuntimeError(f"the IMAP server says {last!r}")
                    return octets

    def append(self, messages: Iterable[bytes]) -> None:
        """Put the messages into the INBOX, many with one command (RFC 3502, RFC 7888)."""
        held: list[bytes] = []
        octets = 0
        for message in messages:
            held.append(b" {%d+}\r\n%b" % (len(message), message))
            octets += len(message)
            if octets >= _APPEND_OCTETS:
                self.ask(b"APPEND INBOX" + b"".join(held))
                held, octets = [], 0
        if held:
            self.ask(b"APPEND INBOX" + b"".join(held))
