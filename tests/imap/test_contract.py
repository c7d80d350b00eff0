"""The `imap` maildrop keeps the contract, on the fake server (and in `contracts/` on a real Dovecot)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from fakes.imap import FakeIMAPServer, Message
from imap.support import PASSWORD, USER, pair
from legacy_email_proxy.contracts import Maildrop
from legacy_email_proxy.testing import MaildropSuite
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from realservers.certificates import Certificates


class TestOnTheFakeServer(MaildropSuite):
    @pytest.fixture
    async def both(self, certificates: Certificates) -> AsyncIterator[tuple[IMAPMaildrop, FakeIMAPServer]]:
        async with pair(certificates.good) as both:
            yield both

    @pytest.fixture
    async def maildrop(self, both: tuple[IMAPMaildrop, FakeIMAPServer]) -> Maildrop:
        return both[0]

    @pytest.fixture
    def fill(self, both: tuple[IMAPMaildrop, FakeIMAPServer]) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        messages, given = both[1].accounts[USER, PASSWORD].messages, 0

        async def put(contents: Sequence[bytes]) -> None:
            nonlocal given
            for content in contents:
                given += 1
                messages[given] = Message(content)

        return put

    @pytest.fixture
    def held(self, both: tuple[IMAPMaildrop, FakeIMAPServer]) -> Callable[[], Awaitable[Sequence[bytes]]]:
        async def look() -> Sequence[bytes]:
            return [message.octets for message in both[1].accounts[USER, PASSWORD].messages.values()]

        return look

    @pytest.fixture
    def remove(self, both: tuple[IMAPMaildrop, FakeIMAPServer]) -> Callable[[bytes], Awaitable[None]]:
        messages = both[1].accounts[USER, PASSWORD].messages

        async def take_away(content: bytes) -> None:
            del messages[next(uid for uid, message in messages.items() if message.octets == content)]

        return take_away
