"""The contract's own suite, over the fake backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from fakes.smtp import Connection, FakeSMTPServer
from legacy_email_proxy.testing import Delivered, RelaySuite
from legacy_email_proxy_plugins.smtps import SMTPSRelay
from realservers.certificates import Certificates
from smtps.support import relaying


def _path(line: str) -> str:
    return line.partition("<")[2].rpartition(">")[0]


def _judge(_: Connection, line: str) -> str | None:
    return "550 5.1.1 unknown" if "nobody@" in line else None


class TestSMTPSRelay(RelaySuite):
    refused_forward_path = "nobody@example.test"

    def expected(self, content: bytes) -> bytes:
        """SMTP can't carry a last line without its end (RFC 5321 §4.1.1.4)."""
        return content if not content or content.endswith(b"\r\n") else content + b"\r\n"

    @pytest.fixture
    async def backend(self, certificates: Certificates) -> AsyncIterator[tuple[FakeSMTPServer, SMTPSRelay]]:
        async with relaying(certificates.good, {"RCPT": _judge}) as both:
            yield both

    @pytest.fixture
    def relay(self, backend: tuple[FakeSMTPServer, SMTPSRelay]) -> SMTPSRelay:
        return backend[1]

    @pytest.fixture
    def delivered(self, backend: tuple[FakeSMTPServer, SMTPSRelay]) -> Callable[[], Awaitable[Sequence[Delivered]]]:
        async def look() -> Sequence[Delivered]:
            return [
                Delivered(each.content, _path(each.mail), tuple(map(_path, each.rcpt))) for each in backend[0].messages
            ]

        return look
