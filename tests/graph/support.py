"""The graph plugins in front of the fake Graph server, with a token that needs no provider."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fakes.graph import FakeGraph
from legacy_email_proxy.contracts import Account, BearerToken, Client, Context, Finding, Password, Receipt, Relay
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.testing import context_for
from legacy_email_proxy_plugins.graph import GraphMaildrop, GraphRelay
from realservers.certificates import Certificate, Certificates

CLIENT = Client("192.0.2.7", "test", "device.example")
SENDER = "scanner@firm.example"


class Tokens:
    """Credentials with the tokens that a test gives, one after the other."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.refusals = 0

    async def secret(self, account: Account) -> Password | BearerToken:
        assert account == Account("graph", SENDER)
        return BearerToken(self.tokens[0])

    async def refused(self, account: Account, secret: Password | BearerToken) -> bool:
        self.refusals += 1
        if len(self.tokens) > 1:
            self.tokens.pop(0)
            return True
        return False

    async def probe(self) -> Sequence[Finding]:
        return ()

    async def aclose(self) -> None:
        pass


def server_tls(certificate: Certificate) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.certificate_file, certificate.key_file)
    return tls


def context(
    plugin: type, server: FakeGraph, certificates: Certificates, state: Path, *tokens: str, **given: str
) -> Context:
    settings = {"GRAPH_URL": server.url, "GRAPH_CA_FILE": str(certificates.ca_file), "GRAPH_MAILBOX": SENDER}
    made = context_for(plugin, state, **settings | given)
    assert isinstance(made, PluginContext)
    made.shared["oauth2"] = Tokens(*(tokens or ("the-token",)))
    return made


@asynccontextmanager
async def serving(
    certificates: Certificates, certificate: Certificate | None = None, **given: Any
) -> AsyncIterator[FakeGraph]:
    async with FakeGraph(tls=server_tls(certificate or certificates.good), **given) as server:
        yield server


@asynccontextmanager
async def relaying(
    certificates: Certificates, state: Path, *tokens: str, server: Mapping[str, Any] | None = None, **given: str
) -> AsyncIterator[tuple[GraphRelay, FakeGraph]]:
    async with serving(certificates, **server or {}) as fake:
        relay = GraphRelay(context(GraphRelay, fake, certificates, state, *tokens, **given))
        try:
            yield relay, fake
        finally:
            await relay.aclose()


@asynccontextmanager
async def reading(
    certificates: Certificates, state: Path, *tokens: str, server: Mapping[str, Any] | None = None, **given: str
) -> AsyncIterator[tuple[GraphMaildrop, FakeGraph]]:
    async with serving(certificates, **server or {}) as fake:
        maildrop = GraphMaildrop(context(GraphMaildrop, fake, certificates, state, *tokens, **given))
        try:
            yield maildrop, fake
        finally:
            await maildrop.aclose()


async def pieces(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


async def send(relay: Relay, content: bytes, *forward_paths: str, reverse_path: str = SENDER) -> Receipt:
    async with relay.transaction(CLIENT, reverse_path, {}) as transaction:
        for path in forward_paths or ("one@example.test",):
            await transaction.add_recipient(path, {})
        return await transaction.send(pieces(content))
