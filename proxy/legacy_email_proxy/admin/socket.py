"""The service's own socket, by which the commands reach it: one request, then its answers, one JSON object a line.

It lies in ``STATE_DIR`` and may be opened by the service's user and by root only. What is behind it (messages in the
spool, a device's dialogue) is not for everybody on the machine, and a port would need a password.

An answer is ``{"item": …}``, or ``{"octets": n}`` with so many octets behind the line. The last one is
``{"end": true}`` or ``{"failure": text}``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import log
from ..contracts import Failure

__all__ = ("NAME", "NOBODY_THERE", "Answers", "ControlSocket", "Handler", "ask")

NAME = "control.sock"
"""The socket's name in ``STATE_DIR``."""

NOBODY_THERE = (FileNotFoundError, ConnectionRefusedError)
"""What :func:`ask` raises where no service is running."""

Answers = AsyncGenerator[Mapping[str, Any] | bytes, None]
Handler = Callable[[Mapping[str, Any], str], Answers]
"""Takes a request and who sent it, and gives the answers. What it raises ends them; a :class:`Failure` is told."""

_LINE_OCTETS = 16 * 2**20
"""A request may name very many messages."""
_REQUEST_SECONDS = 10.0
_MOST_AT_ONCE = 32
_AGAIN_SECONDS = 1.0
"""How often to try for the socket while another service has it."""
_CREDENTIALS = struct.Struct("3i")

_log = logging.getLogger("legacy_email_proxy.admin")


class ControlSocket:
    """The service's side. ``handlers`` are by the name that a request gives in ``do``."""

    def __init__(self, state_dir: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = state_dir / NAME
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        # The name with which the socket was bound stays true while it is open: from 3.13 on asyncio looks it up at the
        # end, and would log an error if it led to anything else.
        self._folder = ExitStack()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        self._waiting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Where that can not be, it is logged, and the commands don't reach this service.

        A service that stops may still have the socket: then this one goes on, and has it as soon as it is free.
        """
        try:
            await self._listen()
        except OSError as error:
            words = "commands will not reach this service"
            cause = error.strerror or str(error)
            log.event(_log, logging.WARNING, words, socket=self._path, cause=cause, see="STATE_DIR")
            if isinstance(error, _InUse):
                self._waiting = asyncio.create_task(self._listen_when_free())

    async def _listen_when_free(self) -> None:
        while self._server is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_SECONDS):
                    await self._ended.wait()
                    return
            with suppress(OSError):
                await self._listen()
        log.event(_log, logging.INFO, "commands reach this service now", socket=self._path)

    async def _listen(self) -> None:
        """Raises ``OSError`` where that can not be, :class:`_InUse` where another service listens there."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = self._folder.enter_context(_reachable(self._path))
            self._server = await asyncio.start_unix_server(self._serve, sock=_bound(name), limit=_LINE_OCTETS)
        except OSError:
            self._folder.close()
            raise

    async def aclose(self) -> None:
        """Listen no more, and end what is being answered."""
        self._ended.set()
        if self._waiting is not None:
            await self._waiting
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(OSError):
            self._path.unlink()
        self._folder.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= _MOST_AT_ONCE:
            writer.close()
            return
        answering = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._tasks.add(answering)
        # Whatever ended it: the command hung up, or the service stops.
        await asyncio.gather(answering, return_exceptions=True)
        self._tasks.discard(answering)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = _request(await _line_of(reader))
            handler = self._handlers.get(str(request.get("do")))
            if handler is None:
                raise Failure("this service does not know that request; is it another version?")
            async with aclosing(handler(request, _peer(writer))) as answers:
                # A command that was ended with Ctrl-C must not be answered for ever.
                await _until_gone(reader, _send(answers, writer))
            writer.write(_line({"end": True}))
        except OSError:
            raise
        except Exception as error:
            if not isinstance(error, Failure):
                log.failure(_log, "a request failed", error)
            writer.write(_line({"failure": str(error) or type(error).__name__}))
        await writer.drain()


async def _send(answers: Answers, writer: asyncio.StreamWriter) -> None:
    async for answer in answers:
        if isinstance(answer, bytes):
            writer.write(_line({"octets": len(answer)}) + answer)
        else:
            writer.write(_line({"item": answer}))
        await writer.drain()


async def _until_gone(reader: asyncio.StreamReader, sending: Any) -> None:
    """Run ``sending``, and cancel it when the other end closes. Raises what it raises, ``OSError`` when it was cut."""
    loop = asyncio.get_running_loop()
    work, gone = loop.create_task(sending), loop.create_task(reader.read(1))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ConnectionAbortedError
        await work
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def ask(state_dir: Path, do: str, **request: Any) -> Answers:
    """The command's side: the answers to one request.

    Raises one of :data:`NOBODY_THERE` where no service runs with this ``STATE_DIR``, :class:`Failure` where it could
    not do it or may not be asked.
    """
    path = state_dir / NAME
    try:
        with _reachable(path) as name:
            reader, writer = await asyncio.open_unix_connection(name, limit=_LINE_OCTETS)
    except NOBODY_THERE:
        raise
    except OSError as error:
        raise Failure(f"the service can not be reached: {path}: {error.strerror}") from None
    try:
        with suppress(ConnectionError):
            writer.write(_line({"do": do, **request}))
            await writer.drain()
        while True:
            answer = await _next_answer(reader)
            if "end" in answer:
                return
            if "failure" in answer:
                raise Failure(answer["failure"])
            yield answer["item"] if "item" in answer else await reader.readexactly(answer["octets"])
    finally:
        writer.close()


async def _next_answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    with suppress(ConnectionError):
        line = await reader.readline()
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
    return {"failure": "the service has hung up"}


def _bound(name: str) -> socket.socket:
    """A listening socket of that name. One that another service left behind is in nobody's use, and goes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(name).st_mode):
                _refuse_to_replace(name)
                Path(name).unlink()
        before = os.umask(0o177)
        try:
            listener.bind(name)
        finally:
            os.umask(before)
    except BaseException:
        listener.close()
        raise
    return listener


class _InUse(OSError):
    """Another service listens there."""


def _refuse_to_replace(name: str) -> None:
    """Raises :class:`_InUse` where somebody listens: two services with one ``STATE_DIR`` must not take turns."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(name)
        except ConnectionRefusedError:
            return
    raise _InUse(None, "another service answers there")


async def _line_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        return b""  # longer than any request


def _request(line: bytes) -> Mapping[str, Any]:
    """What a line asks for. Raises :class:`Failure` where it is no request: whoever may open the socket may send
    anything.
    """
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Failure("that is no request")
    return given


def _peer(writer: asyncio.StreamWriter) -> str:
    """Who is at the other end, as the kernel knows it. A user's name might have to be asked of a server."""
    held = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(held)
    return f"user {user}, process {process}"


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A name of ``path`` that fits into a socket's address, which holds 107 octets."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
