"""The contract of a filter: what may change, or refuse, the envelope and the header of what devices send.

Entry-point group ``legacy_email_proxy.filter``, chosen, in order, with ``SMTP_FILTERS``. The entry point names a class
that is called with one :class:`~legacy_email_proxy.contracts.context.Context`, in a thread without an event loop, and
must not do I/O in its constructor. Subclass :class:`Filter` and write the methods that you need.

A filter does not see the body, which is passed on in pieces; only the header is held in memory. For the whole message
write a relay.
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
    """Passes everything on unchanged. One instance serves all sessions of the process, whose calls may interleave.

    Every method may raise :class:`Refused`, which reaches the device. Whatever else is raised is temporary: the device
    reads 451 4.3.0, the log names the filter. A filter must limit its own time; its task may be cancelled at any await.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    async def reverse_path(self, envelope: Envelope) -> str:
        """At MAIL: the reverse-path to use, ``""`` for the null one. A refusal ends the transaction."""
        return envelope.reverse_path

    async def forward_path(self, envelope: Envelope, forward_path: str) -> str:
        """At RCPT: the forward-path to use. A refusal is for this recipient alone."""
        return forward_path

    async def header(self, envelope: Envelope, header: Header) -> None:
        """When the header of the message has arrived: change it in place, or refuse the message.

        The proxy's own fields (Received, and those that were missing) are not in it yet. It is empty for a message
        without a header.
        """

    async def probe(self) -> Sequence[Finding]:
        """What ``check`` shall print; failures are findings, not exceptions."""
        return ()

    async def aclose(self) -> None:
        """Close what it holds; called once, when the process drains."""
