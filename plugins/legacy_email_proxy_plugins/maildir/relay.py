"""Delivers mail into a Maildir: one file for a message, however many recipients it has."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from legacy_email_proxy.contracts import (
    Client,
    Context,
    Failure,
    Finding,
    Parameters,
    Receipt,
    RelayCapabilities,
    Transaction,
)

from ..files import sync_directory
from ..threads import Threads
from .folder import Folder, unique_name
from .probe import probe

__all__ = ("PIECE_OCTETS", "Incoming", "MaildirRelay")

PIECE_OCTETS = 2**20
"""How much is collected before a thread writes it. Most messages are smaller and need only one call of a thread."""

_VARIABLE = "RELAY_MAILDIR_PATH"


class MaildirRelay:
    """The relay of ``RELAY_PLUGIN=maildir``.

    The file holds exactly the octets that the device sent, with CRLF line ends. No ``Return-Path:`` is added, although
    RFC 5321 §4.4 asks for it at final delivery, so that the file shows what the device sent; the log has the envelope
    together with the file's name. All recipients share the folder, so every recipient is accepted.
    """

    def __init__(self, context: Context) -> None:
        self._folder = Folder(context.settings, _VARIABLE)
        self._threads = Threads(_VARIABLE)
        self._logger = context.logger
        self._room_octets: int = context.settings["SMTP_MAX_OCTETS"]

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """See :meth:`legacy_email_proxy.contracts.Relay.transaction`."""
        yield _Transaction(self._folder, self._threads, self._logger)

    def capabilities(self) -> RelayCapabilities:
        """See :meth:`legacy_email_proxy.contracts.Relay.capabilities`: a folder has no limits."""
        return RelayCapabilities()

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`legacy_email_proxy.contracts.Relay.probe`."""
        return await probe(self._folder, self._threads, room_octets=self._room_octets)

    async def aclose(self) -> None:
        """See :meth:`legacy_email_proxy.contracts.Relay.aclose`."""
        self._threads.close()


class _Transaction:
    def __init__(self, folder: Folder, threads: Threads, logger: logging.Logger) -> None:
        self._folder = folder
        self._threads = threads
        self._logger = logger

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        pass

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        incoming = Incoming(self._folder)
        pieces: list[bytes] = []
        octets = 0
        try:
            async for piece in content:
                pieces.append(piece)
                octets += len(piece)
                if octets >= PIECE_OCTETS:
                    await self._threads.run(incoming.write, pieces)
                    pieces, octets = [], 0
            return Receipt(await self._threads.run(incoming.deliver, pieces))
        except BaseException:
            await self._discard(incoming)
            raise

    async def _discard(self, incoming: Incoming) -> None:
        incoming.abandoned = True
        if not incoming.begun:
            return
        try:
            with anyio.CancelScope(shield=True):
                await self._threads.run(incoming.discard)
        except Failure as failure:
            # The device is told the first failure, so this one is only logged.
            self._logger.warning("Maildir file may be left behind: %s", failure)


class Incoming:
    """One message being delivered into a Maildir: written in ``tmp``, then moved to ``new``. Each method blocks.

    Call :meth:`write` any number of times, then :meth:`deliver`, one after the other, in a worker thread each.

    The caller may stop waiting for a thread at any time: it sets ``abandoned`` and calls :meth:`discard` in another
    thread. The first thread may then still be writing. At its end it sees ``abandoned``, or finds no file to rename;
    either way no file is left. There is no lock, because a hanging disk could keep it.
    """

    def __init__(self, folder: Folder) -> None:
        self.abandoned = False
        self.begun = False
        self._folder = folder
        self._written = folder.tmp / unique_name()
        self._delivered: Path | None = None
        self._octets = 0

    def write(self, pieces: Iterable[bytes]) -> None:
        """Append ``pieces`` and sync them to disk, so that the end of a large message needs no long wait."""
        new = os.O_CREAT | os.O_EXCL if not self.begun else 0
        if new:
            self._folder.prepare()
        descriptor = os.open(self._written, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | new, 0o600)
        self.begun = True
        try:
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    left = left[os.write(descriptor, left) :]
                self._octets += len(piece)
            # Sync with the descriptor that wrote: one opened later may not report a write error.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            if self.abandoned:
                self.discard()

    def deliver(self, pieces: Iterable[bytes]) -> str:
        """Append ``pieces`` and put the message into ``new``; returns the name of its file.

        On return the message and its directory entry are on disk. When it raises, :meth:`discard` is still to be
        called.
        """
        self.write(pieces)
        if self.abandoned:
            return ""
        # A new name, not the one in `tmp`, so that messages sort by the time of delivery.
        self._delivered = self._folder.new / f"{unique_name()},S={self._octets}"
        try:
            self._written.rename(self._delivered)
            sync_directory(self._folder.new, where_possible=True)
        finally:
            if self.abandoned:
                self.discard()
        return self._delivered.name

    def discard(self) -> None:
        """Remove the message's file from ``tmp`` and ``new``; a missing file is no error."""
        self._written.unlink(missing_ok=True)
        if self._delivered:
            self._delivered.unlink(missing_ok=True)
