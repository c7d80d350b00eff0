"""The credentials plugin and a fake authorization server, set up to talk to each other."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from fakes.oauth2 import FakeAuthorizationServer
from legacy_email_proxy.contracts import Account, Context
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.settings import TABLE, read
from legacy_email_proxy_plugins.oauth2 import OAuth2Credentials
from legacy_email_proxy_plugins.oauth2.grants import Grants
from legacy_email_proxy_plugins.oauth2.http import Endpoints
from realservers.certificates import Certificate

IMAP, SMTP = Account("imap", "alice"), Account("smtp", "alice")
LOGGER = "legacy_email_proxy.credentials.oauth2"
SECRET = "the client's s3cret+/="
STORE_KEY = "a long passphrase for the store"


def server_tls(certificate: Certificate) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.certificate_file, certificate.key_file)
    return tls


def variables(server: FakeAuthorizationServer, ca_file: Path, grant: str, **given: str) -> dict[str, str]:
    addresses = {"OAUTH2_TOKEN_URL": "token", "OAUTH2_DEVICE_URL": "device", "OAUTH2_AUTHORIZATION_URL": "authorize"}
    return {
        "OAUTH2_GRANT": grant,
        "OAUTH2_CLIENT_ID": server.client_id,
        "OAUTH2_SCOPE": "mail offline_access",
        "OAUTH2_CA_FILE": str(ca_file),
        **{name: server.url(path) for name, path in addresses.items()},
        **given,
    }


def context(state: Path, **given: str) -> Context:
    settings = read({"STATE_DIR": str(state), **given}, TABLE)
    assert not settings.mistakes
    return PluginContext("credentials.oauth2", settings)


def credentials_for(
    server: FakeAuthorizationServer, ca_file: Path, state: Path, grant: str, seconds: Any = 5.0, **given: str
) -> OAuth2Credentials:
    made = OAuth2Credentials(context(state, **variables(server, ca_file, grant, **given)))
    made._grants = Grants(made._configuration, Endpoints(made._grants._endpoints._tls, seconds, patience=seconds))
    return made


@asynccontextmanager
async def pair(
    certificate: Certificate, state: Path, grant: str, *, seconds: Any = 5.0, server: Any = None, **given: str
) -> AsyncIterator[tuple[OAuth2Credentials, FakeAuthorizationServer]]:
    """`server` are the fake's arguments, `given` further variables."""
    async with FakeAuthorizationServer(tls=server_tls(certificate), **(server or {})) as fake:
        if grant == "refresh_token" and "OAUTH2_REFRESH_TOKEN" not in given:
            given["OAUTH2_REFRESH_TOKEN"] = fake.issue_refresh_token()
        credentials = credentials_for(fake, certificate.ca_file, state, grant, seconds, **given)
        try:
            yield credentials, fake
        finally:
            await credentials.aclose()


def disguises(secret: str) -> set[str]:
    """The forms in which a secret might lie about: as it is, in an address, in hexadecimal, and anywhere in base64."""
    octets = secret.encode()
    found = {secret, quote(secret, safe=""), quote_plus(secret), octets.hex(), json.dumps(secret)[1:-1]}
    for before in range(3):
        whole = base64.b64encode(b"x" * before + octets).decode().rstrip("=")
        # Without the characters that hold bits of what stands before and behind it.
        inner = whole[4 if before else 0 : -1]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


class Person:
    """A dialogue whose other side is the test. `answer` makes an answer of all that was said."""

    def __init__(self, answer: Any = None) -> None:
        self.said: list[str] = []
        self._answer = answer

    def show(self, url: str, code: str = "") -> None:
        self.said.append(f"{url} {code}")

    def say(self, text: str) -> None:
        self.said.append(text)

    async def ask(self, question: str) -> str:
        self.said.append(question)
        return str(self._answer(self.url))

    @property
    def url(self) -> str:
        return next(word for word in " ".join(self.said).split() if "code_challenge" in word)
