"""What an operator can do with the spool, and the socket by which the command asks a running service.

``Administration`` does the work and answers what JSON can hold. While a service has the spool open, the command asks
that process over a Unix socket: ``AdminSocket`` is the side of the service, ``ask`` the side of the command.

A request is a line of JSON, ``{"action": …, "numbers": […]}``, for a backup with a ``folder`` (an absolute path).
The answer is lines of JSON: ``{"item": …}`` for each item, ``{"octets": n}`` before n raw octets, ``{"failure": …}``
after a failure, and ``{"end": true}`` at the end.
The socket has mode 0600, because whoever can open it can read and drop mail.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from legacy_email_proxy.contracts import QUEUE_ACTIONS, Failure, QueueAction

from .message import SpooledMessage, State
from .store import Copied, Store, Unreadable

__all__ = ("AdminSocket", "Administration", "ask", "backed_up")

_LARGEST = 2**63 - 1
"""The largest number that a database can store."""
_MOVES = {"retry": State.QUEUED, "release": State.QUEUED, "hold": State.HELD}

_LINE_OCTETS = 16 * 2**20
_REQUEST_SECONDS = 10.0
_CREDENTIALS = struct.Struct("3i")


class Administration:
    """Does the operator's work on an open store. ``wake`` is called when a message may have become due."""

    def __init__(self, store: Store, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._wake = wake

    async def do(
        self, action: QueueAction, numbers: Sequence[int], by: str
    ) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
        """See :meth:`contracts.Queue.administer`. ``by`` says who asked for it, for the log."""
        if action not in QUEUE_ACTIONS:
            raise Failure(f"the spool knows no {action!r}")
        if action == "migrate":
            # This was done when the store was opened.
            yield {"done": action, "version": self._store.version}
            return
        for number in numbers:
            if not 0 < number <= _LARGEST:
                raise Failure(f"there is no message {number}")
        for number in numbers if numbers or action != "list" else await self._store.numbers():
            if action == "export":
                message = await self._message(number)
                try:
                    async with aclosing(self._store.content(message)) as pieces:
                        async for piece in pieces:
                            yield piece
                except Unreadable as error:
                    raise Failure(f"message {number}: {error}") from None
            else:
                answer = await self._one(action, number, by)
                if answer is not None:
                    yield answer
        self._wake()

    async def back_up(self, folder: Path) -> Mapping[str, Any]:
        """See :meth:`contracts.BackedUpQueue.back_up`."""
        return backed_up("backup", folder, await self._store.back_up(folder))

    async def _one(self, action: QueueAction, number: int, by: str) -> Mapping[str, Any] | None:
        if action == "list":
            return await self._shown(number)
        if action == "show":
            return _described(await self._message(number))
        if action == "release" and (await self._message(number)).state is not State.HELD:
            raise Failure(f"message {number} is not held")
        what = await self._facts(number)
        now = self._clock()
        done = await (
            self._store.drop(number, now) if action == "drop" else self._store.move(number, _MOVES[action], now)
        )
        if not done:
            raise Failure(f"there is no message {number}")
        await self._store.announce({"action": action, "by": by, "message": number, **what})
        return {"number": number, "done": action}

    async def _facts(self, number: int) -> Mapping[str, str | int]:
        try:
            message = await self._store.get(number)
        except Unreadable:
            message = None
        if message is None:
            return {}
        return {
            "state": message.state.value, "session": message.client.session, "sender": message.reverse_path,
            "recipients": len(message.recipients), "octets": message.octets,
            **({"account": message.account} if message.account else {}),
        }  # fmt: skip

    async def _shown(self, number: int) -> Mapping[str, Any] | None:
        try:
            message = await self._store.get(number)
        except Unreadable as error:
            return {"number": number, "account": None, "state": State.SET_ASIDE.value, "reason": str(error)}
        # None if it was delivered after the numbers were read.
        return None if message is None else _described(message)

    async def _message(self, number: int) -> SpooledMessage:
        try:
            message = await self._store.get(number)
        except Unreadable as error:
            raise Failure(f"message {number}: {error}") from None
        if message is None:
            raise Failure(f"there is no message {number}")
        return message


def backed_up(action: str, folder: Path, copied: Copied) -> Mapping[str, Any]:
    """The answer to a backup or a restore."""
    return {
        "done": action, "folder": str(folder), "messages": copied.messages, "missing": list(copied.missing),
        "aside": copied.aside,
    }  # fmt: skip


def _described(message: SpooledMessage) -> dict[str, Any]:
    return {
        "number": message.number,
        "account": message.account,
        "state": message.state.value,
        "received": message.received,
        "due": message.due if message.state is State.QUEUED else None,
        "tries": message.tries,
        "reason": message.reason,
        "sender": message.reverse_path,
        "client": message.client.address,
        "octets": message.octets,
        "notification": message.notice,
        "recipients": [
            {
                "address": each.forward_path,
                "fate": each.fate.value,
                "tried": each.verdict.time if each.verdict else None,
                "reply": f"{each.verdict.code or ''} {each.verdict.enhanced} {each.verdict.text}".strip()
                if each.verdict
                else "",
            }
            for each in message.recipients
        ],
    }


class AdminSocket:
    """The service's side of the socket: answers the requests of the command."""

    def __init__(self, path: Path, administration: Administration, logger: logging.Logger) -> None:
        self._path = path
        self._administration = administration
        self._logger = logger
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen. As this process has the spool's lock, an existing socket was left by a service that has ended."""
        with suppress(OSError):
            # If the spool is in another folder, nobody has created this one yet.
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if stat.S_ISSOCK(self._path.lstat().st_mode):
                self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _reachable(self._path) as name:
                before = os.umask(0o177)
                try:
                    listener.bind(name)
                finally:
                    os.umask(before)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LINE_OCTETS)
        except OSError as error:
            listener.close()
            self._logger.error("the spool command will not reach this service: %s: %s", self._path, error.strerror)

    async def aclose(self) -> None:
        """Stop listening."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(OSError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._tasks.add(answering)
        # It also ends when the command hangs up or the service stops.
        await asyncio.gather(answering, return_exceptions=True)
        self._tasks.discard(answering)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                action, numbers, folder = _request(await _line_of(reader))
            if action == "backup":
                writer.write(_line({"item": await self._administration.back_up(folder)}))
            else:
                await self._do(action, numbers, writer)
            writer.write(_line({"end": True}))
        except OSError:
            raise
        except Exception as error:
            if not isinstance(error, Failure):
                self._logger.exception("the spool command failed")
            writer.write(_line({"failure": str(error) or type(error).__name__}))
        await writer.drain()

    async def _do(self, action: QueueAction, numbers: Sequence[int], writer: asyncio.StreamWriter) -> None:
        async with aclosing(self._administration.do(action, numbers, _peer(writer))) as answers:
            async for answer in answers:
                if isinstance(answer, bytes):
                    writer.write(_line({"octets": len(answer)}) + answer)
                else:
                    writer.write(_line({"item": answer}))
                await writer.drain()


async def _line_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        return b""  # no request is so long


def _request(line: bytes) -> tuple[Any, list[int], Path]:
    """Parse a request. Raises :class:`Failure` for anything else: a client may send any octets."""
    try:
        given = json.loads(line)
        folder = Path(given.get("folder", ""))
        if b"\0" in os.fsencode(folder):
            raise ValueError("no folder has such a name")
        return given["action"], [int(number) for number in given["numbers"]], folder
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        raise Failure("that is no request of the spool command") from None


async def ask(
    path: Path, action: QueueAction | Literal["backup"], numbers: Sequence[int], *, folder: Path | None = None
) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
    """The command's side of the socket. Raises ``FileNotFoundError`` or ``ConnectionRefusedError`` when no service
    runs, and :class:`Failure` when the service reports a failure.
    """
    with _reachable(path) as name:
        reader, writer = await asyncio.open_unix_connection(name, limit=_LINE_OCTETS)
    try:
        request = {"action": action, "numbers": list(numbers)}
        writer.write(_line(request if folder is None else {**request, "folder": str(folder)}))
        await writer.drain()
        while True:
            line = await reader.readline()
            answer: dict[str, Any] = {"failure": "the service has hung up"}
            if line.endswith(b"\n"):
                answer = json.loads(line)
            if "end" in answer:
                return
            if "failure" in answer:
                raise Failure(answer["failure"])
            yield answer["item"] if "item" in answer else await reader.readexactly(answer["octets"])
    finally:
        writer.close()


def _peer(writer: asyncio.StreamWriter) -> str:
    """User and process at the other end, from the kernel. By number: to look up a name may need a server."""
    held = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(held)
    return f"user {user}, process {process}"


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A short name for ``path``: the address of a Unix socket can have only 107 octets."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
