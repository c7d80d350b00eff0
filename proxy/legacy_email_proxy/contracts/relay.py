"""The contract of a relay: it takes a mail transaction step by step, so that the device hears each verdict in time.

Entry-point group ``legacy_email_proxy.relay``. The entry point names a class that is called with one
:class:`~legacy_email_proxy.contracts.context.Context`, in a thread without an event loop, and must not do I/O in its
constructor.

A relay is a transaction and not one call with a whole message, because SMTP gives a verdict for each recipient, and a
device must hear it while it still has the message. A relay that wants the whole message is a
:class:`~legacy_email_proxy.contracts.WholeMessageRelay`. A transaction is entered, used and left in one task, so a
plugin may open anyio's scopes in it.

The module begins with the client and the envelope (RFC 5321 §2.3.1). It ends with the contract of a relay that keeps
mail: how the ``spool`` command lists its messages and acts on them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from .credentials import Secret
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
    "QueueFilter",
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
    listener to which it came, 0 where that is not known. ``spooled``: the message comes out of a spool and no device
    waits for the reply, so a limit for each client address does not apply.
    """

    address: str
    session: str
    helo: str = ""
    login: str = ""
    port: int = 0
    spooled: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """Says that the backend, or durable storage, is responsible for the message now.

    ``detail`` is for the log (the backend's reply). ``queue_id`` is the message's name in the queue where it is now,
    ``""`` if it has none. The device reads it after the 250, and many devices print it. ``spooled``: it is stored here,
    and the backend gets it later.
    """

    detail: str = ""
    queue_id: str = ""
    spooled: bool = False


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
    """What EHLO may offer to a client. It is no promise: the backend judges each message at MAIL.

    It is what the backend announced last; before the backend was first asked, it is all that the relay can pass on.
    Offering too little loses mail: a client that needs more gives up its message for good.

    ``max_octets`` is the backend's own SIZE (RFC 1870), ``None`` for "no limit known". ``smtputf8`` (RFC 6531): a
    transaction with that parameter may be opened. ``dsn`` (RFC 3461): the parameters for delivery notifications are of
    use. A relay is given them in any case, because devices send them unasked, and leaves out those that its backend
    does not take.
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
        vanished or its message was refused: deliver nothing and let the exception through. Returning means that the
        backend, or durable storage, is responsible for *every* accepted recipient; only then does the device read 250.
        """


class PipeliningTransaction(Transaction, Protocol):
    """A transaction that also takes several recipients at once, which saves a pipelining device the round trips.

    It is optional: a transaction without ``add_recipients`` is asked for one recipient after the other. A subclass
    writes ``add_recipients`` and inherits ``add_recipient``.
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

        ``content_follows``: the device has sent DATA already. Unless all are refused, :meth:`send` comes next, so DATA
        may be sent to the backend together with these recipients. Whatever is raised ends the transaction.
        """


async def add_recipients(
    transaction: Transaction, recipients: Sequence[Recipient], *, content_follows: bool
) -> Sequence[Refused | None]:
    """See :meth:`PipeliningTransaction.add_recipients`; asked one after the other where there is no such method."""
    if not recipients:
        return ()
    together = getattr(transaction, "add_recipients", None)
    if together is not None:
        given: Sequence[Refused | None] = await together(recipients, content_follows=content_follows)
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
        also leave that verdict to the first ``add_recipient``. If ``send`` has not returned when the transaction is
        left, nothing may be delivered. The task may be cancelled at any await until the content has ended. After that
        only the end of a drain (DRAIN_SECONDS) cancels ``send``, so it must limit its own time.
        """

    def capabilities(self) -> RelayCapabilities:
        """What EHLO may offer. It is called for every EHLO, so it must answer from memory, without waiting."""

    async def probe(self) -> Sequence[Finding]:
        """Try the backend without sending anything and say what is found; failures are findings, not exceptions."""

    async def aclose(self) -> None:
        """Close all connections; called once, when the process drains."""


class StartingRelay(Relay, Protocol):
    """A relay that also works while no device is connected. It is optional."""

    async def start(self) -> None:
        """Called once, in the event loop, before it serves the first device; ``check`` does not call it.

        At a reload the relay that it replaces is still working then, and is closed later. Raises
        :class:`SettingsMistake` when it can't work: the service then doesn't start, or goes on with the former relay.
        """


QueueAction = Literal["show", "retry", "hold", "release", "drop", "export", "migrate"]
QUEUE_ACTIONS: tuple[str, ...] = get_args(QueueAction)


@dataclass(frozen=True, slots=True)
class QueueFilter:
    """Which messages of a queue are meant; without any of these, all.

    ``states``: in one of them. ``account``: of this one, where ``""`` is the only one without an accounts file.
    ``address``: this text is a part of the sender or of a recipient, whether in capital letters or small ones.
    ``after``: only numbers above it. ``limit``: at most so many.
    """

    states: tuple[str, ...] = ()
    account: str | None = None
    address: str = ""
    after: int = 0
    limit: int | None = None


class Queue(Protocol):
    """What a relay that keeps mail has besides, for the ``spool`` command and the operator's page. It is optional.

    The service calls these methods for the command. Where no service is running, the command itself does, with a relay
    that is not started. They are about messages of all accounts that share the queue, and raise :class:`Failure` with
    a plain text.
    """

    @property
    def queue_name(self) -> str:
        """Which queue it is; the relays of several accounts may share one."""

    def listed(self, wanted: QueueFilter) -> AsyncGenerator[Mapping[str, Any], None]:
        """The messages that are meant, in the order of their numbers: for each a mapping that JSON can hold.

        It may be read slowly or not to its end, and mail goes in and out meanwhile.
        """

    async def counted(self) -> Sequence[Mapping[str, Any]]:
        """How many there are: mappings with ``account``, ``state``, ``messages`` and ``oldest``, since when."""

    def administer(
        self, action: QueueAction, numbers: Sequence[int], by: str = ""
    ) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
        """Do ``action`` with the messages of these numbers. ``by`` says who asked, for the log.

        Yields for each message a mapping that JSON can hold; for ``export`` the octets of the message, in pieces.
        ``migrate`` is about no message: it brings the queue's storage up to date and yields its ``version``.
        """


class BackedUpQueue(Queue, Protocol):
    """A queue that can be copied while it is in use. It is optional, too.

    All methods return a mapping that JSON can hold: ``folder``; ``messages``, how many there are; ``missing``, the
    numbers of messages without content; ``aside``, the new name of files that were in the way of a restore, if any.
    They raise :class:`Failure` with a plain text, also where another tool must be used for the copy.
    """

    async def back_up(self, folder: Path) -> Mapping[str, Any]:
        """Copy all of it, as it is at one moment, into ``folder``: an absolute path, empty or not there yet."""

    async def restore(self, folder: Path) -> Mapping[str, Any]:
        """Take over what :meth:`back_up` wrote there. The queue must be empty, and no process may have it open."""

    async def move(self, url: Secret) -> Mapping[str, Any]:
        """Move all messages to the place that ``url`` names, as the relay's own setting would. No service may have
        either open. ``to`` is the name of the new place; messages that can not be read stay, and are ``missing``.
        """
