"""Every grant at an authorization server that we did not write, which rotates refresh tokens and knows thieves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio.to_thread import run_sync
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from legacy_email_proxy.contracts import Failure, Level, NoCredentials, Unreachable
from legacy_email_proxy_plugins.oauth2 import OAuth2Credentials, tokens
from oauth2.support import IMAP, Person, context, disguises
from oauth2.test_grants import EC_KEY, RSA_KEY, pem
from oauth2.test_tokens import settled
from realservers.authorization import DEVICE, REFRESH_TOKEN, USER, AuthorizationServer, Client
from realservers.certificates import Certificates
from waiting import until

SECRET = "the client's s3cret:+/%="
SCOPE = "mail.read mail.send offline_access"


def public(key: Any) -> dict[str, Any]:
    """The key as it is registered (JWK)."""
    from joserfc.jwk import ECKey, RSAKey

    octets: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    kind: Any = ECKey if key is EC_KEY else RSAKey
    return dict(kind.import_key(octets).as_dict(private=False))


# How the application proves itself: what the server knows of it, and the settings.
PROOFS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a public client": ({"auth": "none"}, {}),
    "a secret in the form": ({"auth": "client_secret_post", "secret": SECRET}, {"OAUTH2_CLIENT_SECRET": SECRET}),
    "a secret in the header": (
        {"auth": "client_secret_basic", "secret": SECRET},
        {"OAUTH2_CLIENT_SECRET": SECRET, "OAUTH2_CLIENT_AUTH": "basic"},
    ),
    "an RSA key": ({"auth": "client_assertion_jwt", "key": RSA_KEY}, {"OAUTH2_CLIENT_KEY": pem(RSA_KEY)}),
    "an EC key": ({"auth": "client_assertion_jwt", "key": EC_KEY}, {"OAUTH2_CLIENT_KEY": pem(EC_KEY)}),
}
CONFIDENTIAL = [name for name in PROOFS if name != "a public client"]


@contextmanager
def provider(certificates: Certificates, proof: str, **given: Any) -> Iterator[AuthorizationServer]:
    registered = dict(PROOFS[proof][0])
    with AuthorizationServer.start(certificates.good, Client(), **given) as server:
        if "key" in registered:
            registered["key"] = public(registered["key"])
        server.client = Client(**registered)
        yield server


def settings(server: AuthorizationServer, certificates: Certificates, proof: str, grant: str) -> dict[str, str]:
    return {
        "OAUTH2_GRANT": grant,
        "OAUTH2_CLIENT_ID": server.client.client_id,
        "OAUTH2_SCOPE": SCOPE,
        "OAUTH2_TOKEN_URL": server.url("token"),
        "OAUTH2_DEVICE_URL": server.url("device"),
        "OAUTH2_AUTHORIZATION_URL": server.url("authorize"),
        "OAUTH2_CA_FILE": str(certificates.ca_file),
        **PROOFS[proof][1],
    }


@asynccontextmanager
async def made(
    server: AuthorizationServer, certificates: Certificates, state: Path, proof: str, grant: str, **given: str
) -> AsyncIterator[OAuth2Credentials]:
    credentials = OAuth2Credentials(context(state, **settings(server, certificates, proof, grant), **given))
    try:
        yield credentials
    finally:
        await credentials.aclose()


async def holds(credentials: OAuth2Credentials, server: AuthorizationServer) -> bool:
    """Whether what is stored is the one refresh token that the server would take."""
    record = await credentials._store().load()
    return record.refresh_token is not None and {record.refresh_token.reveal()} == server.usable


@pytest.mark.parametrize("proof", CONFIDENTIAL)
async def test_client_credentials(certificates: Certificates, tmp_path: Path, proof: str) -> None:
    with provider(certificates, proof) as server:
        async with made(server, certificates, tmp_path, proof, "client_credentials") as credentials:
            assert (await credentials.secret(IMAP)).reveal() in server.access_tokens
            (finding,) = await credentials.probe()
            assert (finding.level, server.times("client_credentials")) == (Level.GOOD, 2)


@pytest.mark.parametrize("proof", CONFIDENTIAL)
async def test_who_is_refused_reads_why(
    certificates: Certificates, tmp_path: Path, proof: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with provider(certificates, proof) as server:
        server.client.secret, server.client.key = "another", public(EC_KEY if "RSA" in proof else RSA_KEY)
        async with made(server, certificates, tmp_path, proof, "client_credentials") as credentials:
            with pytest.raises(NoCredentials) as raised:
                await credentials.secret(IMAP)
            assert ("OAUTH2_CLIENT_KEY" if "key" in proof else "OAUTH2_CLIENT_SECRET") in raised.value.detail
            (finding,) = await credentials.probe()
            said = "".join((str(raised.value), finding.text, finding.advice, caplog.text))
            assert not [form for form in disguises(SECRET) if form in said]


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY])
async def test_a_service_account(certificates: Certificates, tmp_path: Path, key: Any) -> None:
    with provider(certificates, "a public client") as server:
        server.client.key = public(key)
        account = {"client_email": server.client.client_id, "private_key": pem(key), "private_key_id": "k1"}
        given = {"OAUTH2_SERVICE_ACCOUNT": json.dumps(account), "OAUTH2_SUBJECT": USER}
        async with made(server, certificates, tmp_path, "a public client", "jwt_bearer", **given) as credentials:
            token = await credentials.secret(IMAP)
            assert set(server.access_tokens[token.reveal()].split()) == set(SCOPE.split()), "the form's scope was read"
        given["OAUTH2_SUBJECT"] = "mallory"
        other = tmp_path / "other"
        async with made(server, certificates, other, "a public client", "jwt_bearer", **given) as credentials:
            with pytest.raises(NoCredentials, match=r"Invalid 'sub' value in assertion.*OAUTH2_SUBJECT"):
                await credentials.secret(IMAP)


@pytest.mark.parametrize("proof", PROOFS)
async def test_a_device_code(certificates: Certificates, tmp_path: Path, proof: str) -> None:
    with provider(certificates, proof) as server:
        async with made(server, certificates, tmp_path, proof, "device_code") as credentials:
            person = Person()
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: credentials.authorize(person, listen=False))
                await until(lambda: server.times(DEVICE) >= 2)
                server.answers[person.said[0].split()[-1]] = True
            assert (await credentials.secret(IMAP)).reveal() in server.access_tokens
            await credentials._keeper.fresh()
            assert await holds(credentials, server)


async def test_a_device_whose_owner_says_no(certificates: Certificates, tmp_path: Path) -> None:
    with provider(certificates, "a public client") as server:
        async with made(server, certificates, tmp_path, "a public client", "device_code") as credentials:
            person = Person()
            person.say = lambda text: server.answers.update(  # type: ignore[method-assign]
                {each.user_code: False for each in server.devices.values()}
            )
            with pytest.raises(NoCredentials, match=r"access_denied.*the consent was refused"):
                await credentials.authorize(person, listen=False)


@pytest.mark.parametrize("listen", [False, True])
@pytest.mark.parametrize("proof", PROOFS)
async def test_an_authorization_code(certificates: Certificates, tmp_path: Path, proof: str, listen: bool) -> None:
    with provider(certificates, proof) as server:

        def browse(url: str) -> str:
            found = httpx2.get(url, verify=credentials._grants._endpoints._tls, trust_env=False)
            return found.headers["Location"]

        redirect = {"OAUTH2_REDIRECT_URL": "http://127.0.0.1"}
        async with made(server, certificates, tmp_path, proof, "authorization_code", **redirect) as credentials:
            person = Person(browse)
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: credentials.authorize(person, listen=listen))
                if listen:
                    await until(lambda: bool(person.said))
                    target = await run_sync(browse, person.url)
                    async with httpx2.AsyncClient(trust_env=False) as browser:
                        assert (await browser.get(target)).status_code == 200
            assert (await credentials.secret(IMAP)).reveal() in server.access_tokens
            await credentials._keeper.fresh()
            assert await holds(credentials, server)


@pytest.mark.parametrize("proof", PROOFS)
async def test_a_refresh_token_that_is_replaced_each_time(
    certificates: Certificates, tmp_path: Path, proof: str
) -> None:
    with provider(certificates, proof) as server:
        given = {"OAUTH2_REFRESH_TOKEN": server.issue(SCOPE)}
        async with made(server, certificates, tmp_path, proof, REFRESH_TOKEN, **given) as credentials:
            for times in range(1, 5):
                await credentials._keeper.fresh()
                assert await holds(credentials, server)
                assert server.times(REFRESH_TOKEN) == times


async def test_a_narrower_scope(certificates: Certificates, tmp_path: Path) -> None:
    with provider(certificates, "a public client") as server:
        given = {"OAUTH2_REFRESH_TOKEN": server.issue(SCOPE)}
        for scope in (SCOPE, "mail.read offline_access", "mail.read offline_access", SCOPE):
            given["OAUTH2_SCOPE"] = scope
            plain = settings(server, certificates, "a public client", REFRESH_TOKEN) | given
            credentials = OAuth2Credentials(context(tmp_path, **plain))
            token = await credentials.secret(IMAP)
            await credentials._keeper.fresh()
            fresh = await credentials.secret(IMAP)
            for each in (token, fresh):
                assert set(server.access_tokens[each.reveal()].split()) == set(scope.split())
            await credentials.aclose()


async def test_a_lost_answer_would_have_been_the_end(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_WAITING_SECONDS", 0.2)
    proof = "a secret in the form"
    with provider(certificates, proof) as server:
        seed = server.issue(SCOPE)
        async with made(
            server, certificates, tmp_path, proof, REFRESH_TOKEN, OAUTH2_REFRESH_TOKEN=seed
        ) as credentials:  # fmt: skip
            server.may_answer.clear()
            with pytest.raises(Unreachable, match="no answer yet"):
                await credentials.secret(IMAP)
            await until(lambda: seed not in server.usable)
            closing = asyncio.create_task(credentials.aclose())
            assert (await asyncio.wait({closing}, timeout=0.3))[1]
            server.may_answer.set()
            await closing
            await settled(credentials._keeper)
            assert await holds(credentials, server)
            monkeypatch.undo()
            await credentials._keeper.fresh()
        # What would happen else.
        async with made(
            server, certificates, tmp_path / "thief", proof, REFRESH_TOKEN, OAUTH2_REFRESH_TOKEN=seed
        ) as thief:  # fmt: skip
            with pytest.raises(NoCredentials, match="set OAUTH2_REFRESH_TOKEN to it"):
                await thief.secret(IMAP)
        assert server.usable == set()


async def test_a_wrong_path(certificates: Certificates, tmp_path: Path) -> None:
    with provider(certificates, "a secret in the form") as server:
        wrong = settings(server, certificates, "a secret in the form", "client_credentials")
        wrong["OAUTH2_TOKEN_URL"] = server.url("tokn")
        credentials = OAuth2Credentials(context(tmp_path, **wrong))
        with pytest.raises(Failure, match=r"status 404 .*no such route: tokn .see OAUTH2_TOKEN_URL."):
            await credentials.secret(IMAP)
        await credentials.aclose()
