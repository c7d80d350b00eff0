"""Shows the ``*.eml`` files of a folder as a maildrop; other programs put them there and take them away."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from anyio.to_thread import run_sync

from legacy_email_proxy.contracts import (
    Client,
    Context,
    Entry,
    Finding,
    Level,
    Login,
    MaildropSession,
    MessageGone,
    Setting,
    SettingsMistake,
)

PIECE_OCTETS = 65536


class NoticesMaildrop:
    """See :class:`legacy_email_proxy.contracts.Maildrop`."""

    settings = (Setting("ACME_NOTICES_PATH", "path", None, "The folder whose `*.eml` files POP3 shows."),)

    def __init__(self, context: Context) -> None:
        folder: Path | None = context.settings["ACME_NOTICES_PATH"]
        if folder is None:
            raise SettingsMistake("ACME_NOTICES_PATH: not set; name the folder with the notices")
        self._folder = folder

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[MaildropSession]:
        yield _Session(await run_sync(self._notices))

    def _notices(self) -> dict[Entry, Path]:
        return {_entry(file): file for file in sorted(self._folder.glob("*.eml"))}

    async def probe(self) -> Sequence[Finding]:
        if not await run_sync(self._folder.is_dir):
            return [Finding(Level.BAD, f"{self._folder} is no folder", "look at ACME_NOTICES_PATH")]
        return [Finding(Level.GOOD, f"{len(await run_sync(self._notices))} notices in {self._folder}")]

    async def aclose(self) -> None:
        pass


def _entry(file: Path) -> Entry:
    # A file that comes back under an old name is another message, so its name alone is no unique-id.
    status = file.stat()
    identity = f"{file.name} {status.st_ino} {status.st_mtime_ns}"
    return Entry(hashlib.sha256(identity.encode()).hexdigest()[:40], status.st_size)


class _Session:
    def __init__(self, notices: dict[Entry, Path]) -> None:
        self.entries = tuple(notices)
        self._files = {entry.unique_id: file for entry, file in notices.items()}

    async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        offset = 0
        while piece := await run_sync(_read, self._files[unique_id], offset):
            yield piece
            offset += len(piece)

    async def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        # More than asked for is allowed: the core cuts the rest off.
        async for piece in self.retrieve(unique_id):
            yield piece

    async def commit(self, deleted: Collection[str]) -> None:
        for unique_id in deleted:
            await run_sync(lambda file: file.unlink(missing_ok=True), self._files[unique_id])


def _read(file: Path, offset: int) -> bytes:
    try:
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(PIECE_OCTETS)
    except FileNotFoundError:
        raise MessageGone(f"{file.name} was taken away") from None
