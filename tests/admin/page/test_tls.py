"""TLS on addresses that other machines reach, with the certificate that devices are shown."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from admin.support import ProbedRelay, composition
from legacy_email_proxy.admin import http
from legacy_email_proxy.admin.http import AdminServer
from legacy_email_proxy.admin.outcomes import Outcomes
from legacy_email_proxy.admin.probes import Probes
from legacy_email_proxy.admin.readiness import Readiness
from legacy_email_proxy.build import Composition
from legacy_email_proxy.listeners import bind
from legacy_email_proxy.reloading import Current
from legacy_email_proxy.tls import server_context

NAMES = ("proxy.firm.example", "127.0.0.1")


def secured(folder: Path, ca: trustme.CA, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> Composition:
    """A composition with a new certificate."""
    certificate = ca.issue_cert(*NAMES, key_type=kind)
    path = folder / "cert.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    environ = {"TLS_CERT_FILE": str(path), "ADMIN_PASSWORD": "x"}
    used = composition(folder, ProbedRelay(), environ=environ)
    return replace(used, tls=server_context(used.settings))


@asynccontextmanager
async def serving(used: Composition) -> AsyncIterator[tuple[Current, int]]:
    current = Current(used, lambda _: None)
    outcomes = Outcomes()
    probes = Probes(outcomes)
    server = AdminServer(current, Readiness(lambda: current.composition, outcomes, probes), outcomes)
    sockets = await asyncio.to_thread(bind, "ADMIN", ["127.0.0.1"], 0)
    server.start(sockets)
    try:
        yield current, sockets[0].getsockname()[1]
    finally:
        await server.aclose()
        await probes.aclose()


async def asked(port: int, context: ssl.SSLContext | None) -> tuple[str, bytes]:
    """The answer, and the certificate."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=NAMES[0] if context else None
    )
    writer.write(b"GET /signin HTTP/1.1\r\nHost: proxy.firm.example\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(50):
        answer = await reader.read()
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) if context else b""
    writer.close()
    return answer.decode(), shown


async def test_an_address_that_others_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "is_loopback", lambda _: False)
    ca = await asyncio.to_thread(trustme.CA)
    context = ssl.create_default_context()
    ca.configure_trust(context)
    async with serving(await asyncio.to_thread(secured, tmp_path, ca)) as (current, port):
        answer, first = await asked(port, context)
        assert answer.startswith("HTTP/1.1 200 ")
        assert "; Secure" in answer
        # A reload brings another certificate, with another kind of key.
        current.replace(await asyncio.to_thread(secured, tmp_path, ca, trustme.KeyType.RSA))
        answer, second = await asked(port, context)
        assert answer.startswith("HTTP/1.1 200 ")
        assert first != second
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await asked(port, context))[1] == second


async def test_the_loopback_speaks_plain_http(tmp_path: Path) -> None:
    ca = await asyncio.to_thread(trustme.CA)
    async with serving(await asyncio.to_thread(secured, tmp_path, ca)) as (_, port):
        answer, _ = await asked(port, None)
        assert answer.startswith("HTTP/1.1 200 ")
        assert "; Secure" not in answer


async def test_plain_http_to_an_address_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "is_loopback", lambda _: False)
    ca = await asyncio.to_thread(trustme.CA)
    async with serving(await asyncio.to_thread(secured, tmp_path, ca)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert not (await reader.read()).startswith(b"HTTP/1.1 2")
        writer.close()


async def test_a_request_that_comes_with_the_end_of_the_handshake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "is_loopback", lambda _: False)
    ca = await asyncio.to_thread(trustme.CA)
    context = ssl.create_default_context()
    ca.configure_trust(context)
    async with serving(await asyncio.to_thread(secured, tmp_path, ca)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname=NAMES[0])
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        client.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        writer.write(outgoing.read())
        answer = b""
        while b"ok" not in answer:
            incoming.write(await reader.read(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                while b"ok" not in answer:  # each call gives one record
                    answer += client.read(65536)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
