"""The envelope: who is speaking, from where the mail comes and where it goes (RFC 5321 §2.3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ("NULL_REVERSE_PATH", "Client", "Message", "Parameters", "Receipt")

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
