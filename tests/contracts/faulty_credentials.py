"""Credentials that break one promise each; see `faulty_relays`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

import anyio
import pytest

from legacy_email_proxy.contracts import (
    Account,
    BearerToken,
    Finding,
    Level,
    NoCredentials,
    Password,
    TokenStatus,
)
from legacy_email_proxy.testing import CredentialsSuite


class MemoryCredentials:
    """Has one other token after the first refusal."""

    def __init__(self) -> None:
        self.number = 0
        self.gone = False

    async def secret(self, account: Account) -> Password | BearerToken:
        await anyio.lowlevel.checkpoint()
        if self.gone:
            raise NoCredentials("there is none", look_at="ACME_VAULT")
        return BearerToken(f"token {self.number}")

    async def refused(self, account: Account, secret: Password | BearerToken) -> bool:
        if self.number:
            return False
        self.number += 1
        return True

    async def probe(self) -> Sequence[Finding]:
        return (Finding(Level.BAD if self.gone else Level.GOOD, "the vault"),)

    async def status(self) -> TokenStatus:
        return TokenStatus("vault")

    async def aclose(self) -> None:
        pass


class Credentials(CredentialsSuite):
    seconds = 0.5
    breaks: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[type[MemoryCredentials]] = MemoryCredentials

    @pytest.fixture
    async def credentials(self) -> MemoryCredentials:
        return self.kinds()

    @pytest.fixture
    def forget(self, credentials: MemoryCredentials) -> Callable[[], Awaitable[None]]:
        async def forget() -> None:
            credentials.gone = True

        return forget


class TestGoodCredentials(Credentials):
    seconds = 10.0


class TestGivesText(Credentials):
    breaks = ("test_secret_is_a_password_or_a_token",)

    class kinds(MemoryCredentials):
        async def secret(self, account: Account) -> Password | BearerToken:
            return "token"  # type: ignore[return-value]


class TestGivesTheFilesLineEnd(Credentials):
    breaks = ("test_secret_is_a_password_or_a_token",)

    class kinds(MemoryCredentials):
        async def secret(self, account: Account) -> Password | BearerToken:
            return Password("secret\n")


class TestKnowsOneLeg(Credentials):
    breaks = ("test_secret_is_a_password_or_a_token",)

    class kinds(MemoryCredentials):
        async def secret(self, account: Account) -> Password | BearerToken:
            return Password({"imap": "secret"}[account.leg])


class TestGivesANewOneToEachSession(Credentials):
    breaks = ("test_secret_stays_while_nobody_refuses_it", "test_sessions_at_once_get_the_same")

    class kinds(MemoryCredentials):
        async def secret(self, account: Account) -> Password | BearerToken:
            self.number += 1
            return BearerToken(f"token {self.number}")


class TestKeepsTheLockOfAClientThatLeft(Credentials):
    breaks = ("test_a_session_that_goes_away_harms_nobody",)

    class kinds(MemoryCredentials):
        def __init__(self) -> None:
            super().__init__()
            self.lock = anyio.Semaphore(1)

        async def secret(self, account: Account) -> Password | BearerToken:
            await self.lock.acquire()
            found = await super().secret(account)
            self.lock.release()
            return found


class TestWantsTheSameTriedAgain(Credentials):
    breaks = ("test_a_refusal_is_answered_with_another_secret_or_none",)

    class kinds(MemoryCredentials):
        async def refused(self, account: Account, secret: Password | BearerToken) -> bool:
            return True


class TestHasAnotherWithoutEnd(Credentials):
    breaks = ("test_refusals_without_end_do_not_make_logins_without_end",)

    class kinds(MemoryCredentials):
        async def refused(self, account: Account, secret: Password | BearerToken) -> bool:
            self.number += 1
            return True


class TestHidesThatThereIsNone(Credentials):
    breaks = ("test_without_a_source_it_is_a_failure_that_shows_no_secret",)

    class kinds(MemoryCredentials):
        async def secret(self, account: Account) -> Password | BearerToken:
            return BearerToken("" if self.gone else "token")


class TestRaisesWhatTheLibraryDoes(Credentials):
    breaks = ("test_without_a_source_it_is_a_failure_that_shows_no_secret",)

    class kinds(MemoryCredentials):
        async def secret(self, account: Account) -> Password | BearerToken:
            if self.gone:
                raise ConnectionRefusedError
            return BearerToken("token")


class TestProbeQuotesTheSecret(Credentials):
    breaks = ("test_probe_gives_findings_without_the_secret",)

    class kinds(MemoryCredentials):
        async def probe(self) -> Sequence[Finding]:
            return (Finding(Level.GOOD, "there is token 0"),)


class TestStatusQuotesTheSecret(Credentials):
    breaks = ("test_status_shows_no_secret",)

    class kinds(MemoryCredentials):
        async def status(self) -> TokenStatus:
            return TokenStatus("vault", error="token 0 has expired")
