"""The promises of :class:`legacy_email_proxy.contracts.Credentials`, each a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from ..contracts import (
    Account,
    BearerToken,
    Credentials,
    CredentialsRefused,
    Failure,
    Finding,
    Level,
    NoCredentials,
    Password,
    TokenStatus,
    logged_in,
)
from .bench import Suite, bounded

__all__ = ("CredentialsSuite",)

ACCOUNTS = (Account("imap", "device"), Account("smtp", "device"))
_SESSIONS = 20
_REFUSALS = 10
_OTHERS = 3
"""How many new secrets in a row may follow refusals; many more wrong logins would lock the account."""


@pytest.mark.anyio
class CredentialsSuite(Suite):
    """Subclass it as ``TestMyCredentials`` and write two fixtures.

    ``credentials`` gives the plugin, made in the event loop (``async def``), which knows a secret for the user
    ``device`` on both legs; it closes it after the test.

    ``forget`` gives an async function after which the plugin's source (a vault, a token endpoint, a file) fails. If the
    plugin has no source that could fail, do not write it: its test is skipped.
    """

    @pytest.fixture
    def credentials(self) -> Any:
        """The credentials to test."""
        raise NotImplementedError("write a fixture `credentials`")

    @pytest.fixture
    def forget(self) -> Callable[[], Awaitable[None]]:
        """An async function after which the plugin's source fails."""
        pytest.skip("nothing to ask, so nothing that fails: no fixture `forget`")

    @pytest.mark.parametrize("account", ACCOUNTS, ids=["imap", "smtp"])
    @bounded
    async def test_secret_is_a_password_or_a_token(self, credentials: Credentials, account: Account) -> None:
        secret = await credentials.secret(account)
        assert type(secret) in (Password, BearerToken)
        assert secret
        # In SASL a password ends at NUL and a token at Ctrl-A; a line end would end the command.
        assert not set(secret.reveal()) & set("\0\r\n\x01")

    @bounded
    async def test_secret_stays_while_nobody_refuses_it(self, credentials: Credentials) -> None:
        for account in ACCOUNTS:
            first = await credentials.secret(account)
            assert await credentials.secret(account) == first

    @bounded
    async def test_sessions_at_once_get_the_same(self, credentials: Credentials) -> None:
        secrets = set()

        async def ask() -> None:
            secrets.add(await credentials.secret(ACCOUNTS[0]))

        async with anyio.create_task_group() as group:
            for _ in range(_SESSIONS):
                group.start_soon(ask)
        assert len(secrets) == 1

    @bounded
    async def test_a_session_that_goes_away_harms_nobody(self, credentials: Credentials) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await credentials.secret(ACCOUNTS[0])
        async with anyio.create_task_group() as group:
            group.start_soon(credentials.secret, ACCOUNTS[0])
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert await credentials.secret(ACCOUNTS[0])

    @bounded
    async def test_a_refusal_is_answered_with_another_secret_or_none(self, credentials: Credentials) -> None:
        secret = await credentials.secret(ACCOUNTS[0])
        again = await credentials.refused(ACCOUNTS[0], secret)
        assert again in (True, False)
        if again:
            assert await credentials.secret(ACCOUNTS[0]) != secret, "the same secret would be refused again"

    @bounded
    async def test_refusals_without_end_do_not_make_logins_without_end(self, credentials: Credentials) -> None:
        tried = []

        async def log_in(secret: Password | BearerToken) -> None:
            tried.append(secret)
            raise CredentialsRefused("no")

        for _ in range(_REFUSALS):
            with pytest.raises(CredentialsRefused):
                await logged_in(credentials, ACCOUNTS[0], log_in)
        assert len(set(tried)) <= 1 + _OTHERS

    @bounded
    async def test_without_a_source_it_is_a_failure_that_shows_no_secret(
        self, credentials: Credentials, forget: Callable[[], Awaitable[None]]
    ) -> None:
        await forget()
        for _ in range(2):
            with pytest.raises(Failure) as raised:
                await credentials.secret(ACCOUNTS[0])
            assert raised.value.detail
            if isinstance(raised.value, NoCredentials):
                assert raised.value.look_at, "somebody has to act, so the failure must name a setting"
        findings = await credentials.probe()
        assert any(finding.level is Level.BAD for finding in findings)

    @bounded
    async def test_probe_gives_findings_without_the_secret(self, credentials: Credentials) -> None:
        secret = await credentials.secret(ACCOUNTS[0])
        findings = await credentials.probe()
        assert all(isinstance(finding, Finding) for finding in findings)
        assert secret.reveal() not in str(findings)

    @bounded
    async def test_status_shows_no_secret(self, credentials: Credentials) -> None:
        status = getattr(credentials, "status", None)
        if status is None:
            pytest.skip("no consent is needed: `authorize` and `status` are not written")
        secret = await credentials.secret(ACCOUNTS[0])
        told = await status()
        assert isinstance(told, TokenStatus)
        assert secret.reveal() not in str(told)
