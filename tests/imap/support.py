"""A maildrop and a fake IMAP server, set up to talk to each other."""

from __future__ import annotations

import atexit
import itertools
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fakes.imap import Action, Encryption, FakeIMAPServer, Mailbox
from fakes.server import Step
from legacy_email_proxy.contracts import Client, Login, MaildropSession, ReadySession, Secret
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from legacy_email_proxy_plugins.imap.pool import Accounts
from legacy_email_proxy_plugins.imap.settings import Patience
from realservers.certificates import Certificate

TESTS = Path(__file__).parents[1]
LOGGER = "legacy_email_proxy.maildrop.imap"
CLIENT = Client("192.0.2.1", "s1")
USER, PASSWORD = "alice", "p\u00e4ss w0rd 4 tests"

# Long enough for a busy machine, short enough for a test that waits for one of them.
SHORT = 0.4


_STATES = tempfile.TemporaryDirectory(prefix="imap-tests-")
atexit.register(_STATES.cleanup)
_numbers = itertools.count()


def settings(**given: Any) -> dict[str, Any]:
    """All that the plugin reads, with the product's defaults where a test does not care."""
    return {
        "STATE_DIR": Path(_STATES.name) / str(next(_numbers)),
        "STATE_URL": None,
        "SPOOL_URL": None,
        "BACKEND_IMAP_HOST": "127.0.0.1",
        "BACKEND_IMAP_PORT": 993,
        "BACKEND_IMAP_USER": USER,
        "BACKEND_IMAP_PASS": Secret(PASSWORD),
        "BACKEND_IMAP_CREDENTIALS": "password",
        "BACKEND_IMAP_USE_SSL": True,
        "BACKEND_IMAP_USE_STARTTLS": False,
        "BACKEND_IMAP_CA_FILE": None,
        "BACKEND_IMAP_FOLDER": "INBOX",
        "BACKEND_IMAP_MAX_CONNECTIONS": 10,
        "BACKEND_IMAP_DELETE": "expunge",
        "POP3_LOGIN": "any",
        "POP3_UIDL_FORMAT": "dovecot",
        "POP3_NEWEST_MESSAGES": None,
        "POP3_NEWEST_DAYS": None,
        "POP3_READ_ONLY": False,
        "POP3_HIDE_UNFETCHABLE_AFTER": None,
    } | given


def context(**given: Any) -> PluginContext:
    return PluginContext("maildrop.imap", settings(**given))


def server_tls(certificate: Certificate) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.set_ciphers("DEFAULT:@SECLEVEL=0")  # also with a key that no client should take
    tls.load_cert_chain(certificate.certificate_file, certificate.key_file)
    return tls


def patient(maildrop: IMAPMaildrop, **seconds: float) -> IMAPMaildrop:
    """The maildrop, with other times to wait than the product's."""
    maildrop._server = replace(maildrop._server, patience=Patience(**seconds))
    maildrop._accounts = Accounts(maildrop._server, maildrop._logger)
    return maildrop


def maildrop_for(port: int, ca_file: Path | None, encryption: Encryption = "implicit", **given: Any) -> IMAPMaildrop:
    return IMAPMaildrop(
        context(
            BACKEND_IMAP_PORT=port,
            BACKEND_IMAP_CA_FILE=ca_file,
            **{
                "BACKEND_IMAP_USE_SSL": encryption == "implicit",
                "BACKEND_IMAP_USE_STARTTLS": encryption == "starttls",
            }
            | given,
        )
    )


@asynccontextmanager
async def pair(
    certificate: Certificate,
    *messages: bytes,
    mailbox: Mailbox | None = None,
    accounts: Mapping[tuple[str, str], Mailbox] | None = None,
    script: Mapping[Step, Action] | None = None,
    encryption: Encryption = "implicit",
    capabilities: tuple[str, ...] = ("AUTH=PLAIN", "UIDPLUS", "ID"),
    seconds: Mapping[str, float] | None = None,
    **given: Any,
) -> AsyncIterator[tuple[IMAPMaildrop, FakeIMAPServer]]:
    """A server with one account, or `accounts`, and a maildrop that is set up for it."""
    known = accounts or {(USER, PASSWORD): mailbox or Mailbox.of(*messages)}
    async with FakeIMAPServer(
        known, tls=server_tls(certificate), encryption=encryption, script=script, capabilities=capabilities
    ) as server:
        maildrop = patient(
            maildrop_for(server.port, certificate.ca_file, encryption, **given), **{"logout": 0.3, **(seconds or {})}
        )
        try:
            yield maildrop, server
        finally:
            await maildrop.aclose()


async def read(session: ReadySession, position: int) -> bytes:
    """The whole message, asked for as POP3 does it."""
    unique_id = session.entries[position].unique_id
    octets = session.at_hand(unique_id, None)
    return b"".join([piece async for piece in session.retrieve(unique_id)]) if octets is None else octets


async def read_top(session: ReadySession, position: int, lines: int) -> bytes:
    unique_id = session.entries[position].unique_id
    octets = session.at_hand(unique_id, lines)
    return b"".join([piece async for piece in session.top(unique_id, lines)]) if octets is None else octets


async def collect(session: MaildropSession, position: int, into: bytearray) -> None:
    """As `read`, keeping what came before a failure."""
    async for piece in session.retrieve(session.entries[position].unique_id):
        into += piece


def login(user: str = USER, password: str = PASSWORD) -> Login:
    return Login(user, Secret(password))
