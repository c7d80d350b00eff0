"""What the session tells the conversation: what to send, what to ask of the maildrop, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ..contracts import Secret

__all__ = (
    "Close",
    "Commit",
    "Event",
    "NeedData",
    "Open",
    "Reply",
    "Request",
    "Retrieve",
    "StartTLS",
    "Tally",
    "Verdict",
)


class Verdict(StrEnum):
    """How a session ended."""

    QUIT = "quit"
    DROPPED = "dropped"
    IDLE = "idle"
    ERRORS = "errors"
    DRAINED = "drained"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class NeedData:
    """Send what was replied, then give :meth:`Session.receive_data` more octets."""


class Reply(NamedTuple):
    """Octets for the client. Replies may be collected and sent together."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Send ``octets``, do the TLS handshake, then answer with :meth:`Session.tls_started`."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Open:
    """Open the maildrop; answer with :meth:`Session.opened` or :meth:`Session.open_failed`."""

    user: str
    password: Secret


class Retrieve(NamedTuple):
    """Fetch a message; answer with :meth:`Session.message_piece` … :meth:`Session.message_end`, or ``message_failed``.

    ``lines`` is ``None`` for RETR and the number of body lines for TOP; XTND XLST asks for each message like TOP.
    """

    message_number: int
    unique_id: str
    octets: int
    lines: int | None


@dataclass(frozen=True, slots=True)
class Commit:
    """Remove these messages; answer with :meth:`Session.committed` or :meth:`Session.commit_failed`."""

    unique_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Send what was replied and close; ``reason`` says more than ``verdict``, for the log."""

    verdict: Verdict
    reason: str = ""


Request = StartTLS | Open | Retrieve | Commit
Event = NeedData | Reply | Request | Close


@dataclass(slots=True)
class Tally:
    """What the session did: messages sent whole, sent in part (TOP), failed, deleted, and withheld (marked as deleted,
    and kept because the client had asked for them and not got them); octets of messages; commands.
    """

    retrieved: int = 0
    top: int = 0
    failed: int = 0
    deleted: int = 0
    withheld: int = 0
    octets: int = 0
    commands: int = 0
