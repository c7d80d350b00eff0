"""The POP3 server: admits connections, keeps the sessions apart from each other, and drains."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskGroup

from .. import log
from ..access import Admission, Refusal
from ..contracts import Client, Maildrop, SharedState
from ..listeners import accept
from ..replies import pop3_line
from .connection import Connection
from .conversation import Conversation
from .encoded import EncodedMessages
from .locks import MaildropLocks
from .options import Options
from .wire import encode_line

__all__ = ("Server",)

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
        shared: SharedState | None = None,
    ) -> None:
        self._maildrop = maildrop
        self._admission = admission
        self._options = options
        self._tls = tls
        self._locks = MaildropLocks(shared)
        self._looks = log.Looks(logger, "pop3")
        self._encoded = EncodedMessages()
        self._conversations: set[Conversation] = set()
        self._draining = False
        self._accepting: anyio.CancelScope | None = None
        self._served: anyio.Event | None = None

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return len(self._conversations)

    @property
    def accepting(self) -> bool:
        """Whether all listeners take connections, or will once :meth:`serve` has begun: one that fails ends all."""
        return self._served is None or not self._served.is_set()

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
                                take = self._taker(sessions, listener.getsockname()[1], listener in tls_listeners)
                                loops.start_soon(accept, listener, take, logger, "pop3", self._admission.balancers)
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

    def _taker(self, sessions: TaskGroup, port: int, secured: bool) -> Callable[[socket.socket, str], bytes | None]:
        def take(accepted: socket.socket, address: str) -> bytes | None:
            refusal = self._admission.admit(address)
            if refusal is not None:
                log.event(logger, logging.WARNING, "pop3 connection refused", client=address, reason=refusal.value)
                return _NOT_ALLOWED if refusal is Refusal.NOT_ALLOWED else _TOO_MANY
            try:
                client = Client(address, log.new_session("pop3"), port=port)
                conversation = self._conversation(accepted, client, secured=secured)
            except BaseException:
                self._admission.release(address)
                raise
            # Known before its task runs, so that a drain in between doesn't overlook it.
            self._conversations.add(conversation)
            sessions.start_soon(self._converse, conversation, address)
            return None

        return take

    def _conversation(self, accepted: socket.socket, client: Client, *, secured: bool) -> Conversation:
        return Conversation(
            Connection(accepted, self._options.progress_seconds),
            client,
            self._maildrop,
            self._options,
            self._locks,
            self._looks,
            self._encoded,
            tls=self._tls and self._tls(),
            secured=secured,
        )

    async def _converse(self, conversation: Conversation, address: str) -> None:
        try:
            await conversation.run()
        except Exception:
            # An exception that left this task would cancel all other sessions.
            logger.exception("pop3 session lost")
        finally:
            self._conversations.discard(conversation)
            self._admission.release(address)
