"""The POP3 server: accepts connections, keeps the sessions apart from each other, and drains.

The accept loop is our own because ``listener.serve()`` ends, with every session, when the process is out of file
descriptors for a moment.
"""

from __future__ import annotations

import logging
import secrets
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio
from anyio.abc import TaskGroup

from .. import log
from ..access import Admission, Refusal
from ..contracts import Client, Maildrop
from ..replies import pop3_line
from .connection import Connection
from .conversation import Conversation, MaildropLocks
from .options import Options
from .wire import encode_line

__all__ = ("ACCEPT_PAUSE_SECONDS", "Server")

ACCEPT_PAUSE_SECONDS = 0.2
"""How long to wait after accept() failed; most of its failures mean that the process or the system is full."""

_LOG_PAUSE_SECONDS = 10.0
"""A failing accept() is logged at most this often."""

_NOT_ALLOWED = encode_line(pop3_line("your address may not use this server", code="SYS/PERM"))
_TOO_MANY = encode_line(pop3_line("too many connections", code="SYS/TEMP"))

logger = logging.getLogger("legacy_email_proxy.pop3")


class Server:
    """Serves one maildrop plugin on any number of listening sockets; ``tls`` gives each connection what it shows, where
    there is a certificate.
    """

    def __init__(
        self,
        maildrop: Maildrop,
        admission: Admission,
        options: Options,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._maildrop = maildrop
        self._admission = admission
        self._options = options
        self._tls = tls
        self._locks = MaildropLocks()
        self._conversations: set[Conversation] = set()
        self._draining = False
        self._accepting: anyio.CancelScope | None = None
        self._served: anyio.Event | None = None
        self._accept_logged = -_LOG_PAUSE_SECONDS

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return len(self._conversations)

    async def serve(self, listeners: Sequence[socket.socket], tls_listeners: Sequence[socket.socket] = ()) -> None:
        """Serve until :meth:`drain` has done its work. Takes bound, listening sockets and closes them; called once.

        On ``tls_listeners`` TLS begins with the first octet (RFC 8314 §3.3).
        """
        self._accepting = anyio.CancelScope()
        self._served = anyio.Event()
        if self._draining:
            self._accepting.cancel()
        try:
            async with anyio.create_task_group() as sessions:
                try:
                    with self._accepting:
                        async with anyio.create_task_group() as loops:
                            for listener in (*listeners, *tls_listeners):
                                listener.setblocking(False)
                                loops.start_soon(self._accept, listener, sessions, listener in tls_listeners)
                finally:
                    # An open listener would go on taking connections that nobody serves.
                    for listener in (*listeners, *tls_listeners):
                        listener.close()
        finally:
            self._served.set()

    async def drain(self, grace_seconds: float) -> None:
        """Stop accepting, let sessions finish for so long, then cut off the rest. Returns when all have ended.

        It may be called again, with less patience, while it runs; called before :meth:`serve`, that returns at once.
        """
        self._draining = True
        if self._accepting is None or self._served is None:
            return
        self._accepting.cancel()
        for conversation in tuple(self._conversations):
            conversation.drain()
        with anyio.move_on_after(grace_seconds):
            await self._served.wait()
        for conversation in tuple(self._conversations):
            conversation.cancel()
        await self._served.wait()

    async def _accept(self, listener: socket.socket, sessions: TaskGroup, secured: bool) -> None:
        while True:
            await anyio.wait_readable(listener)
            try:
                accepted, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                self._log_accept(error)
                await anyio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            address = str(peer[0])
            refusal = self._admission.admit(address)
            if refusal is None:
                # Known before its task runs, so that a drain in between doesn't overlook it.
                client = Client(address, secrets.token_hex(4), port=listener.getsockname()[1])
                conversation = self._conversation(accepted, client, secured=secured)
                self._conversations.add(conversation)
                sessions.start_soon(self._converse, conversation, address)
            else:
                self._refuse(accepted, address, refusal)

    def _refuse(self, accepted: socket.socket, address: str, refusal: Refusal) -> None:
        log.event(logger, logging.WARNING, "pop3 connection refused", client=address, reason=refusal.value)
        # Without a task and without waiting: who is refused must not cost anything. A fresh socket has room for a line.
        with accepted, suppress(OSError):
            accepted.setblocking(False)
            accepted.send(_NOT_ALLOWED if refusal is Refusal.NOT_ALLOWED else _TOO_MANY)

    def _conversation(self, accepted: socket.socket, client: Client, *, secured: bool) -> Conversation:
        return Conversation(
            Connection(accepted, self._options.progress_seconds),
            client,
            self._maildrop,
            self._options,
            self._locks,
            tls=self._tls and self._tls(),
            secured=secured,
        )

    async def _converse(self, conversation: Conversation, address: str) -> None:
        try:
            await conversation.run()
        except Exception:
            # Even a failure to deal with a failure stays with its session: out of here it would cancel all others.
            logger.exception("pop3 session lost")
        finally:
            self._conversations.discard(conversation)
            self._admission.release(address)

    def _log_accept(self, error: OSError) -> None:
        now = anyio.current_time()
        if now - self._accept_logged >= _LOG_PAUSE_SECONDS:
            self._accept_logged = now
            log.event(logger, logging.ERROR, "pop3 accept failed", cause=str(error), retry_seconds=ACCEPT_PAUSE_SECONDS)
