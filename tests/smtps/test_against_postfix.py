"""The relay against a real Postfix, which delivers into a real Dovecot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fakes.smtp import Encryption
from legacy_email_proxy.contracts import CredentialsRefused, Level, Refused, Unverified
from legacy_email_proxy_plugins.smtps import SMTPSRelay
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import LATER_RECIPIENT, REFUSED_FIELD, REFUSED_SENDER, UNKNOWN_RECIPIENT, Postfix
from smtps.support import deliver, relay_to

ENCRYPTIONS: list[Encryption] = ["implicit", "starttls"]


@asynccontextmanager
async def relaying(
    postfix: Postfix, account: Account, encryption: Encryption = "implicit"
) -> AsyncIterator[SMTPSRelay]:
    port = postfix.smtps_port if encryption == "implicit" else postfix.submission_port
    relay = relay_to(port, postfix.ca_file, encryption=encryption, user=account.name, password=account.password)
    try:
        yield relay
    finally:
        await relay.aclose()


UGLY = (
    b"From: scanner@example.test\r\nX-Raw: \xff\xfe 8-bit\r\nSubject: a scan\r\n\r\n"
    b".\r\n..\r\n.starts with a dot\r\n\r\n" + b"l" * 5000 + b"\r\n\x80\x01 not text\r\n\t trailing space \r\n.\r\n"
)


@pytest.mark.parametrize("encryption", ENCRYPTIONS)
async def test_messages_arrive_octet_for_octet(
    encryption: Encryption, postfix: Postfix, dovecot: Dovecot, account: Account
) -> None:
    async with relaying(postfix, account, encryption) as relay:
        for _ in range(2):
            receipt = await deliver(
                relay, account.address, content=UGLY, parameters={"BODY": "8BITMIME", "SIZE": "5200"}
            )
            assert receipt.detail.startswith("250 2.0.0")
        arrived = await asyncio.to_thread(dovecot.wait_for_messages, account.name, 2)
    assert [message[message.index(b"From: ") :] for message in arrived] == [UGLY] * 2


@pytest.mark.parametrize("encryption", ENCRYPTIONS)
async def test_each_recipient_gets_its_verdict(
    encryption: Encryption, postfix: Postfix, dovecot: Dovecot, account: Account
) -> None:
    async with relaying(postfix, account, encryption) as relay:
        with pytest.raises(Refused) as refused:
            await deliver(relay, UNKNOWN_RECIPIENT)
        assert (refused.value.code, refused.value.enhanced) == (550, "5.1.1")
        with pytest.raises(Refused) as refused:
            await deliver(relay, LATER_RECIPIENT)
        assert (refused.value.code, refused.value.enhanced) == (450, "4.2.1")
        with pytest.raises(Refused) as refused:
            await deliver(relay, account.address, reverse_path=REFUSED_SENDER)
        assert (refused.value.code, refused.value.enhanced) == (550, "5.7.1")
        await deliver(relay, UNKNOWN_RECIPIENT, account.address, LATER_RECIPIENT)
        assert len(await asyncio.to_thread(dovecot.wait_for_messages, account.name, 1)) == 1


async def test_a_message_is_refused_after_its_end(postfix: Postfix, account: Account) -> None:
    async with relaying(postfix, account) as relay:
        with pytest.raises(Refused) as refused:
            await deliver(relay, account.address, content=f"{REFUSED_FIELD}: not this\r\n\r\nx\r\n".encode())
        assert (refused.value.code, refused.value.enhanced, refused.value.text) == (550, "5.7.1", "not this")
        await deliver(relay, account.address)


async def test_a_message_that_is_too_big(certificates: Certificates, dovecot: Dovecot, account: Account) -> None:
    with Postfix.start(certificates.good, dovecot, message_size_limit=100_000) as postfix:
        async with relaying(postfix, account) as relay:
            with pytest.raises(Refused) as refused:
                await deliver(relay, account.address, parameters={"SIZE": "100001"})
            assert (refused.value.code, refused.value.enhanced) == (552, "5.3.4")
            assert relay.capabilities().max_octets == 100_000
            with pytest.raises(Refused) as refused:
                await deliver(
                    relay, account.address, content=b"Subject: big\r\n\r\n" + b"0123456789abcdef\r\n" * 50_000
                )
            assert refused.value.code == 552
            await deliver(relay, account.address)


async def test_a_wrong_password(postfix: Postfix, account: Account) -> None:
    async with relaying(postfix, Account(account.name, "wrong")) as relay:
        with pytest.raises(CredentialsRefused, match=r"535 5\.7\.8"):
            await deliver(relay, account.address)


@pytest.mark.parametrize("encryption", ENCRYPTIONS)
@pytest.mark.parametrize("which", ["expired", "wrong_host", "other_ca"])
async def test_a_bad_certificate(
    which: str, encryption: Encryption, certificates: Certificates, dovecot: Dovecot, account: Account
) -> None:
    with Postfix.start(getattr(certificates, which), dovecot) as postfix:
        async with relaying(postfix, account, encryption) as relay:
            with pytest.raises(Unverified):
                await deliver(relay, account.address)
        assert "sasl_username" not in postfix.log


async def test_probe(postfix: Postfix, account: Account) -> None:
    async with relaying(postfix, account) as relay:
        findings = await relay.probe()
        assert {finding.level for finding in findings} == {Level.GOOD}
        assert findings[1].text == f"logged in as {account.name} (PLAIN)"
