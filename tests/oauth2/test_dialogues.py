"""Both mechanisms on both legs, octet by octet: what is sent, and what a refused token is answered with."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest

from fakes.imap import FakeIMAPServer, Mailbox
from fakes.smtp import FakeSMTPServer
from imap import support as imap
from legacy_email_proxy.contracts import (
    Account,
    BearerToken,
    CredentialsRefused,
    Disconnected,
    Finding,
    Level,
    NoCredentials,
    Overloaded,
    Password,
    Unusable,
    Unverified,
)
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from legacy_email_proxy_plugins.sasl import Bearer
from legacy_email_proxy_plugins.smtps import SMTPSRelay
from realservers.certificates import Certificates
from smtps import support as smtps

LONG = "t" * 1500
ERROR = base64.b64encode(b'{"status":"401","schemes":"bearer","scope":"mail"}').decode()


class Stub:
    """Credentials that hand out these tokens, the next one after each refusal."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.asked: list[Account] = []

    async def secret(self, account: Account) -> BearerToken:
        self.asked.append(account)
        return BearerToken(self.tokens[0])

    async def refused(self, account: Account, secret: Password | BearerToken) -> bool:
        assert secret.reveal() == self.tokens[0]
        if len(self.tokens) > 1:
            del self.tokens[0]
            return True
        return False

    async def probe(self) -> Sequence[Finding]:
        return ()

    async def aclose(self) -> None:
        pass


def encoded(mechanism: str, token: str, server: Any, user: str) -> str:
    response = Bearer(mechanism, user, BearerToken(token), "127.0.0.1", server.port).answer(b"")
    return base64.b64encode(response or b"").decode()


# SMTP.


def relay_of(server: FakeSMTPServer, certificates: Certificates, stub: Stub) -> SMTPSRelay:
    given = {
        "BACKEND_SMTP_PORT": server.port,
        "BACKEND_SMTP_USER": smtps.USER,
        "BACKEND_SMTP_CREDENTIALS": "stub",
        "BACKEND_SMTP_CA_FILE": certificates.ca_file,
    }
    return SMTPSRelay(PluginContext("relay.smtps", smtps.settings(**given), shared={"stub": stub}))


SMTP_GOOD: list[tuple[str, str]] = [("XOAUTH2", "a"), ("OAUTHBEARER", "a"), ("XOAUTH2", LONG), ("OAUTHBEARER", LONG)]


@pytest.mark.parametrize(("mechanism", "token"), SMTP_GOOD)
async def test_smtp(certificates: Certificates, mechanism: str, token: str) -> None:
    tls = smtps.server_tls(certificates.good)
    script = {("AUTH", 1): "334 ", ("AUTH", 2): "235 in"} if token == LONG else {"AUTH": "235 in"}
    keywords = [f"AUTH PLAIN {mechanism}"]
    async with FakeSMTPServer(tls=tls, script=script, keywords=keywords) as server:  # type: ignore[arg-type]
        relay = relay_of(server, certificates, Stub(token))
        await smtps.deliver(relay)
        await relay.aclose()
        response = encoded(mechanism, token, server, smtps.USER)
        apart = "\r\n" if token == LONG else " "
        assert f"\r\nAUTH {mechanism}{apart}{response}\r\nMAIL".encode() in server.octets
        assert all(len(line) <= 510 for line in server.octets.split(b"\r\n") if line.startswith(b"AUTH"))


@pytest.mark.fault("B27")
@pytest.mark.parametrize(("mechanism", "acknowledged"), [("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")])
async def test_smtp_with_a_token_that_is_refused_once(
    certificates: Certificates, mechanism: str, acknowledged: str, caplog: pytest.LogCaptureFixture
) -> None:
    tls = smtps.server_tls(certificates.good)
    script: Any = {("AUTH", 1): f"334 {ERROR}", ("AUTH", 2): "535 5.7.8 no", ("AUTH", 3): "235 in"}
    async with FakeSMTPServer(tls=tls, script=script, keywords=[f"AUTH {mechanism}"]) as server:
        relay = relay_of(server, certificates, stub := Stub("old", "new"))
        await smtps.deliver(relay)
        await relay.aclose()
        old, new = (encoded(mechanism, token, server, smtps.USER) for token in ("old", "new"))
        assert f"AUTH {mechanism} {old}\r\n{acknowledged}\r\nAUTH {mechanism} {new}\r\nMAIL".encode() in server.octets
        assert len(server.connections) == 1
    assert "S: 334 status=401 schemes=bearer scope=mail" in caplog.text
    assert old not in caplog.text
    assert {account.leg for account in stub.asked} == {"smtp"}


@pytest.mark.fault("B27")
async def test_smtp_with_tokens_that_are_always_refused(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    tls = smtps.server_tls(certificates.good)
    said = json.dumps({"status": "400", "scope": "https://mail.google.com/", "error_description": "no very-old-token"})
    challenge = f"334 {base64.b64encode(said.encode()).decode()}"
    old, new = "535 5.7.8 no very-old-token", "535 5.7.8 no very-new-token, nor very-old-token"
    answers = iter([challenge, old, challenge, new])
    script: Any = {"AUTH": lambda *_: next(answers)}
    async with FakeSMTPServer(tls=tls, script=script, keywords=["AUTH XOAUTH2"]) as server:
        relay = relay_of(server, certificates, Stub("very-old-token", "very-new-token"))
        with pytest.raises(
            CredentialsRefused, match=r"535 5.7.8 .*status=400 scope=https://mail.google.com/"
        ) as raised:
            await smtps.deliver(relay)
        assert raised.value.look_at == "BACKEND_SMTP_USER, BACKEND_SMTP_CREDENTIALS"
        assert "-token" not in raised.value.detail
        with pytest.raises(CredentialsRefused, match=r"not tried again for \d+ s"):
            await smtps.deliver(relay)
        assert server.verbs.count("AUTH") == 2, "the second time nobody asked"
        assert len(server.connections) == 1, "nor connected"
        finding = (await relay.probe())[-1]
        assert "not good for mail" in finding.text
        await relay.aclose()
    assert "-token" not in caplog.text.replace("BACKEND", "")


SMTP_OTHER: list[tuple[list[str], str, type[Exception]]] = [
    (["AUTH PLAIN LOGIN"], "", Unusable),
    ([], "", Unusable),
    (["AUTH XOAUTH2"], "454 4.7.0 later", Overloaded),
    (["AUTH XOAUTH2"], "504 5.5.4 what?", Unusable),
    (["AUTH XOAUTH2"], "250 what?", Disconnected),
]


@pytest.mark.parametrize(("keywords", "answer", "kind"), SMTP_OTHER)
async def test_smtp_when_it_is_not_the_token(
    certificates: Certificates, keywords: list[str], answer: str, kind: type[Exception]
) -> None:
    tls = smtps.server_tls(certificates.good)
    async with FakeSMTPServer(tls=tls, script={"AUTH": answer}, keywords=keywords) as server:
        relay = relay_of(server, certificates, stub := Stub("old", "new"))
        with pytest.raises(kind):
            await smtps.deliver(relay)
        assert stub.tokens == ["old", "new"]
        assert b"old" not in server.octets
        await relay.aclose()


# IMAP.


def maildrop_of(server: FakeIMAPServer, certificates: Certificates, stub: Stub) -> IMAPMaildrop:
    given = {
        "BACKEND_IMAP_PORT": server.port,
        "BACKEND_IMAP_PASS": None,
        "BACKEND_IMAP_CREDENTIALS": "stub",
        "BACKEND_IMAP_CA_FILE": certificates.ca_file,
    }
    return IMAPMaildrop(PluginContext("maildrop.imap", imap.settings(**given), shared={"stub": stub}))


def fake_imap(certificates: Certificates, token: str, **given: Any) -> FakeIMAPServer:
    accounts = {(imap.USER, token): Mailbox.of(b"x")}
    return FakeIMAPServer(accounts, tls=imap.server_tls(certificates.good), **given)


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
async def test_imap(certificates: Certificates, mechanism: str) -> None:
    async with fake_imap(certificates, LONG, capabilities=("AUTH=PLAIN", f"AUTH={mechanism}")) as server:
        maildrop = maildrop_of(server, certificates, Stub(LONG))
        async with maildrop.open(imap.CLIENT, None) as session:
            assert len(session.entries) == 1
        await maildrop.aclose()
        response = encoded(mechanism, LONG, server, imap.USER)
        assert f" AUTHENTICATE {mechanism}\r\n{response}\r\n".encode() in server.octets


@pytest.mark.parametrize(("mechanism", "acknowledged"), [("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")])
async def test_imap_with_a_token_that_is_refused_once(
    certificates: Certificates, mechanism: str, acknowledged: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_imap(certificates, "new", capabilities=(f"AUTH={mechanism}",)) as server:
        maildrop = maildrop_of(server, certificates, stub := Stub("old", "new"))
        async with maildrop.open(imap.CLIENT, None) as session:
            assert len(session.entries) == 1
        await maildrop.aclose()
        old, new = (encoded(mechanism, token, server, imap.USER) for token in ("old", "new"))
        said = server.octets
        assert f"AUTHENTICATE {mechanism}\r\n{old}\r\n{acknowledged}\r\n".encode() in said
        assert f"AUTHENTICATE {mechanism}\r\n{new}\r\n".encode() in said
        assert len(server.connections) == 1
    assert old not in caplog.text
    assert {account.leg for account in stub.asked} == {"imap"}


async def test_imap_with_tokens_that_are_always_refused(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    capabilities = ("AUTH=XOAUTH2",)
    async with fake_imap(certificates, "none", capabilities=capabilities) as server:
        sent = encoded("XOAUTH2", "very-new-token", server, imap.USER)
        server.script["TOKEN"] = f"NO [AUTHENTICATIONFAILED] you sent {sent} or very-old-token"
        maildrop = maildrop_of(server, certificates, Stub("very-old-token", "very-new-token"))
        for words in (r"you sent \*\*\* or \*\*\* \(status=401 scope=mail\)", r"not tried again for \d+ s"):
            with pytest.raises(CredentialsRefused, match=words) as raised:
                async with maildrop.open(imap.CLIENT, None):
                    pass
            assert raised.value.look_at == "BACKEND_IMAP_USER, BACKEND_IMAP_CREDENTIALS"
        assert server.times("TOKEN") == 2
        await maildrop.aclose()
    assert "-token" not in caplog.text


async def test_imap_whose_challenge_repeats_the_token(certificates: Certificates) -> None:
    said = b'{"status":"400","error_description":"' + b"x" * 150 + b' what is very-old-token?"}'
    refusal = b"+ " + base64.b64encode(said) + b"\r\nTAG NO [AUTHENTICATIONFAILED] no\r\n"
    async with fake_imap(certificates, "none", capabilities=("AUTH=XOAUTH2",)) as server:
        server.script["AUTHENTICATE"] = refusal
        maildrop = maildrop_of(server, certificates, Stub("very-old-token"))
        with pytest.raises(CredentialsRefused, match=r"status=400 error_description=x+ what is \*\*\*\?"):
            async with maildrop.open(imap.CLIENT, None):
                pass
        await maildrop.aclose()


@pytest.mark.parametrize("capabilities", [("AUTH=PLAIN",), (), ("LOGINDISABLED",)])
async def test_imap_that_takes_no_token(certificates: Certificates, capabilities: tuple[str, ...]) -> None:
    async with fake_imap(certificates, "old", capabilities=capabilities) as server:
        maildrop = maildrop_of(server, certificates, Stub("old"))
        with pytest.raises(Unusable, match=r"takes no token: .* a token needs XOAUTH2 or OAUTHBEARER"):
            async with maildrop.open(imap.CLIENT, None):
                pass
        await maildrop.aclose()
        assert b"old" not in server.octets


async def test_imap_of_a_client_with_its_own_login(certificates: Certificates) -> None:
    async with fake_imap(certificates, "hers", capabilities=("AUTH=PLAIN", "AUTH=XOAUTH2")) as server:
        maildrop = imap.maildrop_for(
            server.port, certificates.ca_file, POP3_LOGIN="backend", BACKEND_IMAP_USER=None, BACKEND_IMAP_PASS=None
        )
        async with maildrop.open(imap.CLIENT, imap.login(imap.USER, "hers")) as session:
            assert len(session.entries) == 1
        await maildrop.aclose()
        assert b"AUTHENTICATE PLAIN" in server.octets


# Nothing to log in with.


class Empty(Stub):
    """Has nothing, until somebody has authorized."""

    async def secret(self, account: Account) -> BearerToken:
        if not self.tokens:
            raise NoCredentials("no consent -> run: authorize")
        return await super().secret(account)


async def test_who_has_nothing_to_log_in_with_does_not_pause_towards_the_backend(certificates: Certificates) -> None:
    stub = Empty()
    capabilities, keywords = ("AUTH=XOAUTH2",), ["AUTH XOAUTH2"]
    tls = smtps.server_tls(certificates.good)
    async with (
        fake_imap(certificates, "new", capabilities=capabilities) as imap_server,
        FakeSMTPServer(tls=tls, script={"AUTH": "235 in"}, keywords=keywords) as smtp_server,
    ):
        maildrop, relay = maildrop_of(imap_server, certificates, stub), relay_of(smtp_server, certificates, stub)
        for _ in range(2):
            with pytest.raises(NoCredentials, match="run: authorize"):
                async with maildrop.open(imap.CLIENT, None):
                    pass
            with pytest.raises(NoCredentials, match="run: authorize"):
                await smtps.deliver(relay)
        stub.tokens.append("new")
        async with maildrop.open(imap.CLIENT, None):
            pass
        await smtps.deliver(relay)
        await maildrop.aclose()
        await relay.aclose()


# Another token after a refusal.


async def test_a_new_consent_helps_at_once_and_what_was_refused_is_left_alone(certificates: Certificates) -> None:
    imap_stub, smtp_stub = Stub("first", "second"), Stub("first", "second")
    tls = smtps.server_tls(certificates.good)
    refused = "535 5.7.8 no"
    script: Any = {"AUTH": refused, ("AUTH", 3): "235 in"}
    async with (
        fake_imap(certificates, "consented", capabilities=("AUTH=XOAUTH2",)) as imap_server,
        FakeSMTPServer(tls=tls, script=script, keywords=["AUTH XOAUTH2"]) as smtp_server,
    ):
        maildrop, relay = (
            maildrop_of(imap_server, certificates, imap_stub),
            relay_of(smtp_server, certificates, smtp_stub),
        )
        for _ in range(3):
            with pytest.raises(CredentialsRefused):
                async with maildrop.open(imap.CLIENT, None):
                    pass
            with pytest.raises(CredentialsRefused):
                await smtps.deliver(relay)
        assert (imap_server.times("TOKEN"), smtp_server.verbs.count("AUTH")) == (2, 2)
        imap_stub.tokens[:] = smtp_stub.tokens[:] = ["consented"]
        async with maildrop.open(imap.CLIENT, None):
            pass
        await smtps.deliver(relay)
        assert (imap_server.times("TOKEN"), smtp_server.verbs.count("AUTH")) == (3, 3)
        await maildrop.aclose()
        await relay.aclose()


async def test_check_tries_a_renewed_token_as_the_service_does(certificates: Certificates) -> None:
    tls = smtps.server_tls(certificates.good)
    script: Any = {("AUTH", 1): "535 5.7.8 no", "AUTH": "235 in"}
    async with (
        fake_imap(certificates, "new", capabilities=("AUTH=XOAUTH2",)) as imap_server,
        FakeSMTPServer(tls=tls, script=script, keywords=["AUTH XOAUTH2"]) as smtp_server,
    ):
        maildrop = maildrop_of(imap_server, certificates, Stub("old", "new"))
        relay = relay_of(smtp_server, certificates, Stub("old", "new"))
        for plugin in (maildrop, relay):
            findings = await plugin.probe()
            assert {finding.level for finding in findings} <= {Level.GOOD, Level.WARNING}
            assert any("logged in as" in finding.text for finding in findings)
            await plugin.aclose()
    async with fake_imap(certificates, "none", capabilities=("AUTH=XOAUTH2",)) as imap_server:
        maildrop = maildrop_of(imap_server, certificates, Stub("old", "new"))
        assert [finding.level for finding in await maildrop.probe()] == [Level.GOOD, Level.BAD]
        assert imap_server.times("TOKEN") == 2
        await maildrop.aclose()


class Broken(Stub):
    """Its own server can't be had."""

    async def secret(self, account: Account) -> BearerToken:
        raise Unverified("the certificate of the token endpoint does not verify", look_at="OAUTH2_CA_FILE")


async def test_check_advises_on_what_gives_the_token_where_that_failed(certificates: Certificates) -> None:
    tls = smtps.server_tls(certificates.good)
    async with (
        fake_imap(certificates, "new", capabilities=("AUTH=XOAUTH2",)) as imap_server,
        FakeSMTPServer(tls=tls, keywords=["AUTH XOAUTH2"]) as smtp_server,
    ):
        for plugin in (
            maildrop_of(imap_server, certificates, Broken()),
            relay_of(smtp_server, certificates, Broken()),
        ):
            finding = (await plugin.probe())[-1]
            assert finding.level is Level.BAD
            assert finding.text == "the certificate of the token endpoint does not verify"
            assert finding.advice.startswith("look at OAUTH2_CA_FILE")
            assert "BACKEND" not in finding.advice
            await plugin.aclose()
        for plugin in (
            maildrop_of(imap_server, certificates, Empty()),
            relay_of(smtp_server, certificates, Empty()),
        ):
            finding = (await plugin.probe())[-1]
            assert (finding.text, finding.advice) == ("nothing to log in with: no consent", "run: authorize")
            await plugin.aclose()
