"""Every grant against a server that judges it for real: secrets, signatures, PKCE, one use."""

from __future__ import annotations

import base64
import datetime
import json
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from clients import reset_when_closed
from fakes.oauth2 import FakeAuthorizationServer, Status
from legacy_email_proxy.contracts import BearerToken, CredentialsRefused, Failure, Secret
from legacy_email_proxy_plugins.oauth2.assertions import SigningKey
from legacy_email_proxy_plugins.oauth2.errors import GrantRefused
from oauth2.support import IMAP, SECRET, SMTP, Person, pair
from realservers.certificates import Certificates
from waiting import until

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def pem(key: Any) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


def certificate_of(key: Any) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the application")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now)
    return builder.sign(key, SHA256())


@pytest.mark.parametrize("auth", ["post", "basic"])
async def test_client_credentials_with_a_secret(certificates: Certificates, tmp_path: Path, auth: str) -> None:
    server = {"client_secret": SECRET, "client_auth": auth}
    given = {"OAUTH2_CLIENT_SECRET": SECRET, "OAUTH2_CLIENT_AUTH": auth}
    async with pair(certificates.good, tmp_path, "client_credentials", server=server, **given) as (credentials, fake):
        token = await credentials.secret(IMAP)
        assert isinstance(token, BearerToken)
        assert token.reveal() == fake.tokens[0].text
        assert await credentials.secret(SMTP) == token, "both legs share it"
    (form,) = fake.forms
    assert ("client_secret" in form) == (auth == "post")
    assert form["scope"] == "mail offline_access"


@pytest.mark.parametrize(("key", "provider", "algorithm"), [(RSA_KEY, "custom", "RS256"), (EC_KEY, "custom", "ES256")])
async def test_client_credentials_with_a_certificate(
    certificates: Certificates, tmp_path: Path, key: Any, provider: str, algorithm: str
) -> None:
    given = {"OAUTH2_CLIENT_KEY": pem(key), "OAUTH2_PROVIDER": provider}
    given["OAUTH2_CLIENT_CERT"] = certificate_of(key).public_bytes(Encoding.PEM).decode()
    server = {"client_key": key.public_key()}
    async with pair(certificates.good, tmp_path, "client_credentials", server=server, **given) as (credentials, fake):
        assert (await credentials.secret(IMAP)).reveal() == fake.tokens[0].text
    (claims,) = fake.assertions
    assert claims["alg"] == algorithm
    assert claims["aud"] == fake.url("token")
    assert claims["exp"] - claims["iat"] <= 600
    assert {"x5t", "x5t#S256"} <= set(claims)


def test_the_thumbprints_are_those_of_the_certificate() -> None:
    certificate = certificate_of(RSA_KEY)
    key = SigningKey.from_pem(
        Secret(pem(RSA_KEY)), certificate.public_bytes(Encoding.PEM).decode(), rsa_algorithm="PS256"
    )
    for name, algorithm in (("x5t", SHA1()), ("x5t#S256", SHA256())):
        digest = base64.urlsafe_b64encode(certificate.fingerprint(algorithm)).rstrip(b"=").decode()
        assert key.header[name] == digest
    assert key.algorithm == "PS256"
    assert repr(key) == "SigningKey(PS256)"


async def test_a_wrong_key_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    other = rsa.generate_private_key(65537, 2048)
    given = {"OAUTH2_CLIENT_KEY": pem(other)}
    server = {"client_key": RSA_KEY.public_key()}
    async with pair(certificates.good, tmp_path, "client_credentials", server=server, **given) as (credentials, _):
        with pytest.raises(GrantRefused, match="Signature verification failed"):
            await credentials.secret(IMAP)


async def test_a_service_account(certificates: Certificates, tmp_path: Path) -> None:
    account = {"client_email": "robot@project.test", "private_key": pem(RSA_KEY), "private_key_id": "k1"}
    given = {"OAUTH2_SERVICE_ACCOUNT": json.dumps(account), "OAUTH2_SUBJECT": "alice@firm.test"}
    server = {"service_key": RSA_KEY.public_key()}
    async with pair(certificates.good, tmp_path, "jwt_bearer", server=server, **given) as (credentials, fake):
        await credentials.secret(IMAP)
    (claims,) = fake.assertions
    assert (claims["iss"], claims["sub"], claims["kid"]) == ("robot@project.test", "alice@firm.test", "k1")
    assert claims["scope"] == "mail offline_access"
    assert "nbf" not in claims
    assert set(fake.forms[0]) == {"grant_type", "assertion", "scope"}, "RFC 7521 §4.1"


async def test_a_refresh_token(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token") as (credentials, fake):
        assert (await credentials.secret(SMTP)).reveal() == fake.tokens[0].text
    (form,) = fake.forms
    assert form["grant_type"] == "refresh_token"
    assert form["client_id"] == fake.client_id
    assert "scope" not in form, "what was consented to holds"


async def test_a_device_code(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "device_code") as (credentials, fake):
        with pytest.raises(CredentialsRefused, match="nobody has consented yet -> run: legacy-email-proxy authorize"):
            await credentials.secret(IMAP)
        person = Person()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: credentials.authorize(person, listen=False))
            await until(lambda: fake.times("token") >= 2)
            assert fake.url("activate") in person.said[0]
            fake.approve(person.said[0].split()[-1])
        token = await credentials.secret(IMAP)
        assert token.reveal() == fake.tokens[0].text, "it is used although there was a pause before"


PROOFS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a secret in the form": ({"client_secret": SECRET}, {"OAUTH2_CLIENT_SECRET": SECRET}),
    "a secret in the header": (
        {"client_secret": SECRET, "client_auth": "basic"},
        {"OAUTH2_CLIENT_SECRET": SECRET, "OAUTH2_CLIENT_AUTH": "basic"},
    ),
    "a key": ({"client_key": RSA_KEY.public_key()}, {"OAUTH2_CLIENT_KEY": pem(RSA_KEY)}),
}


@pytest.mark.parametrize("proof", PROOFS)
async def test_a_device_code_for_an_application_that_proves_itself(
    certificates: Certificates, tmp_path: Path, proof: str
) -> None:
    server, given = PROOFS[proof]
    async with pair(certificates.good, tmp_path, "device_code", server=server, **given) as (credentials, fake):
        person = Person()
        person.say = lambda text: fake.approve("CODE-0")  # type: ignore[method-assign]
        await credentials.authorize(person, listen=False)
        assert (await credentials.secret(IMAP)).reveal() == fake.tokens[0].text


async def test_a_device_that_is_denied(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "device_code") as (credentials, fake):
        fake.script[("token", 1)] = Status(400, {"error": "authorization_pending"})
        person = Person()
        person.say = lambda text: fake.deny("CODE-0")  # type: ignore[method-assign]
        with pytest.raises(GrantRefused, match="the consent was refused"):
            await credentials.authorize(person, listen=False)


async def test_an_authorization_code_pasted_back(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "authorization_code") as (credentials, fake):
        await credentials.authorize(Person(fake.browse), listen=False)
        assert (await credentials.secret(IMAP)).reveal() == fake.tokens[0].text
        verifier = fake.forms[0]["code_verifier"]
        assert 43 <= len(verifier) <= 128
        assert verifier not in " ".join(str(form) for form in fake.codes.values())


PASTED: dict[str, tuple[Callable[[FakeAuthorizationServer, str], str], str]] = {
    "another request's": (lambda fake, url: fake.browse(url).replace("state=", "state=x"), "does not belong"),
    "nothing": (lambda fake, url: "", "does not belong"),
    "no address": (lambda fake, url: "http://[?state=x", "does not belong"),
    "no text": (lambda fake, url: "http://localhost/?state=\udcff", "does not belong"),
    "no code": (lambda fake, url: fake.browse(url).replace("code=", "cod="), "there is no `code`"),
    "no consent": (lambda fake, url: fake.browse(url, consent=False), "no consent: 'access_denied'"),
    "a code of somebody else": (lambda fake, url: fake.browse(url).replace("code=", "code=x"), "PKCE"),
}


@pytest.mark.parametrize("case", PASTED)
async def test_what_is_pasted_may_be_wrong(certificates: Certificates, tmp_path: Path, case: str) -> None:
    change, words = PASTED[case]

    async with pair(certificates.good, tmp_path, "authorization_code") as (credentials, fake):
        with pytest.raises(Failure, match=words):
            await credentials.authorize(Person(partial(change, fake)), listen=False)
        assert not fake.tokens


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_a_loopback_redirect(certificates: Certificates, tmp_path: Path, host: str) -> None:
    if host == "[::1]" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    redirect = {"OAUTH2_REDIRECT_URL": f"http://{host}"}
    async with pair(certificates.good, tmp_path, "authorization_code", **redirect) as (credentials, fake):
        person = Person()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: credentials.authorize(person, listen=True))
            await until(lambda: bool(person.said))
            async with httpx2.AsyncClient(trust_env=False) as browser:
                target = fake.browse(person.url)
                assert target.startswith(f"http://{host}:")
                assert (await browser.get(target.partition("?")[0] + "/favicon.ico")).status_code == 404
                assert (await browser.get(target.replace("state=", "state=x"))).status_code == 404
                async with await anyio.connect_tcp(host.strip("[]"), int(target.partition(f"{host}:")[2][:5])) as odd:
                    await odd.send(b"GET //[ HTTP/1.0\r\n\r\n")
                    assert b" 404 " in await odd.receive()
                assert (await browser.get(target)).text == "Thank you. You may close this window."
        assert (await credentials.secret(IMAP)).reveal() == fake.tokens[0].text


async def test_a_connection_that_says_nothing_does_not_end_the_wait_for_the_browser(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legacy_email_proxy_plugins.oauth2.consent._REQUEST_SECONDS", 0.05)
    async with pair(certificates.good, tmp_path, "authorization_code") as (credentials, fake):
        person = Person()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: credentials.authorize(person, listen=True))
            await until(lambda: bool(person.said))
            target = fake.browse(person.url)
            port = int(target.partition("localhost:")[2].partition("?")[0].rstrip("/"))
            async with await anyio.connect_tcp("127.0.0.1", port) as silent:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await silent.receive()
            rude = await anyio.connect_tcp("127.0.0.1", port)
            await rude.send(b"GET /favicon.ico HTTP/1.1\r\n\r\n")
            # RST instead of FIN: the answer meets nobody.
            reset_when_closed(rude.extra(anyio.abc.SocketAttribute.raw_socket))
            await rude.aclose()
            async with httpx2.AsyncClient(trust_env=False) as browser:
                monkeypatch.undo()
                assert (await browser.get(target.replace("localhost", "127.0.0.1"))).status_code == 200
        assert fake.times("token") == 1


async def test_a_consent_without_a_refresh_token_is_none(certificates: Certificates, tmp_path: Path) -> None:
    answer = Status(200, {"access_token": "x", "token_type": "bearer"})
    async with pair(certificates.good, tmp_path, "authorization_code", server={"script": {"token": answer}}) as both:
        credentials, fake = both
        with pytest.raises(Failure, match=r"none to renew it with .see OAUTH2_SCOPE .many providers want offline_acc"):
            await credentials.authorize(Person(fake.browse), listen=False)


async def test_an_application_asks_for_no_consent(certificates: Certificates, tmp_path: Path) -> None:
    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(certificates.good, tmp_path, "client_credentials", **given) as (credentials, _):
        with pytest.raises(Failure, match="OAUTH2_GRANT is client_credentials, which asks for nobody's consent"):
            await credentials.authorize(Person(), listen=False)
