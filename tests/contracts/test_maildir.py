"""The `maildir` plugins keep the contracts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from legacy_email_proxy.contracts import Maildrop, Relay
from legacy_email_proxy.testing import Delivered, MaildropSuite, RelaySuite, context_for
from legacy_email_proxy_plugins.maildir import MaildirMaildrop, MaildirRelay


def files(maildir: Path) -> list[Path]:
    return [*maildir.glob("new/*"), *maildir.glob("cur/*")]


class TestMaildirRelay(RelaySuite):
    @pytest.fixture
    async def relay(self, tmp_path: Path) -> AsyncIterator[Relay]:
        relay = MaildirRelay(context_for(MaildirRelay, tmp_path, RELAY_MAILDIR_PATH=str(tmp_path / "maildir")))
        yield relay
        await relay.aclose()

    @pytest.fixture
    def delivered(self, tmp_path: Path) -> Callable[[], Awaitable[Sequence[Delivered]]]:
        async def look() -> Sequence[Delivered]:
            return [Delivered(file.read_bytes()) for file in files(tmp_path / "maildir")]

        return look


class TestMaildirMaildrop(MaildropSuite):
    @pytest.fixture
    async def maildrop(self, tmp_path: Path) -> AsyncIterator[Maildrop]:
        maildir = tmp_path / "maildir"
        maildrop = MaildirMaildrop(context_for(MaildirMaildrop, tmp_path, MAILDROP_MAILDIR_PATH=str(maildir)))
        yield maildrop
        await maildrop.aclose()

    @pytest.fixture
    def fill(self, tmp_path: Path) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        count = 0

        async def put(messages: Sequence[bytes]) -> None:
            nonlocal count
            for subfolder in ("tmp", "new", "cur"):
                (tmp_path / "maildir" / subfolder).mkdir(parents=True, exist_ok=True)
            for message in messages:
                count += 1
                name = f"new/16000000{count:02}.M1P1.host" if count % 2 else f"cur/16000000{count:02}.M1P1.host:2,S"
                (tmp_path / "maildir" / name).write_bytes(message)

        return put

    @pytest.fixture
    def held(self, tmp_path: Path) -> Callable[[], Awaitable[Sequence[bytes]]]:
        async def look() -> Sequence[bytes]:
            return [file.read_bytes() for file in files(tmp_path / "maildir")]

        return look

    @pytest.fixture
    def remove(self, tmp_path: Path) -> Callable[[bytes], Awaitable[None]]:
        async def unlink(content: bytes) -> None:
            next(file for file in files(tmp_path / "maildir") if file.read_bytes() == content).unlink()

        return unlink
