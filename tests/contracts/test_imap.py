"""The `imap` maildrop keeps the contract, over a real Dovecot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from anyio.to_thread import run_sync

from legacy_email_proxy.contracts import Maildrop
from legacy_email_proxy.testing import MaildropSuite, context_for
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from realservers.accounts import Account
from realservers.dovecot import Dovecot


class TestIMAPMaildrop(MaildropSuite):
    @pytest.fixture
    async def maildrop(self, tmp_path: Path, dovecot: Dovecot, account: Account) -> AsyncIterator[Maildrop]:
        context = context_for(
            IMAPMaildrop,
            tmp_path,
            BACKEND_IMAP_HOST="localhost",
            BACKEND_IMAP_PORT=str(dovecot.imaps_port),
            BACKEND_IMAP_USER=account.name,
            BACKEND_IMAP_PASS=account.password,
            BACKEND_IMAP_CA_FILE=str(dovecot.ca_file),
        )
        maildrop = IMAPMaildrop(context)
        yield maildrop
        await maildrop.aclose()

    @pytest.fixture
    def fill(self, dovecot: Dovecot, account: Account) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        async def put(messages: Sequence[bytes]) -> None:
            await run_sync(dovecot.add_messages, account.name, messages)

        return put

    @pytest.fixture
    def held(self, dovecot: Dovecot, account: Account) -> Callable[[], Awaitable[Sequence[bytes]]]:
        async def look() -> Sequence[bytes]:
            return await run_sync(dovecot.messages, account.name)

        return look

    @pytest.fixture
    def remove(self, dovecot: Dovecot, account: Account) -> Callable[[bytes], Awaitable[None]]:
        def expunge(content: bytes) -> None:
            number = dovecot.messages(account.name).index(content) + 1
            with dovecot.connect(account.name) as connection:
                connection.select("INBOX")
                connection.store(str(number), "+FLAGS", r"(\Deleted)")
                connection.expunge()

        async def remove(content: bytes) -> None:
            await run_sync(expunge, content)

        return remove

    def expected(self, content: bytes) -> bytes:
        """IMAP has no NUL in literals (RFC 3501 §4.3.1); Dovecot gives 0x80 in its place."""
        return content.replace(b"\0", b"\x80")
