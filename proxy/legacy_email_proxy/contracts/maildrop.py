"""The contract of a maildrop: what POP3 opens (RFC 1939 §4).

Entry-point group ``legacy_email_proxy.maildrop``. The entry point names a class that is called with one
:class:`~legacy_email_proxy.contracts.context.Context`, in a thread without an event loop, and must not do I/O in its
constructor.

Message-numbers, deletion marks and states belong to the core. A maildrop knows only unique-ids and one commit, which is
called in the UPDATE state and never before, so a connection that breaks off deletes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from .credentials import Secret
from .failures import Finding
from .relay import Client

__all__ = ("Columns", "Entry", "Login", "Maildrop", "MaildropSession", "NamedSession", "ReadySession", "at_hand_of")


@dataclass(frozen=True, slots=True)
class Login:
    """The user and the password that a client gave. A maildrop gets one only where ``POP3_LOGIN`` says that the
    backend judges it.
    """

    user: str
    password: Secret


class Entry(NamedTuple):
    """One message: its unique-id (1–70 characters, 0x21–0x7E, never reused; RFC 1939 §7) and its octets."""

    unique_id: str
    octets: int


@runtime_checkable
class Columns(Protocol):
    """Optional methods of ``entries``: a listing of 100 000 messages then needs no :class:`Entry` for each."""

    @property
    def octets(self) -> Sequence[int]:
        """The octets of all entries, in their order."""

    def unique_ids(self, start: int, stop: int) -> Sequence[str]:
        """The unique-ids of the entries from index ``start`` up to, without, ``stop``."""


class MaildropSession(Protocol):
    """An open maildrop. ``entries`` is fixed in order and content while it is open. Calls come one at a time."""

    @property
    def entries(self) -> Sequence[Entry]:
        """The messages as they were when the maildrop was opened. May have the methods of :class:`Columns` too."""

    def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        """The whole message, in pieces of any size, as the mailbox holds it (no dot-stuffing).

        Raises :class:`MessageGone` or :class:`MessageUnavailable` for this message alone, *before* the first piece
        wherever possible: then the client reads ``-ERR``. A later exception closes the connection without the final
        ``.``, so that the client notices. An empty generator is an empty message, never a missing one. The core may
        stop early, even before the first piece, and closes the generator (``aclose``).
        """

    def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        """The header, the blank line and at least the first ``lines`` lines of the body; the core cuts the rest off."""

    async def commit(self, deleted: Collection[str]) -> None:
        """Remove exactly these messages. Called at QUIT only, at most once, never with nothing to remove.

        The core leaves out what the client asked for in this session and did not get, because :meth:`retrieve` or
        :meth:`top` raised.

        Returning means that they are gone, or were gone already. After an exception the client reads ``-ERR``; the
        same commit in a later session must be safe.
        """


class NamedSession(MaildropSession, Protocol):
    """A session that says which maildrop it is, from a plugin that opens different ones for one login.

    It is optional: the lock of ``POP3_LOCK`` goes by the user of a session without this.
    """

    @property
    def maildrop_name(self) -> str:
        """A name that no other maildrop has."""


class ReadySession(MaildropSession, Protocol):
    """A session that has some messages in memory before they are asked for. It is optional: an iteration of one piece
    takes the core a quarter of the time that it needs for a small message.
    """

    def at_hand(self, unique_id: str, lines: int | None) -> bytes | None:
        """The whole message, or with ``lines`` what :meth:`top` gives, if that is in memory; it must not wait.

        ``None``: it is not, or something is odd about it. Then :meth:`retrieve` or :meth:`top` is called. While a
        client reads a message that was at hand, the next one is asked for, though the client may never want it.
        What is raised then is told to nobody; it must be raised again when the client asks.
        """


def at_hand_of(session: MaildropSession) -> Callable[[str, int | None], bytes | None]:
    """Its :meth:`ReadySession.at_hand`; where there is no such method, nothing is ever at hand."""
    at_hand: Callable[[str, int | None], bytes | None] = getattr(session, "at_hand", _nothing_at_hand)
    return at_hand


def _nothing_at_hand(unique_id: str, lines: int | None) -> None:
    pass


class Maildrop(Protocol):
    """Opens maildrops. One instance serves all sessions of the process."""

    def open(self, client: Client, login: Login | None) -> AbstractAsyncContextManager[MaildropSession]:
        """Open the maildrop of ``login``, or the configured one when there is none; entered and left in one task.

        Raises :class:`LoginRefused` only when the client's own ``login`` was refused; the task may be cancelled at any
        await. If it is left without ``commit``, every message must stay in place.
        """

    async def probe(self) -> Sequence[Finding]:
        """Try the backend and say what is found; failures are findings, not exceptions."""

    async def aclose(self) -> None:
        """Close all connections; called once, when the process drains."""
