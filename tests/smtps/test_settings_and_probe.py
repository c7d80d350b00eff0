"""What an operator reads: every mistake at the start, and what `check` says of the backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.smtp import Action, Drop, Encryption, Hang
from legacy_email_proxy.contracts import Level, Secret, SettingsMistake
from legacy_email_proxy_plugins.smtps import SMTPSRelay, Timeouts
from realservers.certificates import Certificates
from smtps.support import PASSWORD, SHORT, context, relaying

MISTAKES = [
    ({"BACKEND_SMTP_HOST": None}, ["BACKEND_SMTP_HOST"]),
    ({"BACKEND_SMTP_USER": "a"}, ["BACKEND_SMTP_PASS"]),
    ({"BACKEND_SMTP_PASS": Secret("hush")}, ["BACKEND_SMTP_USER"]),
    ({"BACKEND_SMTP_CA_FILE": Path("/nowhere/ca.pem")}, ["BACKEND_SMTP_CA_FILE"]),
    ({"BACKEND_SMTP_EHLO_NAME": "a proxy"}, ["BACKEND_SMTP_EHLO_NAME"]),
    ({"BACKEND_SMTP_EHLO_NAME": "proxy\r\nRSET"}, ["BACKEND_SMTP_EHLO_NAME"]),
    ({"BACKEND_SMTP_EHLO_NAME": "b\u00fcro.example"}, ["BACKEND_SMTP_EHLO_NAME"]),
    (
        {"BACKEND_SMTP_HOST": None, "BACKEND_SMTP_USER": "a", "BACKEND_SMTP_CA_FILE": Path("/nowhere/ca.pem")},
        ["BACKEND_SMTP_HOST", "BACKEND_SMTP_PASS", "BACKEND_SMTP_CA_FILE"],
    ),
]


@pytest.mark.parametrize(("given", "names"), MISTAKES)
async def test_all_mistakes_are_told_at_once(given: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(SettingsMistake) as mistake:
        SMTPSRelay(context(**given))
    assert [line.split(":")[0].split(",")[0] for line in mistake.value.lines] == names
    assert "hush" not in str(mistake.value)


async def test_without_tls_no_ca_file_is_read() -> None:
    relay = SMTPSRelay(context(BACKEND_SMTP_USE_SSL=False, BACKEND_SMTP_CA_FILE=Path("/nowhere/ca.pem")))
    await relay.aclose()


@pytest.mark.parametrize(
    ("encryption", "reached"),
    [
        ("implicit", (Level.GOOD, "implicit TLS, TLSv1.3, certificate verified")),
        ("starttls", (Level.GOOD, "STARTTLS, TLSv1.3, certificate verified")),
        ("none", (Level.WARNING, "without TLS")),
    ],
)
async def test_a_backend_in_order(
    encryption: Encryption, reached: tuple[Level, str], certificates: Certificates
) -> None:
    keywords = ("SIZE 1000", "8BITMIME", "PIPELINING", "AUTH PLAIN")
    async with relaying(certificates.good, encryption=encryption, keywords=keywords) as (server, relay):
        findings = await relay.probe()
        assert [finding.level for finding in findings] == [reached[0], *[Level.GOOD] * 4]
        assert reached[1] in findings[0].text
        assert [finding.text for finding in findings[1:]] == [
            "logged in as alice (PLAIN)",
            "takes messages of up to 1000 octets (SIZE)",
            "offers 8BITMIME, PIPELINING",
            "does not offer SMTPUTF8, CHUNKING; the proxy does without",
        ]
        assert "MAIL" not in server.verbs
        assert server.verbs[-1] == "QUIT"
        assert relay.capabilities().max_octets == 1000


async def test_a_backend_that_offers_nothing(certificates: Certificates) -> None:
    async with relaying(certificates.good, user=None, keywords=()) as (_, relay):
        findings = await relay.probe()
        assert [finding.level for finding in findings] == [Level.GOOD] * 3 + [Level.WARNING, Level.GOOD]
        assert findings[1].text == "no login, as BACKEND_SMTP_USER is not set"


@pytest.mark.parametrize(
    ("step", "action", "text"),
    [
        ("GREETING", "554 5.7.1 go away", "go away"),
        ("GREETING", Drop(), "closed"),
        ("GREETING", Hang(), "did not answer within 0.3 s"),
        ("EHLO", "500 what?", "EHLO"),
        ("AUTH", "535 5.7.8 wrong", "535 5.7.8 wrong"),
    ],
)
async def test_every_failure_is_a_finding_with_advice(
    step: str, action: Action, text: str, certificates: Certificates
) -> None:
    timeouts = replace(Timeouts(), probe=SHORT)
    async with relaying(certificates.good, {step: action}, timeouts=timeouts) as (_, relay):
        *rest, last = await relay.probe()
        assert last.level is Level.BAD
        assert text in last.text
        assert last.advice
        assert PASSWORD not in str([*rest, last])


async def test_another_kind_of_server_is_a_matter_of_name_and_port(certificates: Certificates) -> None:
    async with relaying(certificates.good, {"GREETING": b"* OK [CAPABILITY IMAP4rev1] ready\r\n"}) as (_, relay):
        (finding,) = await relay.probe()
        assert "BACKEND_SMTP_HOST, BACKEND_SMTP_PORT" in finding.text
        assert "is this the server to which mail programs send" in finding.advice


async def test_a_backend_that_does_not_say_goodbye_is_in_order(certificates: Certificates) -> None:
    timeouts = replace(Timeouts(), quit=SHORT)
    async with relaying(certificates.good, {"QUIT": Hang()}, timeouts=timeouts) as (_, relay):
        assert {finding.level for finding in await relay.probe()} == {Level.GOOD}


@pytest.mark.parametrize(
    ("which", "text", "advice"),
    [("expired", "certificate has expired", "clock"), ("weak_key", "key too weak", "has to make a new one")],
)
async def test_a_bad_certificate_is_a_finding(which: str, text: str, advice: str, certificates: Certificates) -> None:
    async with relaying(getattr(certificates, which)) as (_, relay):
        (finding,) = await relay.probe()
        assert finding.level is Level.BAD
        assert text in finding.text
        assert advice in finding.advice


@pytest.mark.parametrize(
    "reply", ["421-4.7.0 Try again later, closing connection. (EHLO)\n421 4.7.0 gsmtp", "501 no", Drop()]
)
async def test_where_the_name_in_ehlo_is_refused_its_setting_is_named(
    reply: Action, certificates: Certificates
) -> None:
    async with relaying(certificates.good, {"EHLO": reply}) as (server, relay):
        *_, last = await relay.probe()
        assert last.level is Level.BAD
        assert "BACKEND_SMTP_EHLO_NAME" in last.text
        assert "set BACKEND_SMTP_EHLO_NAME" in last.advice
        assert server.connections[0].commands == ["EHLO [127.0.0.1]"]


@pytest.mark.parametrize("name", ["proxy.firm.example", "scanner_1", "[192.0.2.1]", "[IPv6:2001:db8::1]"])
async def test_the_name_in_ehlo_can_be_set(name: str, certificates: Certificates) -> None:
    async with relaying(certificates.good, encryption="starttls", BACKEND_SMTP_EHLO_NAME=name) as (server, relay):
        assert {finding.level for finding in await relay.probe()} == {Level.GOOD}
        assert [each for each in server.connections[0].commands if "EHLO" in each] == [f"EHLO {name}"] * 2
