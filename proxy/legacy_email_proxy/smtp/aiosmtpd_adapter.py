"""What we use of aiosmtpd: the subclass of its ``SMTP`` that stands between asyncio and our own connection.

Used as it is: one protocol object and one task for each connection, ``Session`` and ``Envelope``, and the way in which
a handler's hooks are called, so that an aiosmtpd handler works here.

Replaced, because each would lose a device's mail, or let one device disturb the others:

* its reader: commands and content come out of one buffer (:mod:`.buffer`), without copying each octet three times;
* its answer to a half-close, which is to cancel the handler: a client like ``nc < file`` still waits for its replies;
* its answer to a lost connection, which is the same: a message whose content has ended must be delivered all the same;
* its timer, which ends a long DATA and a session that waits for a slow backend: the deadlines are in :mod:`.buffer` and
  :mod:`.reading`;
* its command loop and all its commands: :mod:`.connection` and :mod:`.session`;
* its constructor, which asks a resolver for our own name and shares limits between connections.

Pinned to aiosmtpd 1.4.x by a test that names all attributes used here.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from ..log import new_session
from .buffer import Incoming

__all__ = ("LabelledSession", "SMTPProtocol")


class LabelledSession(Session):
    """aiosmtpd's session with what the log needs: a label, the octets of each message relayed, TLS version and user."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.label = new_session("smtp")
        self.relayed: list[int] = []
        self.tls = self.user = ""


@functools.cache
def _hooks_of(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("handle_"))


class SMTPProtocol(SMTP):
    """The protocol object of one connection. ``on_connected`` is called when it has its transport, then ``serve`` runs
    in the connection's task, and ``on_end`` is called when that task is over. ``before_waiting`` is called whenever
    the device has to speak next.
    """

    session: LabelledSession
    envelope: Envelope
    transport: asyncio.Transport | None
    incoming: Incoming
    """What has arrived; there is one from ``on_connected`` on."""

    def __init__(
        self,
        handler: Any,
        hostname: str,
        max_octets: int,
        *,
        on_connected: Callable[[], None],
        serve: Callable[[], Coroutine[Any, Any, None]],
        before_waiting: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        # Not aiosmtpd's constructor: it looks through all members of this object and of the handler, which takes
        # longer than all the commands of a message.
        self.loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=self.loop)
        asyncio.StreamReaderProtocol.__init__(self, reader, self._cb_client_connected, self.loop)
        self.event_handler = handler
        self.data_size_limit = max_octets
        self.hostname = hostname
        self.__ident__ = "Legacy Email Proxy"
        self._handle_hooks = {name[7:]: getattr(handler, name) for name in _hooks_of(type(handler))}  # type: ignore[arg-type]
        self.transport = self._handler_coroutine = self._original_transport = None
        self._on_connected = on_connected
        self._serve = serve
        self._before_waiting = before_waiting
        self._on_end = on_end
        self.committed = False
        """While this is set the device has handed over its message: a client that leaves does not cancel the task."""
        self.device = ""
        """The address of the client, where a balancer may be at the other end of the connection."""

    # ------------------------------------------------------------------------------------------- aiosmtpd's life cycle

    def _create_session(self) -> LabelledSession:
        return LabelledSession(self.loop)

    def _reset_timeout(self, duration: float | None = None) -> None:
        """No timer: see above."""

    def _handle_client(self) -> Coroutine[Any, Any, None]:
        return self._serve()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.device and (self.session.peer or ("",))[0] != self.device:
            # Everybody who asks for the peer means the device.
            self.session.peer = (self.device, 0)  # type: ignore[assignment] # aiosmtpd says text, and means an address
        self.incoming = Incoming(self.writer.transport, self._before_waiting)  # type: ignore[arg-type]
        assert self._handler_coroutine is not None  # noqa: S101 (for the type checker: super made it)
        self._handler_coroutine.add_done_callback(lambda _: self._on_end())
        self._on_connected()

    def data_received(self, octets: bytes) -> None:
        """Take what has arrived."""
        self.incoming.feed(octets)

    def eof_received(self) -> bool | None:
        """The client sends nothing more, but it still waits for the replies to what it has sent."""
        self.incoming.end()
        return asyncio.StreamReaderProtocol.eof_received(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Stop the transaction of a client that left, unless its content has ended."""
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        # asyncio does this in the protocol's __del__. That is too late where the garbage collector finds both at once
        # and finalises the future first: the log then has a traceback for a client that reset its connection.
        if not self._closed.cancelled():  # type: ignore[attr-defined]
            self._closed.exception()  # type: ignore[attr-defined]
        self.transport = None
        self.incoming.end()
        if not self.committed:
            self.cancel()

    # ------------------------------------------------------------------------------------------- for our own connection

    @property
    def writer(self) -> asyncio.StreamWriter:
        """Where octets for the device go."""
        return self._writer

    def cancel(self) -> None:
        """Cancel the connection's task."""
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    def hook(self, name: str, *arguments: object) -> Awaitable[Any]:
        """What the handler's hook of that name returns."""
        # As aiosmtpd's _call_handler_hook does it, which is one more coroutine for each reply to go through.
        answer: Awaitable[Any] = self._handle_hooks[name](self, self.session, self.envelope, *arguments)
        return answer

    def new_envelope(self) -> None:
        """Forget sender, recipients and content."""
        self.envelope = self._create_envelope()

    def secured(self, transport: asyncio.Transport) -> None:
        """Speak through ``transport``, which is TLS, from here on. aiosmtpd's handlers look at ``session.ssl``."""
        self.transport = self._writer._transport = transport  # type: ignore[attr-defined]
        self.incoming.settle(transport)
        self.session.ssl = {"ssl_object": transport.get_extra_info("ssl_object")}
        self.session.tls = self.session.ssl["ssl_object"].version()

    def expect_tls(self) -> None:
        """Forget what came in the clear. Under TLS there is no half-close: asyncio must not keep one open."""
        self.incoming.leave()
        self._over_ssl = True
