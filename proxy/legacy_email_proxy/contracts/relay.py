"""The contract of a relay: one mail transaction, in which the backend's verdict reaches the device while it matters.

Entry-point group ``legacy_email_proxy.relay``. The entry point names a class that is called with one
:class:`~legacy_email_proxy.contracts.context.Context`, in a thread without an event loop, and must not do I/O in its
constructor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, cast

from .context import Context
from .envelope import Client, Message, Parameters, Receipt
from .failures import Failure, Refused
from .finding import Finding

__all__ = (
    "PipeliningTransaction",
    "Recipient",
    "Relay",
    "RelayCapabilities",
    "StartingRelay",
    "Transaction",
    "WholeMessageRelay",
    "add_recipients",
)


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

    It is optional: the core asks a transaction without this method for one recipient after the other.
    """

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


class WholeMessageRelay(ABC):
    """For a relay that wants the whole message at once: write :meth:`deliver`, the rest is here.

    The message is held in memory, so ``SMTP_MAX_OCTETS`` bounds what each session costs. Every recipient is accepted
    until ``deliver`` gives the one verdict on all of them.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    async def deliver(self, message: Message) -> None:
        """Deliver to every recipient. Returning means done, durably; raise :class:`Refused` or another failure if not.

        An exception that is no :class:`Failure` is logged with its traceback and told to the device as temporary.
        """

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """See :meth:`Relay.transaction`."""
        yield _Collecting(self, client, reverse_path, parameters)

    def capabilities(self) -> RelayCapabilities:
        """See :meth:`Relay.capabilities`: no limit of its own, unless a subclass says otherwise."""
        return RelayCapabilities()

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`Relay.probe`: nothing to tell, unless a subclass can."""
        return ()

    async def aclose(self) -> None:  # noqa: B027 (a relay without connections has nothing to close)
        """See :meth:`Relay.aclose`."""


class _Collecting:
    def __init__(self, relay: WholeMessageRelay, client: Client, reverse_path: str, parameters: Parameters) -> None:
        self._relay = relay
        self._client = client
        self._reverse_path = reverse_path
        self._parameters = parameters
        self._forward_paths: list[str] = []

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        self._forward_paths.append(forward_path)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        collected = b"".join([chunk async for chunk in content])
        paths = tuple(self._forward_paths)
        await self._relay.deliver(Message(self._client, self._reverse_path, paths, collected, self._parameters))
        return Receipt()
