"""The contract of a filter: what may change, or refuse, the envelope and the header of what devices send.

Entry-point group ``legacy_email_proxy.filter``, chosen, in order, with ``SMTP_FILTERS``. The entry point names a class
that is called with one :class:`~legacy_email_proxy.contracts.context.Context`, in a thread without an event loop, and
must not do I/O in its constructor. Subclass :class:`Filter` and write the methods that you need.

The body is not a filter's business: it streams past, while a header is held in memory until its end. Whoever needs
the whole message writes a relay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .context import Context
from .failures import Finding
from .header import Header
from .relay import Client, Parameters

__all__ = ("Envelope", "Filter")


@dataclass(frozen=True, slots=True)
class Envelope:
    """The mail transaction so far, as the filters before this one have left it; ``given`` is what the device said."""

    client: Client
    given: str
    reverse_path: str
    forward_paths: tuple[str, ...] = ()
    parameters: Parameters = field(default_factory=dict)


class Filter:
    """Passes everything on as it is. One instance serves all sessions of the process, which may interleave.

    Every method may raise :class:`Refused`, which reaches the device. Whatever else is raised is temporary: the device
    reads 451 4.3.0, the log names the filter. A filter must bound its own time; its task may be cancelled at any await.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    async def reverse_path(self, envelope: Envelope) -> str:
        """At MAIL: the reverse-path to go on with, ``""`` for the null one. Refusing ends the transaction."""
        return envelope.reverse_path

    async def forward_path(self, envelope: Envelope, forward_path: str) -> str:
        """At RCPT: the forward-path to go on with. Refusing is the verdict on this recipient alone."""
        return forward_path

    async def header(self, envelope: Envelope, header: Header) -> None:
        """When the header of the message has arrived: change it in place, or refuse the message.

        It has none of the proxy's own lines (Received, what was missing) yet. It is empty for a message without one.
        """

    async def probe(self) -> Sequence[Finding]:
        """What ``check`` shall say; failures are findings, not exceptions."""
        return ()

    async def aclose(self) -> None:
        """Let go of everything; called once, when the process drains."""
