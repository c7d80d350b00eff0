"""One client from the greeting to the close: moves octets between the connection, the session and the maildrop.

The session decides what is valid and what is replied; this module does the waiting, keeps the deadlines, and opens and
closes things in the right order. One task runs it all, because a maildrop must be entered and left in one task.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, suppress
from typing import TypeAlias, assert_never

import anyio
import anyio.lowlevel

from .. import advice, log
from ..contracts import BOUND, Client, Failure, Login, LoginRefused, Maildrop, MaildropSession, at_hand_of, bound
from ..replies import printable
from ..tls import HandshakeFailed, HungUp
from .commands import State
from .connection import Connection, Stalled
from .encoded import MAX_PIECE_OCTETS, EncodedMessages
from .locks import MaildropLocks
from .options import Options
from .requests import Close, Commit, Event, NeedData, Open, Reply, Retrieve, StartTLS, Verdict
from .session import SPOKE_HTTP, SPOKE_TLS, Session

__all__ = ("DRAIN_PAUSE_SECONDS", "SESSION_SECONDS", "Conversation")

DRAIN_PAUSE_SECONDS = 2.0
"""While the process drains, a session that gives no command for this long is closed."""

SESSION_SECONDS = 3600.0
"""A session that asks for no message for this long is closed like an idle one: with a NOOP now and then it could hold
its connection, and with ``POP3_LOCK`` its maildrop, forever."""

_COMMANDS_IN_A_ROW = 16
"""How many pipelined commands of one client are carried out before other clients get their turn."""

_HELD_OCTETS = 16384
"""Replies and small pieces of a message are collected up to this size and sent together."""

_SLICE_OCTETS = 262144
"""A piece of a message is encoded in slices of this size: encoding makes copies."""

AtHand: TypeAlias = Callable[[str, int | None], bytes | None]

_NOTHING_AHEAD: tuple[str, bytes | None] = ("", None)  # No unique-id is empty.

logger = logging.getLogger("legacy_email_proxy.pop3")

_ADVICE = {SPOKE_TLS: advice.POP3_SPOKE_TLS, SPOKE_HTTP: advice.POP3_SPOKE_HTTP}


_RECENT = "recent:"
"""With Gmail's POP3 a user name with this prefix gets the mail of the last 30 days. Old mail programs still have it in
their settings, and no IMAP server knows it."""


class Conversation:
    """Runs one session. ``tls`` is what STLS uses, or, with ``secured``, what the connection begins with."""

    def __init__(
        self,
        connection: Connection,
        client: Client,
        maildrop: Maildrop,
        options: Options,
        locks: MaildropLocks,
        looks: log.Looks,
        encoded: EncodedMessages,
        *,
        tls: ssl.SSLContext | None = None,
        secured: bool = False,
    ) -> None:
        self._connection = connection
        self._client = client
        self._maildrop = maildrop
        self._options = options
        self._locks = locks
        self._looks = looks
        self._tls = tls
        self._secured = secured
        self._tls_version = ""
        self._tried_to_log_in = False
        self._opened: dict[str, object] = {}
        """What the log says of the maildrop, once it is open."""
        self._encoded = encoded
        self._session = Session(options, secured=secured, encoded=encoded)
        # The clock of anyio too, which would first look up the loop: that takes longer than all else at a command.
        self._time = asyncio.get_running_loop().time
        self._ahead = _NOTHING_AHEAD
        """The message that is asked for next, if the client goes on in a row and it was at hand."""
        self._scope = anyio.CancelScope()
        self._outgoing: list[bytes] = []
        self._outgoing_octets = 0
        self._commands_seen = -1
        self._commands_at_turn = self._commands_told = 0
        self._messages_seen = -1
        self._idle_since = self._message_since = 0.0
        self._session_seconds = max(SESSION_SECONDS, options.idle_seconds)
        self._drain_deadline = math.inf

    async def run(self) -> None:
        """Run the session to its end. Raises nothing but a cancellation that comes from outside."""
        with bound(session=self._client.session, client=self._client.address), self._encoded.client():
            try:
                with self._scope:
                    await self._guarded()
                if self._scope.cancelled_caught:
                    self._session.end(Verdict.DRAINED)
            finally:
                self._connection.close()
                self._log_end()

    def drain(self) -> None:
        """End soon: before the login at once, after it as soon as the client pauses."""
        if self._session.state is State.AUTHORIZATION:
            self.cancel()
            return
        self._drain_deadline = self._time() + DRAIN_PAUSE_SECONDS
        self._connection.hurry(self._drain_deadline)

    def cancel(self) -> None:
        """End at once, wherever it is."""
        self._scope.cancel()

    async def _guarded(self) -> None:
        try:
            if self._secured:
                await self._start_tls()
            await self._talk()
        except HandshakeFailed as failure:
            verdict = Verdict.DROPPED if isinstance(failure, HungUp) else Verdict.REFUSED
            self._session.end(verdict, f"no TLS: {failure}")
        except Stalled:
            self._session.end(Verdict.IDLE, "the client reads too slowly or not at all")
            self._connection.reset()
        except BaseException as error:
            # Whatever a plugin raises, even a CancelledError of its own, would otherwise end all other sessions too.
            if _must_pass(error):
                raise
            self._log_failure("pop3 session broke off", error)
            self._session.crashed(error)
            await self._reply_and_close()

    async def _start_tls(self) -> None:
        if self._tls is None:
            raise TypeError("there is no certificate")
        self._tls_version = await self._connection.start_tls(self._tls)

    async def _talk(self) -> None:
        while not isinstance(request := await self._next_request(), Close):
            if isinstance(request, StartTLS):
                await self._connection.send(request.octets)
                await self._start_tls()
                self._session.tls_started()
                continue
            if not isinstance(request, Open):
                raise TypeError(f"{type(request).__name__} before the login")
            async with AsyncExitStack() as stack:
                maildrop = await self._open(stack, request)
                if maildrop is not None:
                    await self._transaction(maildrop)
        # Only after the maildrop was left: a client that reconnects at our last reply must find it unlocked.
        await self._reply_and_close()

    async def _transaction(self, maildrop: MaildropSession) -> None:
        at_hand = at_hand_of(maildrop)
        while True:
            request = await self._next_request()
            match request:
                case Retrieve():
                    await self._retrieve(maildrop, at_hand, request)
                case Commit():
                    await self._commit(maildrop, request)
                case Close():
                    return
                case Open() | StartTLS():
                    raise TypeError("a second login")
                case _:
                    assert_never(request)

    async def _next_request(self) -> StartTLS | Open | Retrieve | Commit | Close:
        session = self._session
        while True:
            event = session.next_event()
            if logger.isEnabledFor(logging.DEBUG):
                self._log_dialogue(event)
            if session.refused is not None:
                self._log_refusal(*session.refused)
                session.refused = None
            if isinstance(event, NeedData):
                if self._outgoing:
                    await self._connection.send(self._collected())
                await self._receive()
            elif isinstance(event, Reply):
                if self._put(event.octets):
                    await self._connection.send(self._collected())
                if session.tally.commands - self._commands_at_turn >= _COMMANDS_IN_A_ROW:
                    self._commands_at_turn = session.tally.commands
                    await anyio.lowlevel.checkpoint()
            else:
                if self._outgoing and not isinstance(event, Close):
                    await self._connection.send(self._collected())
                return event

    # Requests

    async def _open(self, stack: AsyncExitStack, request: Open) -> MaildropSession | None:
        login = None
        self._tried_to_log_in = True
        if self._options.ask_backend:
            login = Login(request.user.removeprefix(_RECENT), request.password)
        try:
            opened = await stack.enter_async_context(self._maildrop.open(self._client, login))
            if self._options.lock:
                # Not before the login: the lock would tell a stranger that this user is connected.
                name = getattr(opened, "maildrop_name", login.user if login else "")
                await stack.enter_async_context(self._locks.hold(name))
        except Failure as failure:
            self._log_failure("pop3 login failed", failure)
            if isinstance(failure, LoginRefused):
                await anyio.sleep(self._options.login_delay_seconds)
            self._session.open_failed(failure)
            return None
        self._session.opened(opened.entries)
        self._opened["messages"] = len(opened.entries)
        if account := (BOUND.get() or {}).get("account"):
            # When the line about the end is written, the account is bound no longer.
            self._opened["account"] = account
        return opened

    async def _retrieve(self, maildrop: MaildropSession, at_hand: AtHand, request: Retrieve) -> None:
        unique_id, octets = _NOTHING_AHEAD
        # Kept over a TOP: many clients read the header of each message first.
        if request.lines is None:
            (unique_id, octets), self._ahead = self._ahead, _NOTHING_AHEAD
        try:
            if unique_id != request.unique_id:
                octets = at_hand(request.unique_id, request.lines)
            if octets is not None:
                await self._send_piece(octets)
            elif request.lines is None:
                await self._send_pieces(maildrop.retrieve(request.unique_id))
            else:
                await self._send_pieces(maildrop.top(request.unique_id, request.lines))
            if not self._connection.send_failed:
                self._put(self._session.message_end())
                await self._connection.send(self._collected())
                if logger.isEnabledFor(logging.DEBUG):
                    log.dialogue(logger, "S", "+OK, and the message")
                if octets is not None and request.lines is None and not self._connection.send_failed:
                    self._look_ahead(at_hand, request.message_number)
        except Failure as failure:
            self._log_failure("pop3 message failed", failure, unique_id=printable(request.unique_id))
            self._session.message_failed(failure)
        if self._connection.send_failed:
            # The client did not get the message, so a DELE and QUIT that it pipelined must not be carried out.
            self._session.end(Verdict.DROPPED)

    def _look_ahead(self, at_hand: AtHand, message_number: int) -> None:
        """Make the next message ready while the client reads this one: most clients ask for one after the other.

        Where there are several clients, the process has their commands to carry out meanwhile.
        """
        if self._encoded.in_use:
            return
        entry = self._session.following(message_number)
        # A session may pause for long with what it holds here.
        if entry is None or entry.octets > MAX_PIECE_OCTETS:
            return
        # What it raises it raises again when the client asks; this message was sent.
        with suppress(Exception):
            octets = at_hand(entry.unique_id, None)
            if octets is not None:
                self._ahead = entry.unique_id, octets
                self._session.prepare(octets)

    async def _send_pieces(self, pieces: AsyncGenerator[bytes, None]) -> None:
        try:
            async for piece in pieces:
                await self._send_piece(piece)
                if self._connection.send_failed or self._session.enough:
                    break
        finally:
            # In any case, since the generator may hold a connection to the backend.
            await pieces.aclose()

    async def _send_piece(self, piece: bytes) -> None:
        if logger.isEnabledFor(log.CONTENT):
            log.octets(logger, log.CONTENT, "content", piece)
        for start in range(0, len(piece) or 1, _SLICE_OCTETS):
            if self._put(self._session.message_piece(piece[start : start + _SLICE_OCTETS])):
                await self._connection.send(self._collected())

    async def _commit(self, maildrop: MaildropSession, request: Commit) -> None:
        try:
            await maildrop.commit(request.unique_ids)
        except Failure as failure:
            self._log_failure("pop3 deletion failed", failure, messages=len(request.unique_ids))
            self._session.commit_failed(failure)
        else:
            self._session.committed()

    # Octets

    def _put(self, octets: bytes) -> bool:
        """Collect ``octets``. Returns whether what is collected must be sent now."""
        self._outgoing.append(octets)
        self._outgoing_octets += len(octets)
        return self._outgoing_octets >= _HELD_OCTETS

    def _collected(self) -> bytes:
        octets = b"".join(self._outgoing)
        self._outgoing.clear()
        self._outgoing_octets = 0
        return octets

    async def _receive(self) -> None:
        tally = self._session.tally
        messages = tally.retrieved + tally.top + tally.failed
        # Only a whole command restarts the autologout timer, not octets alone (RFC 1939 §3).
        if tally.commands != self._commands_seen:
            now = self._time()
            self._commands_seen = tally.commands
            self._idle_since = now
            if self._drain_deadline < math.inf:
                self._drain_deadline = now + DRAIN_PAUSE_SECONDS
            if messages != self._messages_seen:
                self._messages_seen = messages
                self._message_since = now
        session_end = self._message_since + self._session_seconds
        deadline = min(self._idle_since + self._options.idle_seconds, self._drain_deadline, session_end)
        try:
            octets = await self._connection.receive(deadline)
        except TimeoutError:
            reason = "asked for no message in all that time" if deadline == session_end else ""
            self._session.end(Verdict.IDLE if self._drain_deadline == math.inf else Verdict.DRAINED, reason)
        else:
            self._session.receive_data(octets)

    async def _reply_and_close(self) -> None:
        try:
            close = await self._next_request()
            if self._outgoing:
                await self._connection.send(self._collected())
        except Stalled:
            self._connection.reset()
            return
        # An autologout has no last reply that could be lost.
        if not isinstance(close, Close) or close.verdict not in (Verdict.IDLE, Verdict.DRAINED):
            await self._connection.close_gently()

    # Log

    def _log_dialogue(self, event: Event) -> None:
        if self._session.tally.commands != self._commands_told:
            self._commands_told = self._session.tally.commands
            log.dialogue(logger, "C", self._session.command)
        if isinstance(event, Reply):
            log.octets(logger, logging.DEBUG, "S", event.octets)

    def _log_failure(self, words: str, error: BaseException, **facts: object) -> None:
        change = advice.for_failure(error)
        log.failure(logger, words, error, **self._facts(), **facts, **({"advice": change} if change else {}))

    def _log_refusal(self, command: str, reply: str) -> None:
        facts = {**self._facts(), "command": command, "reply": reply}
        log.event(logger, logging.INFO, "pop3 command refused", **facts)

    def _log_end(self) -> None:
        tally = self._session.tally
        close = self._session.verdict or Close(Verdict.DRAINED)
        facts = {
            **self._opened,
            "retrieved": tally.retrieved,
            "top": tally.top,
            "failed": tally.failed,
            "deleted": tally.deleted,
            "octets": tally.octets,
            "verdict": close.verdict.value,
        }
        if tally.withheld:
            facts["withheld"] = tally.withheld
        if self._tls_version:
            facts["tls"] = self._tls_version
        if close.reason:
            facts["reason"] = close.reason
        if change := _ADVICE.get(close.reason):
            facts["advice"] = change
        # With LOG_LEVEL=warning an operator still sees devices that speak another protocol or repeat errors.
        unusual = close.verdict in (Verdict.REFUSED, Verdict.ERRORS) or tally.withheld
        level = logging.WARNING if unusual else logging.INFO
        silent = not tally.commands or (close.reason.startswith("no TLS") and not self._tried_to_log_in)
        if close.verdict is Verdict.DROPPED and silent:
            # A client that only tests whether the port is open, as a health check does all day.
            level = logging.DEBUG
            self._looks.count(self._client.address)
        log.event(logger, level, "pop3 session ended", **self._facts(), **facts)

    def _facts(self) -> dict[str, object]:
        return {} if self._session.user is None else {"user": printable(self._session.user)}


def _must_pass(error: BaseException) -> bool:
    """Whether the exception ends this task from outside, so that it must not be caught."""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        return True
    cancelled = isinstance(error, anyio.get_cancelled_exc_class())
    return cancelled and anyio.current_effective_deadline() == -math.inf
