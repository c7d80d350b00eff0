"""A Maildir, the plugins over it, and small helpers to send and to read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from legacy_email_proxy.contracts import Client, MaildropSession, Receipt, Relay
from legacy_email_proxy.testing import context_for
from legacy_email_proxy_plugins.maildir import MaildirMaildrop, MaildirRelay

CLIENT = Client("192.0.2.7", "test")


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    """An empty Maildir."""
    for name in ("tmp", "new", "cur"):
        (tmp_path / "maildir" / name).mkdir(parents=True)
    return tmp_path / "maildir"


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[MaildirRelay]:
    """A relay into `maildir`, which it makes if the test has not asked for the fixture."""
    relay = MaildirRelay(context_for(MaildirRelay, tmp_path, RELAY_MAILDIR_PATH=str(tmp_path / "maildir")))
    yield relay
    await relay.aclose()


@pytest.fixture
async def maildrop(tmp_path: Path) -> AsyncIterator[MaildirMaildrop]:
    """A maildrop over `maildir`, which it makes if the test has not asked for the fixture."""
    context = context_for(MaildirMaildrop, tmp_path, MAILDROP_MAILDIR_PATH=str(tmp_path / "maildir"))
    maildrop = MaildirMaildrop(context)
    yield maildrop
    await maildrop.aclose()


async def pieces(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


async def send(relay: Relay, content: AsyncIterator[bytes]) -> Receipt:
    async with relay.transaction(CLIENT, "device@example.test", {}) as transaction:
        await transaction.add_recipient("box@example.test", {})
        return await transaction.send(content)


async def retrieve(session: MaildropSession, unique_id: str) -> bytes:
    return b"".join([piece async for piece in session.retrieve(unique_id)])


def tree(maildir: Path) -> dict[str, tuple[bytes, int]]:
    """Each file: its content and its time of change."""
    found = {}
    for file in sorted(maildir.rglob("*")):
        # A thread may be removing it.
        with suppress(FileNotFoundError, IsADirectoryError):
            found[str(file.relative_to(maildir))] = file.read_bytes(), file.stat().st_mtime_ns
    return found


def subfolders(maildir: Path) -> dict[str, int]:
    """Each folder in it, and its mode."""
    return {folder.name: folder.stat().st_mode & 0o777 for folder in maildir.glob("*") if folder.is_dir()}
