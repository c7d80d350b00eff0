"""SCRAM on a real Dovecot that offers nothing else for a password."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imap.support import CLIENT, login, maildrop_for
from imap.test_against_dovecot import maildrop_on
from legacy_email_proxy.contracts import CredentialsRefused, LoginRefused
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot

MESSAGE = b"Subject: one\r\n\r\nfirst\r\n"


@pytest.fixture(scope="module", params=["scram-sha-256", "scram-sha-1", "scram-sha-1 scram-sha-256 cram-md5"])
def strict(certificates: Certificates, request: pytest.FixtureRequest) -> Iterator[Dovecot]:
    """A Dovecot that wants to see no password."""
    with Dovecot.start(certificates.good, settings=f"auth_mechanisms = {request.param}") as server:
        yield server


@pytest.mark.parametrize(
    "password", ["secret", 'quo"te, = \\ %*', "p\u00e4ssw\u00f6rd", "\u65e5\u672c\u8a9e", "x" * 200]
)
async def test_it_logs_in(strict: Dovecot, password: str) -> None:
    account = strict.add_account(password=password)
    strict.add_message(account.name, MESSAGE)
    maildrop = maildrop_on(strict, account)
    async with maildrop.open(CLIENT, None) as session:
        assert [entry.octets for entry in session.entries] == [len(MESSAGE)]
    assert "logged in" in (await maildrop.probe())[1].text
    await maildrop.aclose()


async def test_a_wrong_password_is_called_wrong(strict: Dovecot) -> None:
    account = strict.add_account()
    maildrop = maildrop_for(strict.imaps_port, strict.ca_file, POP3_LOGIN="backend")
    for user, password in ((account.name, "wrong"), ("nobody at all", account.password)):
        with pytest.raises(LoginRefused):
            async with maildrop.open(CLIENT, login(user, password)):
                pass
    async with maildrop.open(CLIENT, login(account.name, account.password)) as session:
        assert list(session.entries) == []
    await maildrop.aclose()


async def test_the_settings_own_wrong_password(strict: Dovecot) -> None:
    account = strict.add_account()
    maildrop = maildrop_for(strict.imaps_port, strict.ca_file, BACKEND_IMAP_USER=account.name)
    with pytest.raises(CredentialsRefused):
        async with maildrop.open(CLIENT, None):
            pass
    await maildrop.aclose()
