"""Serves the messages of a Maildir to POP3 clients."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from legacy_email_proxy.contracts import (
    Client,
    Context,
    Entry,
    Finding,
    Login,
    MaildropSession,
    MessageGone,
    MessageUnavailable,
    SettingsMistake,
)

from ..files import sync_directory
from ..threads import Threads
from .folder import Filed, Folder
from .probe import probe

__all__ = ("PIECE_OCTETS", "MaildirMaildrop")

PIECE_OCTETS = 2**18
"""How much a worker thread reads in one call."""

_VARIABLE = "MAILDROP_MAILDIR_PATH"


class MaildirMaildrop:
    """The maildrop of ``MAILDROP_PLUGIN=maildir``: the messages of ``new`` and ``cur``, the same for every client.

    Nothing is moved from ``new`` to ``cur`` and no flag is set, so other mail programs on the same folder still see
    which messages are unread. Only :meth:`MaildropSession.commit` changes the messages.
    """

    def __init__(self, context: Context) -> None:
        mistakes = []
        if context.settings["POP3_LOGIN"] == "backend":
            mistakes.append("POP3_LOGIN: a Maildir knows no logins to ask; write any, or another MAILDROP_PLUGIN")
        try:
            self._folder = Folder(context.settings, _VARIABLE)
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
        if mistakes:
            raise SettingsMistake(*mistakes)
        self._threads = Threads(_VARIABLE)

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[MaildropSession]:
        """See :meth:`legacy_email_proxy.contracts.Maildrop.open`. No lock is taken: sessions may overlap."""
        await self._threads.run(self._folder.prepare)
        yield _Session(self._folder, self._threads, await self._threads.run(self._folder.messages))

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`legacy_email_proxy.contracts.Maildrop.probe`."""
        return await probe(self._folder, self._threads)

    async def aclose(self) -> None:
        """See :meth:`legacy_email_proxy.contracts.Maildrop.aclose`."""
        self._threads.close()


class _Session:
    def __init__(self, folder: Folder, threads: Threads, messages: Sequence[Filed]) -> None:
        self._folder = folder
        self._threads = threads
        self._entries = tuple(Entry(filed.unique_id, filed.octets) for filed in messages)
        self._paths = {filed.unique_id: filed.path for filed in messages}

    @property
    def entries(self) -> Sequence[Entry]:
        return self._entries

    async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        offset = 0
        while piece := await self._threads.run(self._read, unique_id, offset):
            yield piece
            if len(piece) < PIECE_OCTETS:
                return
            offset += len(piece)

    def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        # The caller stops after enough lines, and each piece is read only when the caller asks for it.
        return self.retrieve(unique_id)

    async def commit(self, deleted: Collection[str]) -> None:
        await self._threads.run(self._remove, deleted)

    # The methods below run in a worker thread.

    def _read(self, unique_id: str, offset: int) -> bytes:
        """The next octets of a message. The file is closed after each call, so slow clients hold no files open."""
        try:
            descriptor = self._open(unique_id)
            try:
                # A regular file gives fewer octets than asked for only at its end.
                return os.pread(descriptor, PIECE_OCTETS, offset)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise MessageGone(f"removed by another program: {self._paths[unique_id].name}") from None
        except OSError as error:
            # An error such as a bad sector in one message must not end the session: the others can be read.
            raise MessageUnavailable(f"{error.strerror}: {self._paths[unique_id]}", look_at=_VARIABLE) from error

    def _open(self, unique_id: str) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return os.open(self._paths[unique_id], flags)
        except FileNotFoundError:
            self._look_again()
            return os.open(self._paths[unique_id], flags)

    def _remove(self, deleted: Collection[str]) -> None:
        missing = [unique_id for unique_id in deleted if not _unlink(self._paths[unique_id])]
        if missing:
            self._look_again()
            for unique_id in missing:
                _unlink(self._paths[unique_id])
        sync_directory(self._folder.new, where_possible=True)
        sync_directory(self._folder.cur, where_possible=True)

    def _look_again(self) -> None:
        """Find files again that another program renamed, to change flags or to move them from ``new`` to ``cur``."""
        self._paths |= {filed.unique_id: filed.path for filed in self._folder.messages()}


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
