"""Both plugins keep the contracts, in front of the fake Graph server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fakes.graph import FakeGraph
from graph.support import context, serving
from legacy_email_proxy.testing import Delivered, MaildropSuite, RelaySuite
from legacy_email_proxy_plugins.graph import GraphMaildrop, GraphRelay
from realservers.certificates import Certificates


@pytest.fixture
async def server(certificates: Certificates) -> AsyncIterator[FakeGraph]:
    async with serving(certificates, send_as=("a@example.test",)) as fake:
        yield fake


SUPPRESS = b"X-Auto-Response-Suppress: All\r\n"
"""What a notification gets besides, since Graph sends it in the mailbox's name."""


class TestRelay(RelaySuite):
    given: Mapping[str, str] = MappingProxyType({})

    @pytest.fixture
    async def relay(self, server: FakeGraph, certificates: Certificates, tmp_path: Path) -> AsyncIterator[GraphRelay]:
        relay = GraphRelay(context(GraphRelay, server, certificates, tmp_path, **self.given))
        yield relay
        await relay.aclose()

    @pytest.fixture
    def delivered(self, server: FakeGraph) -> Callable[[], Awaitable[Sequence[Delivered]]]:
        async def look() -> Sequence[Delivered]:
            return [
                Delivered(
                    _text(sent) if sent.mime is None else sent.delivered.replace(SUPPRESS, b""), None, sent.recipients
                )
                for sent in server.mailbox.sent
            ]

        return look

    def expected(self, content: bytes) -> bytes:
        if len(content) > 3_000_000:
            # Taken apart: the text is an attachment.
            return content.partition(b"\r\n\r\n")[2]
        # The blank line that an empty message lacks.
        return content if content else b"\r\n"


class TestRelayWithoutCopies(TestRelay):
    given = MappingProxyType({"GRAPH_SAVE_TO_SENT": "false"})


def _text(sent: Any) -> bytes:
    (attachment,) = sent.attachments
    octets: bytes = attachment.octets
    return octets


class TestMaildrop(MaildropSuite):
    given: Mapping[str, str] = MappingProxyType({})

    @pytest.fixture
    async def maildrop(
        self, server: FakeGraph, certificates: Certificates, tmp_path: Path
    ) -> AsyncIterator[GraphMaildrop]:
        maildrop = GraphMaildrop(context(GraphMaildrop, server, certificates, tmp_path, **self.given))
        yield maildrop
        await maildrop.aclose()

    @pytest.fixture
    def fill(self, server: FakeGraph) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        async def put(messages: Sequence[bytes]) -> None:
            for message in messages:
                server.mailbox.add(message)

        return put

    @pytest.fixture
    def held(self, server: FakeGraph) -> Callable[[], Awaitable[Sequence[bytes]]]:
        async def look() -> Sequence[bytes]:
            return [item.mime for item in server.mailbox.held()]

        return look

    @pytest.fixture
    def remove(self, server: FakeGraph) -> Callable[[bytes], Awaitable[None]]:
        async def take(content: bytes) -> None:
            server.mailbox.remove(next(item for item in server.mailbox.held() if item.mime == content))

        return take


class TestMaildropWithTrash(TestMaildrop):
    given = MappingProxyType({"GRAPH_DELETE": "trash"})
