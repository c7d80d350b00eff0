"""Delivers mail into a Maildir: one file for a message, however many recipients it has."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

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

from ..threads import Threads
from .folder import Folder
from .incoming import Incoming
from .probe import probe

__all__ = ("PIECE_OCTETS", "MaildirRelay")

PIECE_OCTETS = 2**20
"""What is collected before a thread writes it out. Nearly every message is smaller and costs one thread's visit."""

_VARIABLE = "RELAY_MAILDIR_PATH"


class MaildirRelay:
    """The relay of ``RELAY_PLUGIN=maildir``.

    The file holds what the device sent, octet for octet, with CRLF line ends. No ``Return-Path:`` is added, although
    RFC 5321 §4.4 asks it of a final delivery: what a site reads in this folder is then what its device sent, and the
    envelope stands in the log, beside the name of the file. The folder is everybody's, so every recipient is accepted.
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
        """See :meth:`legacy_email_proxy.contracts.Relay.capabilities`: a folder sets no limits."""
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
            # The failure that brought us here is the one to tell the device.
            self._logger.warning("Maildir file may be left behind: %s", failure)
