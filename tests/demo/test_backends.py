"""The embedded servers alone, by the standard library's clients: TLS verified, login demanded, octets kept."""

from __future__ import annotations

import asyncio
import imaplib
import smtplib
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from legacy_email_proxy.demo.backends import HOST, Backends, running
from legacy_email_proxy.demo.samples import MESSAGES

_DEADLINE = 50.0


@pytest.fixture
async def backends(tmp_path: Path) -> AsyncIterator[Backends]:
    async with running(tmp_path) as embedded:
        yield embedded


@contextmanager
def _imap(backends: Backends, password: str | None = None) -> Iterator[imaplib.IMAP4_SSL]:
    context = ssl.create_default_context(cafile=backends.ca_file)
    with imaplib.IMAP4_SSL(HOST, backends.imap_port, ssl_context=context, timeout=_DEADLINE) as client:
        client.login(backends.user, password or backends.password)
        client.select("INBOX")
        yield client


def _smtp(backends: Backends) -> smtplib.SMTP_SSL:
    context = ssl.create_default_context(cafile=backends.ca_file)
    return smtplib.SMTP_SSL(HOST, backends.smtp_port, context=context, timeout=_DEADLINE)


def _contents(client: imaplib.IMAP4_SSL, uids: str = "1:*") -> list[bytes]:
    _, parts = client.uid("FETCH", uids, "(RFC822.SIZE BODY.PEEK[])")
    found = [part for part in parts if isinstance(part, tuple)]
    for line, content in found:
        assert f"RFC822.SIZE {len(content)} ".encode() in line
    return [content for _, content in found]


def _uids(client: imaplib.IMAP4_SSL) -> list[bytes]:
    _, rows = client.uid("FETCH", "1:*", "(UID)")
    return [row.partition(b"UID ")[2].rstrip(b")") for row in rows if isinstance(row, bytes)]


async def test_the_samples_wait(backends: Backends) -> None:
    def look() -> list[bytes]:
        with _imap(backends) as client:
            return _contents(client)

    assert await anyio.to_thread.run_sync(look) == list(MESSAGES)


def test_the_samples_are_what_they_are_for() -> None:
    assert len(MESSAGES) == 3
    assert any(b"\r\n.\r\n" in message for message in MESSAGES)
    assert any(not message.isascii() for message in MESSAGES)
    for message in MESSAGES:
        assert message.endswith(b"\r\n")
        assert message.count(b"\r\n") == message.count(b"\n") == message.count(b"\r")
        assert b"\r\n\r\n" in message


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"Subject: a\r\n\r\nb\r\n", id="ordinary"),
        pytest.param(b"Subject: no empty line behind the header\r\n", id="header only"),
        pytest.param(b"no header at all\r\n", id="no header"),
        pytest.param(b"\r\nno header, but an empty line\r\n", id="body only"),
        pytest.param(b"\r\n", id="nearly nothing"),
        pytest.param(b"Subject: dots\r\n\r\n.\r\n..\r\n...\r\n", id="dots"),
        pytest.param(b"Subject: \xff\xfe =?utf-8?q?\r\nContent-Type: ;=\r\nTo: <<>>,;\r\n\r\n\0\xe4\r\n", id="garbage"),
        pytest.param(b"Subject: long line\r\n\r\n" + b"x" * 100_000 + b"\r\n", id="long line"),
    ],
)
async def test_what_is_sent_arrives_octet_for_octet(backends: Backends, content: bytes) -> None:
    def send_and_look() -> list[bytes]:
        with _smtp(backends) as client:
            client.login(backends.user, backends.password)
            assert client.sendmail("scanner@example.com", ["office@example.org"], content) == {}
        with _imap(backends) as imap:
            return _contents(imap, uids="*")

    assert await anyio.to_thread.run_sync(send_and_look) == [content]


async def test_uid_expunge_takes_only_what_it_names(backends: Backends) -> None:
    def expunge() -> tuple[list[bytes], list[bytes]]:
        with _imap(backends) as client:
            assert b"UIDPLUS" in client.capability()[1][0].split()
            first, second, third = _uids(client)
            client.uid("STORE", f"{first.decode()},{second.decode()}", "+FLAGS.SILENT", "(\\Deleted)")
            client.uid("EXPUNGE", second.decode())
            return _uids(client), [first, third]

    left, expected = await anyio.to_thread.run_sync(expunge)
    assert left == expected


async def test_a_wrong_password_is_refused_by_imap(backends: Backends) -> None:
    def log_in() -> None:
        with _imap(backends, password="wrong"):
            pass

    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        await anyio.to_thread.run_sync(log_in)


async def test_a_wrong_password_is_refused_by_smtp(backends: Backends) -> None:
    def log_in() -> None:
        with _smtp(backends) as client:
            client.login(backends.user, "wrong")

    with pytest.raises(smtplib.SMTPAuthenticationError):
        await anyio.to_thread.run_sync(log_in)


async def test_mail_without_a_login_is_refused(backends: Backends) -> None:
    def send() -> tuple[int, bytes]:
        with _smtp(backends) as client:
            client.ehlo()
            return client.docmd("MAIL", "FROM:<scanner@example.com>")

    code, _ = await anyio.to_thread.run_sync(send)
    assert code == 530


@pytest.mark.parametrize("leg", ["imap", "smtp"])
async def test_the_certificate_is_of_the_demos_own_ca(backends: Backends, leg: str) -> None:
    port = backends.imap_port if leg == "imap" else backends.smtp_port
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(HOST, port, ssl=ssl.create_default_context())


@pytest.mark.parametrize("leg", ["imap", "smtp"])
@pytest.mark.parametrize("handshake", [True, False], ids=["idle", "without a handshake"])
async def test_the_end_cuts_connections_that_are_open(tmp_path: Path, leg: str, handshake: bool) -> None:
    async with AsyncExitStack() as stack:
        backends = await stack.enter_async_context(running(tmp_path))
        port = backends.imap_port if leg == "imap" else backends.smtp_port
        context = ssl.create_default_context(cafile=backends.ca_file) if handshake else None
        reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
        with anyio.fail_after(_DEADLINE):
            if handshake:
                assert await reader.readline()
            await stack.aclose()
            if handshake:
                with suppress(ConnectionError):
                    await reader.read()
    writer.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)


def test_the_variables_name_both_servers(tmp_path: Path) -> None:
    backends = Backends(1993, 1465, "user", "password", tmp_path / "ca.pem")
    assert backends.variables() == {
        "BACKEND_IMAP_HOST": "127.0.0.1",
        "BACKEND_IMAP_PORT": "1993",
        "BACKEND_IMAP_USER": "user",
        "BACKEND_IMAP_PASS": "password",
        "BACKEND_IMAP_CA_FILE": str(tmp_path / "ca.pem"),
        "BACKEND_SMTP_HOST": "127.0.0.1",
        "BACKEND_SMTP_PORT": "1465",
        "BACKEND_SMTP_USER": "user",
        "BACKEND_SMTP_PASS": "password",
        "BACKEND_SMTP_CA_FILE": str(tmp_path / "ca.pem"),
    }
