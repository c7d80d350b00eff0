"""SCRAM on a real Postfix whose Dovecot SASL offers nothing else for a password."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from legacy_email_proxy.contracts import CredentialsRefused
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from smtps.support import deliver, relay_to


@pytest.fixture(scope="module", params=["scram-sha-256", "scram-sha-1 cram-md5"])
def strict(certificates: Certificates, request: pytest.FixtureRequest) -> Iterator[tuple[Postfix, Dovecot]]:
    with Dovecot.start(certificates.good, settings=f"auth_mechanisms = {request.param}") as dovecot:
        with Postfix.start(certificates.good, dovecot) as postfix:
            yield postfix, dovecot


@pytest.mark.parametrize("password", ["secret", 'quo"te, = \\ %*', "p\u00e4ssw\u00f6rd"])
async def test_a_message_goes_out(strict: tuple[Postfix, Dovecot], password: str) -> None:
    postfix, dovecot = strict
    account = dovecot.add_account(password=password)
    relay = relay_to(postfix.smtps_port, postfix.ca_file, user=account.name, password=password)
    assert (await deliver(relay, account.address)).detail.startswith("250 2.0.0")
    assert f"logged in as {account.name} (SCRAM-SHA-" in (await relay.probe())[1].text
    await relay.aclose()


async def test_a_wrong_password_is_called_wrong(strict: tuple[Postfix, Dovecot]) -> None:
    postfix, dovecot = strict
    account = dovecot.add_account()
    relay = relay_to(postfix.smtps_port, postfix.ca_file, user=account.name, password="wrong")
    with pytest.raises(CredentialsRefused, match=r"535 5\.7\.8"):
        await deliver(relay)
    await relay.aclose()
