"""The `smtps` relay keeps the contract, in front of a real Postfix that delivers to a real Dovecot."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from anyio.to_thread import run_sync

from legacy_email_proxy.contracts import Relay
from legacy_email_proxy.testing import Delivered, RelaySuite, context_for
from legacy_email_proxy_plugins.smtps import SMTPSRelay
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import UNKNOWN_RECIPIENT, Postfix

_TRACE = re.compile(rb"(?:(?:Return-Path|Delivered-To|Received): .*\r\n(?:[ \t].*\r\n)*)*")
_RETURN_PATH = re.compile(rb"Return-Path: <(.*)>\r\n")


def without_trace(message: bytes, recipient: str) -> Delivered:
    """What the device sent: Postfix and Dovecot write their trace above it."""
    trace = _TRACE.match(message)
    assert trace
    reverse_path = _RETURN_PATH.search(trace[0])
    assert reverse_path
    return Delivered(message[trace.end() :], reverse_path[1].decode(), (recipient,))


class TestSMTPSRelay(RelaySuite):
    refused_forward_path = UNKNOWN_RECIPIENT

    @pytest.fixture(autouse=True)
    def accounts(self, dovecot: Dovecot) -> list[Account]:
        accounts = [dovecot.add_account() for _ in range(3)]
        self.forward_paths = [account.address for account in accounts]
        return accounts

    @pytest.fixture
    async def relay(
        self, tmp_path: Path, postfix: Postfix, dovecot: Dovecot, accounts: list[Account]
    ) -> AsyncIterator[Relay]:
        context = context_for(
            SMTPSRelay,
            tmp_path,
            BACKEND_SMTP_HOST="localhost",
            BACKEND_SMTP_PORT=str(postfix.smtps_port),
            BACKEND_SMTP_USER=accounts[0].name,
            BACKEND_SMTP_PASS=accounts[0].password,
            BACKEND_SMTP_CA_FILE=str(dovecot.ca_file),
        )
        relay = SMTPSRelay(context)
        yield relay
        await relay.aclose()

    @pytest.fixture
    def delivered(self, dovecot: Dovecot, accounts: list[Account]) -> Callable[[], Awaitable[Sequence[Delivered]]]:
        def read() -> Sequence[Delivered]:
            return [
                without_trace(message, account.address)
                for account in accounts
                for message in dovecot.messages(account.name)
            ]

        async def look() -> Sequence[Delivered]:
            return await run_sync(read)

        return look

    def expected(self, content: bytes) -> bytes:
        """SMTP ends a message with a line end (RFC 5321 §4.1.1.4); IMAP, by which we look, has no NUL."""
        if content and not content.endswith(b"\r\n"):
            content += b"\r\n"
        return content.replace(b"\0", b"\x80")
