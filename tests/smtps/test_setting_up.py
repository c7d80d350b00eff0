"""From the TCP connection to the end of the login: nothing is sent before TLS is verified, no failure is a verdict."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from fakes.server import Step
from fakes.smtp import Action, Drip, Drop, Encryption, Hang, Raw, Reset
from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    Overloaded,
    Unreachable,
    Unusable,
    Unverified,
)
from legacy_email_proxy_plugins.smtps import Timeouts
from realservers.certificates import Certificates
from realservers.processes import free_ports
from smtps.support import PASSWORD, SHORT, USER, deliver, logged, relay_to, relaying
from waiting import until

IMPATIENT = Timeouts(connect=5, tls=SHORT, greeting=SHORT, hello=SHORT, auth=SHORT)
PLAIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
BIG = Raw((b"220-" + b"x" * 76 + b"\r\n") * 131072)


@pytest.mark.fault("B1")
async def test_nobody_listens(certificates: Certificates) -> None:
    relay = relay_to(free_ports(1)[0], certificates.ca_file)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1: Connection refused") as failure:
        await deliver(relay)
    assert "BACKEND_SMTP_HOST" in failure.value.look_at
    await relay.aclose()


@pytest.mark.fault("B2")
async def test_the_name_does_not_resolve(certificates: Certificates) -> None:
    relay = relay_to(465, certificates.ca_file, BACKEND_SMTP_HOST="nowhere.invalid")
    with pytest.raises(Unreachable, match=r"nowhere\.invalid can not be resolved"):
        await deliver(relay)
    relay = relay_to(465, certificates.ca_file, BACKEND_SMTP_HOST="a" * 70 + ".invalid")
    with pytest.raises(Unreachable, match="can not be resolved"):
        await deliver(relay)


@pytest.mark.parametrize("greets", [False, True])
async def test_a_server_that_does_not_greet_is_named_long_before_the_end(
    greets: bool, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("legacy_email_proxy_plugins.smtps.connecting._SILENT_SECONDS", SHORT / 10 if not greets else 60)
    script: dict[Step, Action] = {} if greets else {"GREETING": Hang()}
    async with relaying(certificates.good, script) as (_, relay):
        sending = asyncio.create_task(deliver(relay))
        await until(lambda: sending.done() or logged(caplog.records, logging.WARNING))
        assert logged(caplog.records, logging.WARNING) == ([] if greets else ["backend does not greet"])
        assert sending.done() is greets
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.fault("B1", "B2")
async def test_every_address_of_the_name_is_tried(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    full = socket.create_server(("127.0.0.1", 0), backlog=0)  # its queue, once full, is a black hole
    with full, socket.create_connection(full.getsockname()), socket.socket() as waiting:
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())
        async with relaying(certificates.good, timeouts=replace(Timeouts(), connect=1.5)) as (server, relay):
            dead = ("127.0.0.1", free_ports(1)[0])
            resolving_to(monkeypatch, dead, full.getsockname(), ("127.0.0.1", server.port))
            await deliver(relay)
            assert len(server.messages) == 1


async def test_no_address_answers(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = relay_to(465, certificates.ca_file)
    first, second = free_ports(2)
    resolving_to(monkeypatch, ("127.0.0.1", first), ("127.0.0.2", second))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1, 127\.0\.0\.2: Connection refused"):
        await deliver(relay)


# fmt: off
SETTING_UP: list[tuple[Encryption, str, Action, type[Failure], str]] = [
    ("implicit", "TLS", Drop(), Disconnected, "in the TLS handshake"),
    ("implicit", "TLS", Reset(), Disconnected, "in the TLS handshake"),
    ("implicit", "TLS", Hang(), Unreachable, "in the TLS handshake"),
    ("implicit", "TLS", Raw(b"220 hello\r\n"), Unverified, "begins in the clear, with 220 hello;"),
    ("implicit", "TLS", Drop(b"421 Too many connections\r\n"), Overloaded, "greets with 421 Too many connections"),
    ("implicit", "TLS", Drop(b"554 5.7.1 no\r\n"), Unreachable, "greets with 554 5.7.1 no"),
    ("implicit", "TLS", Raw(b"\x15\x03\x01\x00\x02\x02\x28"), Unverified, "does not speak TLS with us"),
    ("none", "GREETING", "554 5.7.1 you are on a list", Unreachable, "you are on a list"),
    ("none", "GREETING", "521 no mail here", Unreachable, "no mail here"),
    ("none", "GREETING", "421 4.3.2 too many connections", Overloaded, "too many connections"),
    ("none", "GREETING", "450 4.3.2 later", Overloaded, "later"),
    ("none", "GREETING", Raw(b"HTTP/1.1 400 Bad Request\r\n"), Disconnected, "HTTP/1.1 400"),
    ("none", "GREETING", Raw(b"+OK POP3 ready\r\n"), Disconnected, "waiting for the greeting"),
    ("none", "GREETING", Hang(), Unreachable, "waiting for the greeting: no whole reply"),
    ("none", "GREETING", Hang(b"220-hello\r\n"), Unreachable, "waiting for the greeting: no whole reply"),
    ("none", "GREETING", Drip("220 as slow as this", SHORT / 10), Unreachable, "no whole reply"),
    ("none", "GREETING", Drop(), Disconnected, "waiting for the greeting: it closed"),
    ("none", "GREETING", BIG, Disconnected, "more than 65536 octets"),
    ("none", "GREETING", Raw(b"220 a\r\n220 b\r\n"), Disconnected, "waiting for the greeting: it sent, unasked: 220 b"),
    ("none", "EHLO", "502 5.5.1 what?", Unusable, "does not take EHLO"),
    ("none", "EHLO", "451 4.3.0 later", Overloaded, "EHLO"),
    ("none", "EHLO", "421 4.3.2 later", Overloaded, "EHLO"),
    ("none", "EHLO", "354 what?", Disconnected, "while sending EHLO"),
    ("none", "EHLO", Hang(), Disconnected, "while sending EHLO"),
    ("none", "EHLO", Drop(b"250-a\r\n"), Disconnected, "while sending EHLO"),
    ("starttls", "STARTTLS", "454 4.7.0 not now", Unverified, "refuses STARTTLS: 454 4.7.0 not now"),
    ("starttls", "STARTTLS", "501 5.5.4 what?", Unverified, "refuses STARTTLS"),
    ("starttls", "STARTTLS", "250 2.0.0 fine", Unverified, "refuses STARTTLS"),
    ("starttls", "STARTTLS", Drop(), Disconnected, "while sending STARTTLS"),
    ("starttls", "STARTTLS", Hang(), Disconnected, "while sending STARTTLS"),
    ("starttls", "STARTTLS", Raw(b"220 go\r\n250 AUTH PLAIN\r\n"), Unverified, "in the clear behind its answer"),
    ("starttls", "STARTTLS", Raw(b"220 go\r\n2"), Unverified, "in the clear behind its answer"),
    ("starttls", "STARTTLS", Drop(b"220 go\r\n"), Disconnected, "TLS handshake"),
]
# fmt: on


@pytest.mark.quirk("aiosmtplib-3")
@pytest.mark.fault("B3", "B5", "B6")
@pytest.mark.parametrize(("encryption", "step", "action", "kind", "detail"), SETTING_UP)
async def test_a_failure_before_the_login_is_no_verdict_and_sends_nothing(
    encryption: Encryption, step: str, action: Action, kind: type[Failure], detail: str, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {(step, 1): action}
    timeouts = IMPATIENT if isinstance(action, Hang | Drip) else Timeouts()
    async with relaying(certificates.good, script, encryption=encryption, timeouts=timeouts) as (server, relay):
        with pytest.raises(Failure) as failure:
            await deliver(relay)
        assert kind in (type(failure.value), type(failure.value).__base__)
        assert detail in failure.value.detail
        assert failure.value.about_us
        assert set(server.verbs) <= {"EHLO", "STARTTLS"}
        assert PLAIN.encode() not in server.octets


BAD_CERTIFICATES = [
    ("expired", "certificate has expired", ""),
    ("wrong_host", "IP address mismatch", "BACKEND_SMTP_HOST"),
    ("other_ca", "unable to get local issuer certificate", "BACKEND_SMTP_CA_FILE"),
    ("future", "certificate is not yet valid", ""),
    ("self_signed", "signed certificate", "BACKEND_SMTP_CA_FILE"),
    ("weak_key", "key too weak", "BACKEND_SMTP_CA_FILE"),
]


@pytest.mark.fault("B4")
@pytest.mark.parametrize(("which", "reason", "look_at"), BAD_CERTIFICATES)
@pytest.mark.parametrize("encryption", ["implicit", "starttls"])
async def test_a_bad_certificate_gets_nothing_from_us(
    encryption: Encryption, which: str, reason: str, look_at: str, certificates: Certificates
) -> None:
    async with relaying(getattr(certificates, which), encryption=encryption) as (server, relay):
        with pytest.raises(Unverified) as failure:
            await deliver(relay)
        assert reason in failure.value.detail
        assert failure.value.look_at == look_at
        await server.until(lambda server: server.connections[0].ended)
        assert server.connections[0].handshake_failed
        assert server.verbs == (["EHLO", "STARTTLS"] if encryption == "starttls" else [])


@pytest.mark.quirk("aiosmtplib-3")
async def test_starttls_that_is_not_offered_is_not_done_without(certificates: Certificates) -> None:
    async with relaying(certificates.good, encryption="starttls", server_encryption="none") as (server, relay):
        with pytest.raises(Unverified, match="does not offer STARTTLS"):
            await deliver(relay)
        assert server.verbs == ["EHLO"]


@pytest.mark.quirk("aiosmtplib-2")
async def test_what_was_offered_before_starttls_is_forgotten(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("EHLO", 1): "250-fake\n250-STARTTLS\n250-AUTH PLAIN\n250 SMTPUTF8"}
    async with relaying(certificates.good, script, encryption="starttls", keywords=()) as (server, relay):
        with pytest.raises(Unusable, match="offers no login at all"):
            await deliver(relay)
        assert server.verbs == ["EHLO", "STARTTLS", "EHLO"]


@pytest.mark.fault("B5")
async def test_tls_where_the_backend_speaks_in_the_clear(certificates: Certificates) -> None:
    async with relaying(certificates.good, server_encryption="starttls") as (server, relay):
        with pytest.raises(Unverified) as failure:
            await deliver(relay)
        assert "BACKEND_SMTP_USE_SSL" in failure.value.look_at
        assert b"EHLO" not in server.octets
        assert PLAIN.encode() not in server.octets


AUTH: list[tuple[Action, type[Failure]]] = [
    ("535 5.7.8 wrong", CredentialsRefused),
    ("534 5.7.9 an app password is needed", CredentialsRefused),
    ("530 5.7.0 no", CredentialsRefused),
    ("550 5.7.1 disabled", CredentialsRefused),
    ("432 4.7.12 change your password", CredentialsRefused),
    ("454 4.7.0 later", Overloaded),
    ("421 4.3.2 too many logins", Overloaded),
    ("504 5.5.4 not that one", Unusable),
    ("500 5.5.2 what?", Unusable),
    ("250 2.0.0 strange", Disconnected),
    ("334 ", Disconnected),
    (Drop(), Disconnected),
    (Hang(), Disconnected),
    (Raw(b"what?\r\n"), Disconnected),
]


@pytest.mark.fault("B8")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize(("action", "kind"), AUTH)
async def test_one_login_is_tried_and_another_way_only_where_it_was_not_understood(
    action: Action, kind: type[Failure], mechanism: str, certificates: Certificates
) -> None:
    keywords = ("AUTH LOGIN CRAM-MD5" + (" PLAIN" if mechanism == "PLAIN" else ""),)
    timeouts = IMPATIENT if isinstance(action, Hang) else Timeouts()
    async with relaying(certificates.good, {"AUTH": action}, keywords=keywords, timeouts=timeouts) as (server, relay):
        with pytest.raises(Failure) as failure:
            await deliver(relay)
        assert type(failure.value) is kind
        not_understood = isinstance(action, str) and action[:3] in ("500", "504")
        ways = ["PLAIN", "LOGIN"] if mechanism == "PLAIN" and not_understood else [mechanism]
        assert [command.split()[1] for command in server.connections[0].commands if "AUTH" in command] == ways
        assert len(server.connections) == 1
        assert "MAIL" not in server.verbs


@pytest.mark.parametrize("answer", ["504 5.5.4 not that one", "500 5.5.2 what?", "501 5.5.4 not offered, after all"])
async def test_what_does_not_know_plain_gets_login(certificates: Certificates, answer: str) -> None:
    async with relaying(certificates.good, {("AUTH", 1): answer}) as (server, relay):
        await deliver(relay)
        assert [command for command in server.connections[0].commands if "AUTH" in command][1] == "AUTH LOGIN"
        assert (server.connections[0].user, server.connections[0].password) == (USER, PASSWORD)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1"])
async def test_scram_where_nothing_else_is_offered(
    certificates: Certificates, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with relaying(certificates.good, keywords=(f"AUTH CRAM-MD5 {mechanism} {mechanism}-PLUS",)) as (
        server,
        relay,
    ):
        await deliver(relay)
        assert len(server.messages) == 1
        assert (await relay.probe())[1].text == f"logged in as alice ({mechanism})"
        assert PASSWORD.encode() not in server.octets
        (proof,) = set(re.findall(r"p=([\w+/=]{20,})", base64_lines(server.octets))[:1])
    assert PASSWORD not in caplog.text
    assert proof not in caplog.text


def base64_lines(octets: bytes) -> str:
    lines = []
    for line in octets.split(b"\r\n"):
        with suppress(ValueError):
            lines.append(base64.b64decode(line, validate=True).decode("latin-1"))
    return "\n".join(lines)


async def test_a_wrong_password_by_scram(certificates: Certificates) -> None:
    async with relaying(certificates.good, keywords=("AUTH SCRAM-SHA-256",), password="another one") as (server, relay):
        with pytest.raises(CredentialsRefused, match=r"535 5\.7\.8 wrong"):
            await deliver(relay)
        assert server.verbs.count("AUTH") == 1


async def test_a_password_that_scram_can_not_take(certificates: Certificates) -> None:
    async with relaying(certificates.good, keywords=("AUTH SCRAM-SHA-256",), password="bell\x07") as (server, relay):
        with pytest.raises(CredentialsRefused, match="can't be used with SCRAM-SHA-256") as refused:
            await deliver(relay)
        assert "BACKEND_SMTP_PASS" in refused.value.look_at
        assert "AUTH" not in server.verbs


FOREIGN_NONCE = base64.b64encode(b"r=x,s=QUJDREVGR0hJSktMTU5P,i=4096").decode()
SCRAM_SPOILT: list[tuple[dict[Step, Action], str, type[Failure], str]] = [
    ({("AUTH", 1): "334 go ahead"}, "", Disconnected, "broke the protocol of SCRAM-SHA-256"),
    (
        {("AUTH", 1): "334 " + base64.b64encode(b"r=x,s=QUJDREVGR0hJSktMTU5P,i=4096").decode()},
        "",
        Disconnected,
        "nonce",
    ),
    ({}, "v=" + base64.b64encode(b"x" * 32).decode(), Disconnected, "broke the protocol of SCRAM-SHA-256"),
    ({("AUTH", 2): "235 2.7.0 welcome"}, "", Disconnected, "does not show that it knows the password"),
    ({("AUTH", 3): "535 5.7.8 no"}, "e=other-error", CredentialsRefused, r"535 5.7.8 no (e=other-error)"),
    ({("AUTH", 3): "334 "}, "", Disconnected, "no end of a login"),
]


@pytest.mark.parametrize(("script", "final", "kind", "words"), SCRAM_SPOILT)
async def test_who_does_not_know_the_password_does_not_let_us_in(
    certificates: Certificates, script: dict[Step, Action], final: str, kind: type[Failure], words: str
) -> None:
    async with relaying(certificates.good, script, keywords=("AUTH SCRAM-SHA-256",)) as (server, relay):
        server.server_final = final
        with pytest.raises(Failure) as failure:
            await deliver(relay)
        assert type(failure.value) is kind
        assert words in failure.value.detail
        assert "MAIL" not in server.verbs


async def test_more_iterations_than_any_login_needs(certificates: Certificates) -> None:
    def first(_: object, line: str) -> str:
        nonce = base64.b64decode(line.split()[2]).decode().rpartition("r=")[2]
        return "334 " + base64.b64encode(f"r={nonce}x,s=QUJDREVGR0hJSktMTU5P,i=9999999".encode()).decode()

    script: dict[Step, Action] = {("AUTH", 1): first}
    async with relaying(certificates.good, script, keywords=("AUTH SCRAM-SHA-256",)) as (_, relay):
        with pytest.raises(Disconnected, match="9999999 iterations"):
            await deliver(relay)


@pytest.mark.parametrize(
    ("encryption", "offered", "look_at"),
    [
        ("implicit", "AUTH CRAM-MD5", "BACKEND_SMTP_PORT"),
        ("implicit", "AUTH XOAUTH2", "BACKEND_SMTP_CREDENTIALS"),
        ("none", "AUTH CRAM-MD5", "BACKEND_SMTP_USE_SSL, BACKEND_SMTP_USE_TLS"),
    ],
)
async def test_where_to_look_when_no_mechanism_fits(
    certificates: Certificates, encryption: Encryption, offered: str, look_at: str
) -> None:
    async with relaying(certificates.good, encryption=encryption, keywords=(offered,)) as (_, relay):
        with pytest.raises(Unusable) as failure:
            await deliver(relay)
        assert failure.value.look_at == look_at
        assert "SCRAM-SHA-256" in failure.value.detail


@pytest.mark.fault("B7")
async def test_no_mechanism_in_common(certificates: Certificates) -> None:
    async with relaying(certificates.good, keywords=("AUTH XOAUTH2 CRAM-MD5",)) as (server, relay):
        with pytest.raises(Unusable, match="offers CRAM-MD5 XOAUTH2"):
            await deliver(relay)
        assert "AUTH" not in server.verbs


@pytest.mark.fault("B8")
async def test_a_refused_password_is_not_tried_again_and_told_once(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with relaying(certificates.good, password="an old one") as (server, relay):
        # At once: before the first login has succeeded, they go one by one.
        failures = await asyncio.gather(*(deliver(relay) for _ in range(5)), return_exceptions=True)
        connections = len(server.connections)
        failures += [await asyncio.gather(deliver(relay), return_exceptions=True)][0]
        assert len(server.connections) == connections, "who may not log in need not connect"
        assert [type(failure) for failure in failures] == [CredentialsRefused] * 6
        assert server.verbs.count("AUTH") == 1
        assert "535 5.7.8 wrong; not tried again for" in str(failures[-1])
        assert "BACKEND_SMTP_PASS" in str(failures[-1])
    warnings = logged(caplog.records, logging.WARNING)
    assert len(warnings) == 1
    assert "the same password or token is not tried again for 60 s" in warnings[0]


ECHOES: list[Action] = [
    f"500 5.5.2 unknown command: AUTH PLAIN {PLAIN}",
    f"535 5.7.8 {USER}, {PASSWORD} is wrong",
    f"535 5.7.8 {PASSWORD.upper()}",
    f"501 5.5.2 cut off: {PLAIN[:20]}",
    f"334 {PLAIN}",
    f"235 2.7.0 welcome\n{PASSWORD}",
    f"334 x\n250 {PLAIN}",
    Raw(f"what is {PASSWORD}?\r\n".encode()),
    Raw(b"x" * 70 + f"{PASSWORD}\r\n".encode()),
    Raw(f"AUTH PLAIN {PLAIN}\r\n".encode()),
    Raw(f"535 no\r\n500 what is {PASSWORD}?\r\n".encode()),
    Raw(f"235 yes\r\n500 {PLAIN} {base64.b64encode(PASSWORD.encode()).decode()}?\r\n".encode()),
    Raw(f"235 yes\r\n{PASSWORD}".encode()),
    Drop(f"535 {PASSWORD}".encode()),
    Drop(f"535-no\r\n535-{PLAIN}\r\n".encode()),
    f"454 {base64.b64encode(PASSWORD.encode()).decode()}",
]


@pytest.mark.quirk("aiosmtplib-8")
@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("keywords", [("AUTH PLAIN",), ("AUTH LOGIN",)], ids=["PLAIN", "LOGIN"])
async def test_no_secret_is_ever_shown(
    echo: Action, keywords: tuple[str, ...], certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with relaying(certificates.good, {("AUTH", 1): echo}, keywords=keywords) as (_, relay):
        failures = [await asyncio.gather(deliver(relay), return_exceptions=True) for _ in range(2)]
        seen = f"{caplog.text} {failures!r} {failures!s}".lower()
        assert "auth" in seen
        for secret in (PASSWORD, PLAIN[:20], base64.b64encode(PASSWORD.encode()).decode()):
            assert secret.lower() not in seen
        # Nor a part of it, in whatever charset the log shows the rest.
        assert "ss w0rd" not in seen


@pytest.mark.quirk("aiosmtplib-8")
@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
async def test_no_secret_is_shown_when_it_comes_back_later(
    step: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    script: dict[Step, Action] = {(step, 1): Raw(f"what is {PASSWORD}?\r\n".encode())}
    async with relaying(certificates.good, script) as (_, relay):
        with pytest.raises(Disconnected, match=r"what is \*\*\*\?") as failure:
            await deliver(relay)
        assert "w0rd" not in f"{caplog.text} {failure.value}"


@pytest.mark.parametrize(
    ("step", "code"),
    [("MAIL", 550), ("MAIL", 299), ("RCPT", 450), ("RCPT", 421), ("DATA", 554), ("DATA", 250), (".", 554), (".", 250)],
)
@pytest.mark.parametrize("secret", [PASSWORD, PLAIN])
async def test_no_secret_is_shown_when_it_comes_back_in_a_verdict(
    step: str, code: int, secret: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with relaying(certificates.good, {(step, 1): f"{code} what is {secret}?"}) as (_, relay):
        (end,) = await asyncio.gather(deliver(relay), return_exceptions=True)
        seen = f"{caplog.text} {end!r} {end!s} {getattr(end, 'detail', '')} {getattr(end, 'text', '')}"
        assert "what is ***?" in seen
        assert "w0rd" not in seen
        assert PLAIN not in seen


@pytest.mark.quirk("aiosmtplib-2")
async def test_starttls_injection_is_told_as_such(certificates: Certificates) -> None:
    script: dict[Step, Action] = {"STARTTLS": Raw(b"220 go\r\n250 AUTH PLAIN\r\n")}
    async with relaying(certificates.good, script, encryption="starttls") as (server, relay):
        with pytest.raises(Unverified, match="somebody on the way may have put them there"):
            await deliver(relay)
        assert server.verbs == ["EHLO", "STARTTLS"]
