"""The demo's mailbox: pymap's in-memory backend with one user, and how a message gets into it."""

from __future__ import annotations

import asyncio
import ssl
from argparse import Namespace
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from proxyprotocol.sock import SocketInfoLocal
from pymap.backend.dict import Config, Login
from pymap.concurrent import Subsystem
from pymap.imap import IMAPServer
from pymap.parsing.message import AppendMessage
from pymap.parsing.specials import FetchRequirement
from pymap.user import UserMetadata
from pysasl.hashing import Cleartext

__all__ = ("Mailbox",)


class _Config(Config):
    @property
    def greeting(self) -> bytes:
        # pymap's own greeting asks a resolver for this machine's name, at every connection.
        return b"The demo's IMAP server is ready"


class Mailbox:
    """One user's INBOX; everything is gone with the process."""

    def __init__(self, user: str, password: str, tls: ssl.SSLContext) -> None:
        self._user = user
        self._password = password
        self._config = _Config(
            Namespace(passlib_cfg=None, proxy_protocol=None),
            host=None,
            port=0,
            demo_data=False,
            demo_user=user,
            demo_password=password,
            # The listener speaks TLS from the first octet: pymap has no STARTTLS to offer and allows a login at once.
            ssl_context=tls,
            tls_enabled=False,
            hash_context=Cleartext(),
            cpu_subsystem=Subsystem.for_asyncio(),
        )
        self._login = Login(self._config)
        self._serve = IMAPServer(self._login, self._config)

    async def create(self) -> None:
        """Make the user known; nobody can log in before."""
        await self._login.demo_user_identity.set(UserMetadata(self._config, self._user, password=self._password))

    async def deliver(self, content: bytes) -> None:
        """Put a message into INBOX, octet for octet."""
        async with self._login.demo_user_identity.new_session() as session:
            inbox = await session.mailbox_set.get_mailbox("INBOX")
            message = await inbox.append(AppendMessage(content, datetime.now(UTC), frozenset()), recent=True)
            loaded = await message.load_content(FetchRequirement.CONTENT)
        if bytes(loaded) != content:
            # pymap cuts the last octet off a message that has no empty line behind its header.
            loaded.content._raw = memoryview(content)
            loaded.content.body._raw = memoryview(b"")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak IMAP on one connection until it ends."""
        async with AsyncExitStack() as leaving:
            leaving.callback(writer.close)
            await self._serve(reader, writer, SocketInfoLocal(writer))
