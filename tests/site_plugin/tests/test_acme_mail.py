"""Acme's plugins keep the contracts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from acme_mail.archive import ArchiveRelay
from acme_mail.devices import DevicesFilter
from acme_mail.helper import HelperCredentials
from acme_mail.notices import NoticesMaildrop

from legacy_email_proxy.contracts import Credentials, Filter, Maildrop, Relay
from legacy_email_proxy.testing import CredentialsSuite, Delivered, FilterSuite, MaildropSuite, RelaySuite, context_for


def mails(folder: Path) -> list[Path]:
    return list(folder.glob("*.eml"))


class TestArchive(RelaySuite):
    @pytest.fixture
    async def relay(self, tmp_path: Path) -> AsyncIterator[Relay]:
        relay = ArchiveRelay(context_for(ArchiveRelay, tmp_path, ACME_ARCHIVE_PATH=str(tmp_path)))
        yield relay
        await relay.aclose()

    @pytest.fixture
    def delivered(self, tmp_path: Path) -> Callable[[], Awaitable[Sequence[Delivered]]]:
        async def look() -> Sequence[Delivered]:
            return [Delivered(file.read_bytes()) for file in mails(tmp_path)]

        return look


class TestDevices(FilterSuite):
    @pytest.fixture
    async def mail_filter(self, tmp_path: Path) -> Filter:
        return DevicesFilter(context_for(DevicesFilter, tmp_path))


class TestHelper(CredentialsSuite):
    @pytest.fixture
    async def credentials(self, tmp_path: Path) -> Credentials:
        program = tmp_path / "helper"
        program.write_text('#!/bin/sh\necho "password of $1"\n')
        program.chmod(0o755)
        return HelperCredentials(context_for(HelperCredentials, tmp_path, ACME_HELPER=str(program)))

    @pytest.fixture
    def forget(self, tmp_path: Path) -> Callable[[], Awaitable[None]]:
        async def remove() -> None:
            (tmp_path / "helper").unlink()

        return remove


class TestNotices(MaildropSuite):
    @pytest.fixture
    async def maildrop(self, tmp_path: Path) -> AsyncIterator[Maildrop]:
        maildrop = NoticesMaildrop(context_for(NoticesMaildrop, tmp_path, ACME_NOTICES_PATH=str(tmp_path)))
        yield maildrop
        await maildrop.aclose()

    @pytest.fixture
    def fill(self, tmp_path: Path) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        count = 0

        async def put(messages: Sequence[bytes]) -> None:
            nonlocal count
            for message in messages:
                count += 1
                (tmp_path / f"{count:04}.eml").write_bytes(message)

        return put

    @pytest.fixture
    def held(self, tmp_path: Path) -> Callable[[], Awaitable[Sequence[bytes]]]:
        async def look() -> Sequence[bytes]:
            return [file.read_bytes() for file in mails(tmp_path)]

        return look

    @pytest.fixture
    def remove(self, tmp_path: Path) -> Callable[[bytes], Awaitable[None]]:
        async def unlink(content: bytes) -> None:
            next(file for file in mails(tmp_path) if file.read_bytes() == content).unlink()

        return unlink
