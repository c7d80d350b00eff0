"""The honest client: complete sessions, one after the other, in a process of its own so that an attack can't slow it.

`honest.py '{"pop3": PORT, "smtp": PORT, ...}'` prints one JSON object for each session that it held, and for how late
it woke from short sleeps: that much the machine itself is late, whatever the proxy does. It ends when its input does.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PAUSE_SECONDS = 0.2
"""Between two sessions: the log may have ten lines a second of one kind, and the honest ones are not to be many."""
BODY = b"Subject: %b\r\nFrom: <panel@example.test>\r\nTo: <office@example.test>\r\n\r\n" + (b"x" * 70 + b"\r\n") * 28


class Failed(Exception):
    """The server said something else than it should."""


class Talk:
    """One connection from the honest address; all of a session has to be done by its deadline."""

    def __init__(self, source: str, port: int, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._socket = socket.create_connection(("127.0.0.1", port), seconds, (source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def close(self) -> None:
        self._socket.close()

    def secure(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket)

    def ask(self, octets: bytes, expected: bytes, *, until: bytes = b"\r\n") -> None:
        """Send, and read until the reply ends; Failed unless it begins as `expected`."""
        self._socket.sendall(octets)
        while True:
            while not self._held.endswith(until):
                self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
                came = self._socket.recv(65536)
                if not came:
                    raise Failed(f"closed after {octets[:20]!r} {self._held[:80]!r}")
                self._held += came
                if not self._held.startswith(expected):
                    raise Failed(self._held[:100].decode("latin-1").strip())
            last = self._held.splitlines()[-1]
            if last[3:4] != b"-" or until != b"\r\n":  # the last line of an SMTP reply
                self._held = b""
                return


def smtp(talk: Talk, number: int, options: dict[str, Any]) -> None:
    """A small message: handed over, and the reply to its end read."""
    talk.ask(b"", b"220")
    talk.ask(b"EHLO panel.example.test\r\n", b"250")
    if options.get("auth"):
        user, password = login(number, options)
        talk.ask(b"AUTH PLAIN " + base64.b64encode(b"\0" + user + b"\0" + password) + b"\r\n", b"235")
    talk.ask(b"MAIL FROM:<panel@example.test>\r\n", b"250")
    talk.ask(b"RCPT TO:<office@example.test>\r\n", b"250")
    talk.ask(b"DATA\r\n", b"354")
    talk.ask(BODY % f"honest {number}".encode() + b".\r\n", b"250")
    talk.ask(b"QUIT\r\n", b"221")


def pop3(talk: Talk, number: int, options: dict[str, Any]) -> None:
    """Log in, look, read the first message, leave."""
    user, password = login(number, options)
    talk.ask(b"", b"+OK")
    talk.ask(b"USER " + user + b"\r\n", b"+OK")
    talk.ask(b"PASS " + password + b"\r\n", b"+OK")
    talk.ask(b"STAT\r\n", b"+OK")
    talk.ask(b"RETR 1\r\n", b"+OK", until=b"\r\n.\r\n")
    talk.ask(b"QUIT\r\n", b"+OK")


def admin(talk: Talk, number: int, options: dict[str, Any]) -> None:
    """What a monitoring system asks for, over TLS."""
    talk.secure()
    talk.ask(
        b"GET /livez HTTP/1.1\r\nHost: proxy.example.test\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200", until=b"ok\n"
    )


def login(number: int, options: dict[str, Any]) -> tuple[bytes, bytes]:
    """The user and password; with `users`, another user each time, so that each session is somebody's first login."""
    user = f"user{number % options['users']}" if options.get("users") else options["user"]
    return user.encode(), options["password"].encode()


Session = Callable[[Talk, int, dict[str, Any]], None]


def sessions(leg: str, session: Session, options: dict[str, Any], ended: threading.Event) -> None:
    number = 0
    while not ended.wait(PAUSE_SECONDS):
        number += 1
        began, said = time.monotonic(), ""
        talk = None
        try:
            talk = Talk(options["source"], options[leg], options["seconds"])
            session(talk, number, options)
        except (OSError, Failed) as error:
            said = f"{error}" or type(error).__name__
        finally:
            if talk is not None:
                with suppress(OSError):
                    talk.close()
        tell(leg=leg, number=number, began=began, seconds=time.monotonic() - began, said=said)


def lateness(ended: threading.Event) -> None:
    """How late a sleep of 20 ms ends: the machine's own delay."""
    while not ended.is_set():
        began = time.monotonic()
        time.sleep(0.02)
        late = time.monotonic() - began - 0.02
        if late > 0.05:
            tell(leg="machine", number=0, began=began, seconds=late, said="")


def tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(options: dict[str, Any]) -> None:
    ended = threading.Event()
    legs: dict[str, Session] = {"smtp": smtp, "pop3": pop3, "admin": admin}
    threads = [
        threading.Thread(target=sessions, args=(leg, session, options, ended))
        for leg, session in legs.items()
        if options.get(leg)
    ]
    threads.append(threading.Thread(target=lateness, args=(ended,)))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
