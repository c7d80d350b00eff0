"""A relay and a fake backend, set up to talk to each other, and a mail transaction in one call."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes.server import Step
from fakes.smtp import Action, Encryption, FakeSMTPServer
from legacy_email_proxy.contracts import Client, Parameters, Receipt, Recipient, Refused, Secret
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy_plugins.smtps import Limits, SMTPSRelay, Timeouts
from realservers.certificates import Certificate

LOGGER = "legacy_email_proxy.relay.smtps"
CLIENT = Client("192.0.2.1", "s1", "scanner")
USER, PASSWORD = "alice", "p\u00e4ss w0rd 4 tests"
SENDER, RECIPIENT = "scanner@example.test", "bob@example.test"
CONTENT = b"Subject: scan\r\n\r\n.dots\r\n..\r\n.\r\nbye\r\n"

KEYWORDS = ("SIZE 50000000", "8BITMIME", "SMTPUTF8", "AUTH PLAIN LOGIN")


@dataclass(frozen=True)
class Dialogue:
    """How a message is handed on: what the backend offers, and whether the device sends its envelope at once."""

    name: str
    keywords: tuple[str, ...]
    together: bool = False

    @property
    def chunking(self) -> bool:
        return "CHUNKING" in self.keywords


PLAIN = Dialogue("plain", KEYWORDS)
PIPELINED = Dialogue("pipelined", (*KEYWORDS, "PIPELINING"))
TOGETHER = Dialogue("together", (*KEYWORDS, "PIPELINING"), together=True)
CHUNKED = Dialogue("chunked", (*KEYWORDS, "PIPELINING", "CHUNKING"))
DIALOGUES = (PLAIN, PIPELINED, TOGETHER, CHUNKED)

# Whole ones of the blocks in which content leaves, so that all of it does before its end is known.
BLOCKS = b"0123456789abcd\r\n" * 8192 * 2

# Long enough for a busy machine, short enough for a test that waits for one of them.
SHORT = 0.3


def settings(**given: Any) -> dict[str, Any]:
    """All that the plugin reads, with the product's defaults."""
    return {
        "BACKEND_SMTP_HOST": "127.0.0.1",
        "BACKEND_SMTP_PORT": 465,
        "BACKEND_SMTP_USER": None,
        "BACKEND_SMTP_PASS": None,
        "BACKEND_SMTP_CREDENTIALS": "password",
        "BACKEND_SMTP_USE_SSL": True,
        "BACKEND_SMTP_USE_TLS": False,
        "BACKEND_SMTP_CA_FILE": None,
        "BACKEND_SMTP_MAX_CONNECTIONS": 10,
        "BACKEND_SMTP_EHLO_NAME": None,
        "BACKEND_SMTP_CHUNKING": True,
    } | given


def context(**given: Any) -> PluginContext:
    return PluginContext("relay.smtps", settings(**given))


def server_tls(certificate: Certificate) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.set_ciphers("DEFAULT:@SECLEVEL=0")  # also with a key that no client should take
    tls.load_cert_chain(certificate.certificate_file, certificate.key_file)
    return tls


def relay_to(
    port: int,
    ca_file: Path,
    *,
    encryption: Encryption = "implicit",
    user: str | None = USER,
    password: str = PASSWORD,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    **given: Any,
) -> SMTPSRelay:
    login = {"BACKEND_SMTP_USER": user, "BACKEND_SMTP_PASS": Secret(password)} if user else {}
    made = context(
        BACKEND_SMTP_PORT=port,
        BACKEND_SMTP_CA_FILE=ca_file,
        BACKEND_SMTP_USE_SSL=encryption == "implicit",
        BACKEND_SMTP_USE_TLS=encryption == "starttls",
        **(login | given),
    )
    return SMTPSRelay(made, timeouts=timeouts, limits=limits)


@asynccontextmanager
async def relaying(
    certificate: Certificate,
    script: Mapping[Step, Action] | None = None,
    *,
    encryption: Encryption = "implicit",
    server_encryption: Encryption | None = None,
    dialogue: Dialogue = PLAIN,
    keywords: tuple[str, ...] | None = None,
    keep_content: bool = True,
    **relay_arguments: Any,
) -> AsyncIterator[tuple[FakeSMTPServer, SMTPSRelay]]:
    """A backend and a relay to it. At the end no connection may be left, and no task."""
    tasks = asyncio.all_tasks()
    async with FakeSMTPServer(
        tls=server_tls(certificate),
        encryption=server_encryption or encryption,
        script=script,
        accounts={USER: PASSWORD},
        keep_content=keep_content,
        keywords=dialogue.keywords if keywords is None else keywords,
    ) as server:
        relay = relay_to(server.port, certificate.ca_file, encryption=encryption, **relay_arguments)
        try:
            yield server, relay
        finally:
            await relay.aclose()
        server.read_body.set()
        await server.until(lambda server: server.open_connections == 0)
    await asyncio.sleep(0)
    # A fixture is torn down in another task of anyio's test runner than the one that set it up.
    left = [task for task in asyncio.all_tasks() - tasks if "TestRunner." not in repr(task)]
    assert not left, left


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def deliver(
    relay: SMTPSRelay,
    *forward_paths: str,
    content: bytes | AsyncIterator[bytes] = CONTENT,
    reverse_path: str = SENDER,
    parameters: Parameters | None = None,
    dialogue: Dialogue = PLAIN,
    client: Client = CLIENT,
) -> Receipt:
    """One transaction as the core leads it: refused recipients are skipped, and without any other there is no DATA."""
    refused: Refused | None = None
    async with relay.transaction(client, reverse_path, parameters or {}) as transaction:
        accepted = 0
        recipients = [Recipient(forward_path) for forward_path in forward_paths or (RECIPIENT,)]
        if dialogue.together:
            verdicts = await transaction.add_recipients(recipients, content_follows=True)
            accepted = verdicts.count(None)
            refused = next(filter(None, verdicts), None)
        else:
            for recipient in recipients:
                try:
                    await transaction.add_recipient(recipient.forward_path, recipient.parameters)
                    accepted += 1
                except Refused as failure:
                    refused = failure
        if accepted:
            return await transaction.send(pieces(content) if isinstance(content, bytes) else content)
    assert refused is not None
    raise refused


def logged(records: list[logging.LogRecord], level: int) -> list[str]:
    return [record.getMessage() for record in records if record.levelno >= level and record.name.startswith(LOGGER)]
