"""What a token endpoint may do instead of answering: each becomes one clear failure, in time, and holds no secret."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from fakes.oauth2 import Action, Drop, FakeAuthorizationServer, Hang, Raw, Status
from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    Overloaded,
    Unreachable,
    Unusable,
    Unverified,
)
from legacy_email_proxy_plugins.oauth2.http import ANSWER_OCTETS, Endpoints
from oauth2.support import IMAP, SECRET, credentials_for, pair, server_tls
from realservers.certificates import Certificates

GOOD: dict[str, Any] = {"access_token": "a", "token_type": "Bearer", "expires_in": 60}
SECONDS = 0.5
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

FAULTS: dict[str, tuple[Action, type[Failure], str]] = {
    "closes": (Drop(), Disconnected, "broke"),
    "no HTTP": (Raw(b"220 mail ESMTP\r\n"), Disconnected, "broke"),
    "silent": (Hang(), Unreachable, "did not answer within 0.5 s"),
    "silent in the body": (Hang(HEAD + b"Content-Length: 99\r\n\r\n{"), Unreachable, "did not answer within"),
    "cut off": (Raw(HEAD + b"Content-Length: 99\r\n\r\n{"), Disconnected, "broke"),
    "oversized": (Status(200, "x" * (ANSWER_OCTETS + 1)), Disconnected, "more than 65536 octets"),
    "endless chunks": (
        Raw(
            HEAD
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"4000\r\n"
            + b"x" * 0x4000
            + b"\r\n" * 1
            + b"7fffffff\r\n"
            + b"y" * 99999
        ),
        Disconnected,
        "more than 65536 octets",
    ),
    "endless head": (Raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000), Disconnected, "broke"),
    "a bomb": (Status(200, "\x1f\x8b\x08", {"Content-Encoding": "gzip"}), Disconnected, "does not answer like a token"),
    "a redirect": (Status(307, "", {"Location": "https://localhost:1/steal"}), Unusable, "redirect .status 307"),
    "no JSON": (Status(200, "<html>"), Disconnected, "does not answer like a token endpoint: status 200"),
    "a list": (Status(200, "[1]"), Disconnected, "does not answer like"),
    "deep": (Status(200, "[" * 60000), Disconnected, "does not answer like"),
    "no token": (Status(200, {"token_type": "bearer"}), Disconnected, "does not answer like"),
    "a token with a line end": (Status(200, GOOD | {"access_token": "a\r\nb"}), Disconnected, "no bearer token"),
    "a token with a control": (Status(200, GOOD | {"access_token": "a\x01b"}), Disconnected, "no bearer token"),
    "an empty token": (Status(200, GOOD | {"access_token": ""}), Disconnected, "no bearer token"),
    "a number for a token": (Status(200, GOOD | {"access_token": 7}), Disconnected, "no bearer token"),
    "another type": (Status(200, GOOD | {"token_type": "mac"}), Disconnected, "no bearer token"),
    "a refresh token that is none": (Status(200, GOOD | {"refresh_token": "\n"}), Disconnected, "no refresh token"),
    "down": (Status(503, "<html>"), Overloaded, "gives no token now: status 503"),
    "throttling": (Status(429, {"error": "too_many"}), Overloaded, "gives no token now"),
    "busy": (Status(400, {"error": "temporarily_unavailable"}), Overloaded, "gives no token now"),
    "wrong secret": (
        Status(401, {"error": "invalid_client", "error_description": f"AADSTS7000215: Invalid secret {SECRET}"}),
        CredentialsRefused,
        r"AADSTS7000215: Invalid secret \*\*\*; the client secret is wrong -> OAUTH2_CLIENT_SECRET is the",
    ),
    "control characters": (
        Status(400, {"error": "x\r\nfake log line", "error_description": "\x1b[31m" + "y" * 9999}),
        CredentialsRefused,
        "x fake log line [?]",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
async def test_faults(certificates: Certificates, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    action, kind, words = FAULTS[case]
    server = {"client_secret": SECRET, "script": {"token": action}}
    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(
        certificates.good, tmp_path, "client_credentials", seconds=SECONDS, server=server, **given
    ) as (credentials, fake):  # fmt: skip
        with pytest.raises(Failure, match=words) as raised:
            await credentials.secret(IMAP)
        assert isinstance(raised.value, kind)
        assert "\n" not in raised.value.detail
        assert len(raised.value.detail) < 800
        assert SECRET not in str(raised.value) + caplog.text
        assert fake.times("token") == 1
        with pytest.raises(kind, match=r"; not asked again for [0-9]+ s"):
            await credentials.secret(IMAP)
        assert fake.times("token") == 1, "nobody is asked in a pause"


async def test_nobody_is_there(certificates: Certificates, tmp_path: Path) -> None:
    async with FakeAuthorizationServer(tls=server_tls(certificates.good)) as fake:
        pass
    credentials = credentials_for(
        fake, certificates.ca_file, tmp_path, "client_credentials", OAUTH2_CLIENT_SECRET=SECRET
    )
    with pytest.raises(Unreachable, match=r"no connection to localhost: .*see OAUTH2_TOKEN_URL, HTTPS_PROXY"):
        await credentials.secret(IMAP)


@pytest.mark.parametrize("name", ["expired", "wrong_host", "other_ca"])
async def test_a_bad_certificate(certificates: Certificates, tmp_path: Path, name: str) -> None:
    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(getattr(certificates, name), tmp_path, "client_credentials", **given) as (credentials, fake):
        with pytest.raises(Unverified, match=r"certificate of localhost does not verify: .*nothing was sent"):
            await credentials.secret(IMAP)
        assert not fake.requests


async def test_the_proxy_for_https_is_used(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 no\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        given = {"OAUTH2_CLIENT_SECRET": SECRET}
        async with pair(certificates.good, tmp_path, "client_credentials", **given) as (credentials, fake):
            with pytest.raises(Unreachable, match="403"):
                await credentials.secret(IMAP)
            assert asked[0].startswith(f"CONNECT localhost:{fake.port} ".encode())


async def test_a_name_is_looked_up_beside_the_event_loops_few_threads(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = asyncio.get_running_loop().getaddrinfo

    async def busy(host: str, *given: Any, **named: Any) -> Any:
        # uvloop asks it of an address too, which needs no thread.
        assert host == "127.0.0.1", "a name server that does not answer may have all of these threads"
        return await real(host, *given, **named)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", busy)
    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(certificates.good, tmp_path, "client_credentials", **given) as (credentials, fake):
        await credentials.secret(IMAP)
        assert fake.times("token") == 1


async def test_the_next_address_is_tried(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def two(host: str, port: int, *given: Any, **named: Any) -> Any:
        dead = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.77", port))]
        return dead + real("127.0.0.1", port, *given, **named) if host == "localhost" else real(host, port, **named)

    given = {"OAUTH2_CLIENT_SECRET": SECRET}
    async with pair(certificates.good, tmp_path, "client_credentials", **given) as (credentials, fake):
        monkeypatch.setattr(socket, "getaddrinfo", two)
        await credentials.secret(IMAP)
        assert fake.times("token") == 1


async def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://user:hidden@x")
    with pytest.raises(Unusable, match=r"the proxy for HTTPS can not be used .ValueError.") as raised:
        await Endpoints(ssl.create_default_context()).post("https://localhost:1/token", {})
    assert "hidden" not in str(raised.value)
