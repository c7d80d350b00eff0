"""What operators write: the accounts file, settings, requests of the spool command."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fuzz.target import Target, cut
from legacy_email_proxy.accounts.file import read_accounts
from legacy_email_proxy.admin.queues import queues
from legacy_email_proxy.admin.socket import ControlSocket
from legacy_email_proxy.contracts import Failure, QueueFilter, SettingsMistake
from legacy_email_proxy.settings import TABLE, read
from legacy_email_proxy_plugins.spool.admin import Administration

__all__ = ("TARGETS",)


def accounts_file(octets: bytes, cuts: Collection[int]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(octets)
        file.flush()
        try:
            found = read_accounts(Path(file.name))
        except SettingsMistake as mistake:
            _are_lines([str(mistake)])
        else:
            _are_lines(found.mistakes)


def _are_lines(mistakes: Collection[str]) -> None:
    assert not [line for line in mistakes if "\n" in line]


def settings(octets: bytes, cuts: Collection[int]) -> None:
    """A line is ``VARIABLE=value``, as in an env file; without a known variable the value goes to every one."""
    environ: dict[str, str] = {}
    names = {setting.name for setting in TABLE}
    for line in octets.decode("utf-8", "surrogateescape").split("\n"):
        name, _, value = line.partition("=")
        environ |= {name: value} if name in names else dict.fromkeys(names, line)
    found = read(environ)
    _are_lines(found.mistakes)
    assert set(found) == names


class _Store:
    """No message is in it."""

    version = 1

    async def search(self, wanted: object, after: int) -> tuple[list[int], None]:
        return [], None

    async def counts(self) -> list[Any]:
        return []

    async def get(self, number: int) -> None:
        return None

    async def drop(self, number: int, now: float) -> bool:
        return False

    async def move(self, number: int, state: object, now: float) -> bool:
        return False

    async def back_up(self, folder: Path) -> Any:
        # What the real one does first with a folder.
        os.fsencode(folder)
        assert "\0" not in str(folder)
        raise Failure("no backup here")


class _Writer:
    def __init__(self, sock: socket.socket) -> None:
        self.said = b""
        self._socket = sock

    def write(self, octets: bytes) -> None:
        self.said += octets

    async def drain(self) -> None:
        pass

    def get_extra_info(self, _: str) -> socket.socket:
        return self._socket


class _Queue:
    """The spool without its storage."""

    queue_name = "q"

    def __init__(self) -> None:
        self._administration = Administration(_Store(), lambda: 0.0, lambda: None)  # type: ignore[arg-type]

    def listed(self, wanted: QueueFilter) -> Any:
        return self._administration.listed(wanted)

    async def counted(self) -> Any:
        return await self._administration.counted()

    def administer(self, action: Any, numbers: Any, by: str = "") -> Any:
        return self._administration.do(action, numbers, by)

    async def back_up(self, folder: Path) -> Any:
        return await self._administration.back_up(folder)


async def _answered(peer: socket.socket, pieces: list[bytes]) -> bytes:
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign, assignment]
    logger = logging.getLogger("legacy_email_proxy.admin")
    logger.addHandler(handler)
    reader, writer = asyncio.StreamReader(limit=1000), _Writer(peer)
    for piece in pieces:
        reader.feed_data(piece)
    try:
        control = ControlSocket(Path("x"), {"spool": queues(lambda: [_Queue()])})
        answering = asyncio.ensure_future(control._answer(reader, writer))  # type: ignore[arg-type]
        if not any(b"\n" in piece for piece in pieces):
            reader.feed_eof()
        await answering
    finally:
        logger.removeHandler(handler)
    assert not logged, logged[0].exc_info
    return writer.said


def spool_requests(octets: bytes, cuts: Collection[int]) -> None:
    one, other = socket.socketpair()
    with one, other:
        whole = asyncio.run(_answered(one, [octets] if octets else []))
        assert asyncio.run(_answered(one, cut(octets, cuts))) == whole
    for line in whole.splitlines():
        json.loads(line)


TARGETS = {
    "accounts_file": Target(
        accounts_file,
        (
            *(
                b"[accounts.a]\n",
                b"[[rules]]\n",
                b"[users]\n",
                b'account = "a"\n',
                b'BACKEND_SMTP_HOST = "x"\n',
                b"[",
                b"]",
                b'"',
            ),
            *(
                b"network = ",
                b"port = ",
                b"sender = ",
                b"recipient = ",
                b"user = ",
                b"after_pop3_login_seconds = ",
                b'"10.0.0.0/8"',
            ),
            *(
                b"=",
                b"\n",
                b"{",
                b"}",
                b"a",
                b".",
                b"1",
                b"9" * 5000,
                b"[" * 3000,
                b"nan",
                b"inf",
                b"true",
                b"1979-05-27",
                b"'''",
            ),
            *(
                b"\xef\xbb\xbf",
                b"\xff",
                b"\0",
                b"\\u0000",
                b"accounts",
                b"rules",
                b"users",
                b"scrypt$1$1$a$b",
                b",",
                b"#",
            ),
        ),
    ),
    "settings": Target(
        settings,
        (
            *(f"{setting.name}=".encode() for setting in TABLE),
            *(
                b"\n",
                b"1",
                b"-1",
                b"true",
                b"nan",
                b"inf",
                b"1e999",
                b"9" * 5000,
                b"a",
                b",",
                b"10.0.0.0/8",
                b"::/0",
                b"~x",
                b"\0",
            ),
            *(
                b"\xff",
                b"imap",
                b"gmail",
                b"https://x",
                b"sqlite:///x",
                b"postgresql://u:p@h/d",
                b"/",
                b" ",
                b'"',
                b"{",
                b"%",
                b"\r",
            ),
        ),
    ),
    "spool_requests": Target(
        spool_requests,
        (
            *(
                b'{"do":"spool","queue":"q","action":"list","states":["dead"],"address":"x","after":1,"limit":1}\n',
                b'{"do":"spool","queue":"q","action":"count"}\n',
                b'{"do":"spool","queue":"q","action":"show","numbers":[]}\n',
                b'{"do":"spool","queue":"q","action":"backup","folder":"/x"}\n',
                b'{"do":"spool","queue":"q","action":',
                b'"numbers":',
            ),
            *(
                b'"show"',
                b'"drop"',
                b'"hold"',
                b'"export"',
                b'"migrate"',
                b"[1]",
                b"[1e999]",
                b"NaN",
                b",",
                b"}",
                b"\n",
                b"{",
                b"]",
            ),
            *(
                b'"folder":"\\u0000"',
                b'"folder":"\\ud800"',
                b"[-1]",
                b"99999999999999999999",
                b"null",
                b'"x"',
                b"[",
                b"9" * 5000,
                b"\xff",
            ),
        ),
    ),
}
