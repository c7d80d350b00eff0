"""The relay against a real Postfix, which delivers into a real Dovecot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from fakes.smtp import Encryption
from legacy_email_proxy.contracts import CredentialsRefused, Level, Recipient, Refused, Unverified
from legacy_email_proxy_plugins.smtps import SMTPSRelay
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import LATER_RECIPIENT, REFUSED_FIELD, REFUSED_SENDER, UNKNOWN_RECIPIENT, Postfix
from smtps.support import CLIENT, CONTENT, PLAIN, SENDER, TOGETHER, deliver, pieces, relay_to

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


TRACE = re.compile(rb"\A(?:(?:Return-Path|Delivered-To|Received): .*\r\n(?:[ \t].*\r\n)*)*")
LONG = b"Subject: long\r\n\r\n" + b".0123456789\x80\r\n..\r\n.\r\n" * 30_000


@pytest.fixture(scope="module")
def without_chunking(certificates: Certificates, dovecot: Dovecot) -> Iterator[Postfix]:
    settings = {"smtpd_discard_ehlo_keywords": "chunking"}
    with Postfix.start(certificates.good, dovecot, settings=settings) as postfix:
        yield postfix


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("way", ["DATA", "BDAT"])
async def test_octet_for_octet_by_both_ways(
    way: str, together: bool, postfix: Postfix, without_chunking: Postfix, dovecot: Dovecot, account: Account,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Long ones too, in several blocks, whose borders fall anywhere."""
    cuts = [UGLY, b"".join([UGLY, LONG]), LONG]
    async with relaying(without_chunking if way == "DATA" else postfix, account) as relay:
        for content in cuts:
            sliced = (content[start : start + 54321] for start in range(0, len(content), 54321))
            await deliver(relay, account.address, content=pieces(*sliced), dialogue=TOGETHER if together else PLAIN)
        arrived = await asyncio.to_thread(dovecot.wait_for_messages, account.name, len(cuts))
    assert sorted(TRACE.sub(b"", message) for message in arrived) == sorted(cuts)
    said = [record.getMessage() for record in caplog.records]
    assert ("C: DATA" in said) == (way == "DATA")
    assert said.count("C: RSET") == 0


@pytest.mark.fault("B10")
@pytest.mark.parametrize("way", ["DATA", "BDAT"])
async def test_a_group_of_recipients(
    way: str, postfix: Postfix, without_chunking: Postfix, dovecot: Dovecot, account: Account
) -> None:
    def group(*paths: str) -> list[Recipient]:
        return [Recipient(path) for path in paths]

    def codes(verdicts: Sequence[Refused | None]) -> list[int | None]:
        return [each.code if each else None for each in verdicts]

    async with relaying(without_chunking if way == "DATA" else postfix, account) as relay:
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            verdicts = await transaction.add_recipients(
                group(UNKNOWN_RECIPIENT, account.address, LATER_RECIPIENT, UNKNOWN_RECIPIENT), content_follows=True
            )
            assert codes(verdicts) == [550, None, 450, 550]
            await transaction.send(pieces(CONTENT))
        # All refused, and then one that is not; the sender refused; and the connection serves on.
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            verdicts = await transaction.add_recipients(group(UNKNOWN_RECIPIENT, LATER_RECIPIENT), content_follows=True)
            assert codes(verdicts) == [550, 450]
            assert codes(await transaction.add_recipients(group(account.address), content_follows=True)) == [None]
            await transaction.send(pieces(CONTENT))
        async with relay.transaction(CLIENT, REFUSED_SENDER, {}) as transaction:
            verdicts = await transaction.add_recipients(group(account.address, account.address), content_follows=True)
            assert codes(verdicts) == [550, 550]
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipients(group(account.address), content_follows=True)
        await deliver(relay, account.address, dialogue=TOGETHER)
        assert len(await asyncio.to_thread(dovecot.wait_for_messages, account.name, 3)) == 3


async def test_content_that_breaks_off_between_chunks(postfix: Postfix, dovecot: Dovecot, account: Account) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield LONG
        raise LookupError

    async with relaying(postfix, account) as relay:
        with pytest.raises(LookupError):
            await deliver(relay, account.address, content=broken())
        await deliver(relay, account.address)
        (message,) = await asyncio.to_thread(dovecot.wait_for_messages, account.name, 1)
        assert b"long" not in message


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


@pytest.mark.fault("B4")
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


@pytest.mark.parametrize("encryption", ENCRYPTIONS)
async def test_one_that_takes_two_connections(
    encryption: Encryption, certificates: Certificates, dovecot: Dovecot, account: Account
) -> None:
    settings = {"smtpd_client_connection_count_limit": "2", "smtpd_client_event_limit_exceptions": ""}
    with Postfix.start(certificates.good, dovecot, settings=settings) as postfix:
        async with relaying(postfix, account, encryption) as relay:
            clients = [replace(CLIENT, address=f"10.0.0.{number}") for number in range(18)]
            await asyncio.gather(*(deliver(relay, account.address, client=client) for client in clients))
        assert len(await asyncio.to_thread(dovecot.wait_for_messages, account.name, 18)) == 18
        assert postfix.logged("too many connections|Connection concurrency limit exceeded")


async def test_a_mistyped_address_is_refused_for_good(
    certificates: Certificates, dovecot: Dovecot, account: Account
) -> None:
    settings = {"smtpd_sender_restrictions": "reject_non_fqdn_sender"}
    with Postfix.start(certificates.good, dovecot, settings=settings) as postfix:
        async with relaying(postfix, account) as relay:
            for path, sender, code, enhanced in (
                ("user@example..test", SENDER, 501, "5.1.3"),
                (account.address, "scanner", 504, "5.5.2"),
            ):
                with pytest.raises(Refused) as refused:
                    await deliver(relay, path, reverse_path=sender)
                assert (refused.value.code, refused.value.enhanced) == (code, enhanced)
                assert refused.value.permanent
            await deliver(relay, account.address)


async def test_one_that_wants_a_name_in_ehlo(certificates: Certificates, dovecot: Dovecot, account: Account) -> None:
    settings = {"smtpd_helo_restrictions": "reject_non_fqdn_helo_hostname"}
    with Postfix.start(certificates.good, dovecot, settings=settings) as postfix:
        for name, fits in (("scanner", False), ("scanner.firm.example", True), (None, True)):
            relay = relay_to(
                postfix.smtps_port,
                postfix.ca_file,
                user=account.name,
                password=account.password,
                BACKEND_SMTP_EHLO_NAME=name,
            )
            if fits:
                await deliver(relay, account.address)
            else:
                # It says so of the recipient, and with 504: no verdict on either.
                with pytest.raises(Refused) as refused:
                    await deliver(relay, account.address)
                assert not refused.value.permanent
                assert "Helo command rejected" in refused.value.text
                assert "BACKEND_SMTP_EHLO_NAME" in refused.value.detail
            await relay.aclose()
