"""The contract of a relay: one mail transaction, in which the backend's verdict reaches the device while it matters.

Entry-point group ``legacy_email_proxy.relay``. The entry point names a class that is called with one
:class:`~legacy_email_proxy.contracts.context.Context`, in a thread without an event loop, and must not do I/O in its
constructor.

A relay is a transaction and not one call with a whole message, because SMTP gives a verdict for each recipient, and a
device must hear it while it still has the message. A relay that wants the whole message is a
:class:`~legacy_email_proxy.contracts.WholeMessageRelay`. A transaction is entered, used and left in one task, so a
plugin may open anyio's scopes in it.

First comes what it is about: who is speaking, from where the mail comes and where it goes (the envelope, RFC 5321
§2.3.1). Last comes the contract of a relay that keeps what it has taken: how the ``spool`` command looks into it and
acts on it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

from .failures import Failure, Finding, Refused

__all__ = (
    "NULL_REVERSE_PATH",
    "QUEUE_ACTIONS",
    "BackedUpQueue",
    "Client",
    "Message",
    "Parameters",
    "PipeliningTransaction",
    "Queue",
    "QueueAction",
    "Receipt",
    "Recipient",
    "Relay",
    "RelayCapabilities",
    "StartingRelay",
    "Transaction",
    "add_recipients",
)

NULL_REVERSE_PATH = ""
"""The reverse-path ``<>`` of notifications (RFC 5321 §4.5.5). Paths never carry angle brackets in this project."""

Parameters = Mapping[str, str | None]
"""ESMTP parameters of MAIL or RCPT: keyword in upper case → value, ``None`` where there is no ``=``."""


@dataclass(frozen=True, slots=True)
class Client:
    """The peer of one session. ``session`` is a short label that every log line of the session carries.

    ``login`` is the user whose password it proved to this proxy (SMTP AUTH), ``""`` for nobody; ``port`` is that of the
    listener to which it came, 0 where that is not known. ``spooled``: it was here earlier, and its message comes out of
    a spool now. No device waits for the reply then, so there is none that could take another one's turn.
    """

    address: str
    session: str
    helo: str = ""
    login: str = ""
    port: int = 0
    spooled: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """Returned when somebody durable has taken over the message. ``detail`` is for the log (the backend's reply).

    ``queue_id`` is under what the message is found where it is now, ``""`` for nothing that an operator could look for.
    The client reads it behind the 250, and many print that.
    """

    detail: str = ""
    queue_id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A whole mail transaction in one piece. ``content`` has CRLF line ends and no dot-stuffing."""

    client: Client
    reverse_path: str
    forward_paths: tuple[str, ...]
    content: bytes
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RelayCapabilities:
    """What may be offered to a client. No promise: each message is judged by its backend, when it comes to MAIL.

    It is what the backend said when it was last asked; of one that was not asked yet, all that the relay can pass on.
    For what is not offered, a client gives its message up for good, without asking anybody.

    ``max_octets`` is the backend's own SIZE (RFC 1870), ``None`` for "no limit known". ``smtputf8`` (RFC 6531): a
    transaction with that parameter may be opened. ``dsn`` (RFC 3461): so may the parameters of that be of use; a relay
    is given them in any case, because devices send them unasked, and leaves out what its backend doesn't take.
    """

    max_octets: int | None = None
    smtputf8: bool = False
    dsn: bool = False


@dataclass(frozen=True, slots=True)
class Recipient:
    """One RCPT: the forward-path, without brackets and never empty, and its parameters."""

    forward_path: str
    parameters: Parameters = field(default_factory=dict)


class Transaction(Protocol):
    """One mail transaction that MAIL has opened. Its methods are called one after the other, never at once."""

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        """Ask the backend for its verdict on one recipient; returning means accepted.

        Raises :class:`Refused` for this recipient alone: the transaction goes on with the others. Any other failure
        ends the transaction.
        """

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        """Hand on the content and wait for the verdict. Called at most once, with at least one accepted recipient.

        ``content`` yields octets with CRLF line ends, neither CR nor LF alone among them, and without dot-stuffing, in
        pieces of any size; they are read from the device as they are asked for. If iterating raises, the device
        vanished or its message was refused: nothing may be delivered, and the exception must pass. Returning means
        that somebody durable is responsible for *every* accepted recipient; only then does the device read 250.
        """


class PipeliningTransaction(Transaction, Protocol):
    """A transaction that also takes recipients by the group, and so saves a device that pipelines its round trips.

    It is optional: the core asks a transaction without ``add_recipients`` for one recipient after the other. Who
    inherits from this class writes ``add_recipients`` and has ``add_recipient`` from here.
    """

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        """See :meth:`Transaction.add_recipient`: a group of one."""
        (refused,) = await self.add_recipients((Recipient(forward_path, parameters),), content_follows=False)
        if refused is not None:
            raise refused

    async def add_recipients(
        self, recipients: Sequence[Recipient], *, content_follows: bool
    ) -> Sequence[Refused | None]:
        """Ask for the verdicts on recipients that arrived together: one for each, in order, ``None`` for accepted.

        ``content_follows`` tells that the device has sent DATA already: unless all are refused, :meth:`send` comes
        next, so the backend may be asked for leave to send now. Whatever is raised ends the transaction.
        """


async def add_recipients(
    transaction: Transaction, recipients: Sequence[Recipient], *, content_follows: bool
) -> Sequence[Refused | None]:
    """See :meth:`PipeliningTransaction.add_recipients`; asked one after the other where there is no such method."""
    if not recipients:
        return ()
    if hasattr(transaction, "add_recipients"):
        together = cast(PipeliningTransaction, transaction)
        given = await together.add_recipients(recipients, content_follows=content_follows)
        if len(given) != len(recipients):
            raise Failure("the relay plugin gave another number of verdicts than there were recipients")
        return given
    verdicts: list[Refused | None] = []
    for recipient in recipients:
        try:
            await transaction.add_recipient(recipient.forward_path, recipient.parameters)
        except Refused as refused:
            verdicts.append(refused)
        else:
            verdicts.append(None)
    return verdicts


class Relay(Protocol):
    """Passes mail transactions on. One instance serves all sessions of the process."""

    def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction; entered at MAIL, left when it is over, for whatever reason, in the same task.

        Entering may raise any failure; a :class:`Refused` then is the verdict on the reverse-path, and a relay may
        also leave that verdict to the first ``add_recipient``. Leaving without ``send`` having returned must leave
        nothing delivered. The task may be cancelled at any await until the content has ended; after that the core
        lets ``send`` finish, so it must bound its own time; only the end of a drain (DRAIN_SECONDS) cancels it still.
        """

    def capabilities(self) -> RelayCapabilities:
        """What may be offered in EHLO. Answers from memory: it is called for every EHLO and must not wait."""

    async def probe(self) -> Sequence[Finding]:
        """Try the backend without sending anything and say what is found; failures are findings, not exceptions."""

    async def aclose(self) -> None:
        """Let go of all connections; called once, when the process drains."""


class StartingRelay(Relay, Protocol):
    """A relay that has something to do also while no device speaks. It is optional."""

    async def start(self) -> None:
        """Called once, in the event loop, before the first device is served by it, and not at all by ``check``.

        When the settings are read anew, that is while its predecessor is still at work, which is closed later. Raises
        :class:`SettingsMistake` when it can't work; the service then doesn't start, or goes on with the predecessor.
        """


QueueAction = Literal["list", "show", "retry", "hold", "release", "drop", "export", "migrate"]
QUEUE_ACTIONS: tuple[str, ...] = get_args(QueueAction)


class Queue(Protocol):
    """What a relay is besides, when it can be administered. It is optional."""

    @property
    def queue_name(self) -> str:
        """Which queue it is; the relays of several accounts may have one in common."""

    def administer(
        self, action: QueueAction, numbers: Sequence[int]
    ) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
        """Do ``action`` with the messages of these numbers (``list``: with all), wherever the queue is held.

        That may be another process, which has it open; the relay itself is not started. Gives what JSON can hold about
        each message, its ``account`` among that, and of ``export`` the octets of one in pieces. Messages of all
        accounts that have the queue in common are meant. ``migrate`` is about no message: it brings up to date what
        the queue is held in, and gives its ``version``. Raises :class:`Failure` in plain words.
        """


class BackedUpQueue(Queue, Protocol):
    """A queue of which a copy can be made while it is in use. It is optional, too.

    Both give what JSON can hold: the ``folder``, how many ``messages`` there are, and the numbers of those whose
    content is ``missing``; and as ``aside`` under which name that is kept, if any, which was in the way of a restored
    one. Both raise :class:`Failure` in plain words, also where other tools have to be used.
    """

    async def back_up(self, folder: Path) -> Mapping[str, Any]:
        """Copy all of it, as it is at one moment, into an empty folder, or one to be made; its path is absolute."""

    async def restore(self, folder: Path) -> Mapping[str, Any]:
        """Take over what :meth:`back_up` has written there. Nobody may have the queue open, and it has to be empty."""
