"""What goes well, in the dialogue's own lines."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest

from fakes.smtp import Encryption
from legacy_email_proxy.contracts import Parameters, Refused, RelayCapabilities
from realservers.certificates import Certificates
from smtps.support import CLIENT, CONTENT, LOGGER, PASSWORD, RECIPIENT, SENDER, USER, deliver, logged, pieces, relaying

HELLO = "EHLO [127.0.0.1]"
LOGIN = "AUTH PLAIN AGFsaWNlAHDDpHNzIHcwcmQgNCB0ZXN0cw=="
TRANSACTION = [f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}>", "DATA", "."]


@pytest.mark.parametrize(
    ("encryption", "commands"),
    [
        ("implicit", [HELLO, LOGIN, *TRANSACTION]),
        ("starttls", [HELLO, "STARTTLS", HELLO, LOGIN, *TRANSACTION]),
        ("none", [HELLO, LOGIN, *TRANSACTION]),
    ],
)
async def test_a_message_arrives_octet_for_octet(
    encryption: Encryption, commands: list[str], certificates: Certificates
) -> None:
    async with relaying(certificates.good, encryption=encryption) as (server, relay):
        receipt = await deliver(relay)
        assert receipt.detail == "250 2.0.0 queued"
        assert server.connections[0].commands == commands
        assert server.connections[0].tls is (encryption != "none")
        assert [(message.mail, message.rcpt, message.content) for message in server.messages] == [
            (TRANSACTION[0], (TRANSACTION[1],), CONTENT)
        ]
        assert (server.connections[0].user, server.connections[0].password) == (USER, PASSWORD)
    assert server.connections[0].verbs[-1] == "QUIT"


async def test_login_is_the_second_choice(certificates: Certificates) -> None:
    async with relaying(certificates.good, keywords=("AUTH=LOGIN", "AUTH CRAM-MD5 LOGIN")) as (server, relay):
        await deliver(relay)
        assert server.connections[0].commands[1] == "AUTH LOGIN"
        assert server.connections[0].password == PASSWORD


async def test_without_a_user_nobody_logs_in(certificates: Certificates) -> None:
    async with relaying(certificates.good, user=None) as (server, relay):
        await deliver(relay)
        assert server.connections[0].commands == [HELLO, *TRANSACTION]


@pytest.mark.fault("B7", "B24")
@pytest.mark.parametrize(
    ("keywords", "parameters", "mail"),
    [
        ((), {"SIZE": "123", "BODY": "8BITMIME"}, ""),
        (("SIZE",), {"SIZE": "123", "BODY": "8BITMIME"}, " SIZE=123"),
        (("SIZE 0", "8BITMIME"), {"SIZE": "123", "BODY": "8bitmime"}, " SIZE=123 BODY=8BITMIME"),
        (("SIZE", "8BITMIME"), {"BODY": "7BIT"}, ""),
        (("SIZE", "8BITMIME"), {"SIZE": None, "BODY": None}, ""),
        (("SIZE",), {"SIZE": "1 X=2"}, ""),
        (("SMTPUTF8",), {"SMTPUTF8": None}, " SMTPUTF8"),
        (("DSN", "AUTH"), {"RET": "FULL", "ENVID": "x+2B", "AUTH": "<>"}, " RET=FULL ENVID=x+2B"),
        (("DSN",), {"RET": "ALL", "ENVID": "x y"}, ""),
        (("DSN",), {"RET": "HDRS", "ENVID": "x=y", "NOTIFY": "NEVER"}, " RET=HDRS"),
        ((), {"RET": "FULL", "ENVID": "x"}, ""),
    ],
)
async def test_only_what_the_backend_offers_is_asked_of_it(
    keywords: tuple[str, ...], parameters: Parameters, mail: str, certificates: Certificates
) -> None:
    async with relaying(certificates.good, keywords=keywords, user=None) as (server, relay):
        await deliver(relay, parameters=parameters)
        assert server.messages[0].mail == f"MAIL FROM:<{SENDER}>{mail}"


@pytest.mark.parametrize(
    ("keywords", "parameters", "rcpt"),
    [
        ((), {"NOTIFY": "NEVER", "ORCPT": "rfc822;bob@x"}, ""),
        (("DSN",), {"NOTIFY": "NEVER", "ORCPT": "rfc822;bob@x"}, " NOTIFY=NEVER ORCPT=rfc822;bob@x"),
        (("DSN",), {"NOTIFY": "success,FAILURE,delay"}, " NOTIFY=success,FAILURE,delay"),
        (("DSN",), {"NOTIFY": "NEVER,SUCCESS", "ORCPT": "bob", "RET": "FULL", "X": "1"}, ""),
        (("DSN",), {"NOTIFY": "", "ORCPT": None}, ""),
        (("DSN",), {"ORCPT": "rfc822;a\r\nQUIT"}, ""),
    ],
)
async def test_what_a_sender_wants_to_be_notified_of(
    keywords: tuple[str, ...], parameters: Parameters, rcpt: str, certificates: Certificates
) -> None:
    async with relaying(certificates.good, keywords=keywords, user=None) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipient(RECIPIENT, parameters)
            await transaction.send(pieces(CONTENT))
        assert server.messages[0].rcpt == (f"RCPT TO:<{RECIPIENT}>{rcpt}",)
        assert relay.capabilities().dsn is bool(keywords)


async def test_internationalized_mail(certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        await deliver(relay, "b\u00f6b@example.test", reverse_path="\u00e4@example.test", parameters={"SMTPUTF8": None})
        assert server.messages[0].mail == "MAIL FROM:<\u00e4@example.test> SMTPUTF8"
        assert server.messages[0].rcpt == ("RCPT TO:<b\u00f6b@example.test>",)


@pytest.mark.fault("B24")
async def test_internationalized_mail_to_a_backend_that_does_not_take_it(certificates: Certificates) -> None:
    async with relaying(certificates.good, keywords=("AUTH PLAIN",)) as (server, relay):
        with pytest.raises(Refused) as refused:
            await deliver(relay, parameters={"SMTPUTF8": None})
        assert (refused.value.code, refused.value.enhanced) == (550, "5.6.7")
        assert "MAIL" not in server.verbs


async def test_the_null_reverse_path(certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        await deliver(relay, reverse_path="")
        assert server.messages[0].mail == "MAIL FROM:<>"


@pytest.mark.parametrize(
    ("keywords", "capabilities"),
    [
        (("SIZE 1000000", "8BITMIME"), RelayCapabilities(1000000)),
        (("smtputf8", "DSN"), RelayCapabilities(None, smtputf8=True, dsn=True)),
        (("SIZE 5", "DSN"), RelayCapabilities(5, dsn=True)),
        (("SIZE 0",), RelayCapabilities(None)),
        (("SIZE", "8bitmime"), RelayCapabilities(None)),
        (("SIZE many",), RelayCapabilities(None)),
        (("SIZE " + "9" * 5000,), RelayCapabilities(None)),
    ],
)
async def test_capabilities_are_those_of_the_last_ehlo_and_before_it_all(
    keywords: tuple[str, ...], capabilities: RelayCapabilities, certificates: Certificates
) -> None:
    async with relaying(certificates.good, keywords=keywords, user=None) as (_, relay):
        assert relay.capabilities() == RelayCapabilities(smtputf8=True, dsn=True)
        await deliver(relay)
        assert relay.capabilities() == capabilities


@pytest.mark.parametrize(
    ("given", "arrives"),
    [
        ((b"",), b""),
        ((b"no line end",), b"no line end\r\n"),
        ((b"a\r\n", b"", b".\r\n", b".", b".\r", b"\n.b"), b"a\r\n.\r\n..\r\n.b\r\n"),
        # What the core never lets through, and would be a second message for some servers.
        ((b"a\n.\nb\r.\r", b"\r\n.\n", b"\n\r"), b"a\r\n.\r\nb\r\n.\r\n\r\n.\r\n\r\n\r\n"),
    ],
)
async def test_line_ends_and_dots(given: tuple[bytes, ...], arrives: bytes, certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        await deliver(relay, content=pieces(*given))
        await deliver(relay)
        assert [message.content for message in server.messages] == [arrives, CONTENT]


async def test_a_password_in_the_clear_is_warned_of(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with relaying(certificates.good, encryption="none") as (_, relay):
        await deliver(relay)
        await deliver(relay)
    warnings = logged(caplog.records, logging.WARNING)
    assert len(warnings) == 1
    assert "in the clear" in warnings[0]


async def test_nothing_is_warned_of_without_a_password_or_with_tls(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with relaying(certificates.good, encryption="none", user=None) as (_, relay):
        await deliver(relay)
    async with relaying(certificates.good, encryption="starttls") as (_, relay):
        await deliver(relay)
    assert not logged(caplog.records, logging.WARNING)
    assert caplog.get_records("call")[0].name.startswith(LOGGER)


async def test_a_message_that_is_over_is_not_left_to_the_garbage_collector(certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        gc.disable()
        try:
            async with relay.transaction(CLIENT, SENDER, {}) as transaction:
                await transaction.add_recipient(RECIPIENT, {})
                await transaction.send(pieces(CONTENT))
            over = weakref.ref(transaction)
            del transaction
            assert over() is None
        finally:
            gc.enable()
        assert [message.content for message in server.messages] == [CONTENT]
