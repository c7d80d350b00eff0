"""SASL for AUTH (RFC 5034): PLAIN (RFC 4616) and LOGIN, each a value machine from responses to credentials.

What a mechanism yields is a user name and a password, under the same rule for characters as USER and PASS.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Protocol, assert_never

from ..contracts import Secret
from .commands import Keyword, Mechanism, Mistake, credential

__all__ = ("MAX_RESPONSE_OCTETS", "Credentials", "Exchange", "begin", "challenge_line", "decode")

MAX_RESPONSE_OCTETS = 12288
"""A base64 line, its line end included: the length that RFC 4954 §4 wants to be taken, for tokens as passwords."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the client proved to know."""

    user: str
    password: Secret


class Exchange(Protocol):
    """One AUTH: a challenge, and what the response to it leads to."""

    @property
    def challenge(self) -> bytes:
        """What the client is asked now."""

    def respond(self, response: bytes) -> Credentials | None:
        """Take the response; ``None`` means that there is another challenge. Raises :class:`Mistake`."""


def begin(mechanism: Mechanism) -> Exchange:
    """A fresh exchange."""
    match mechanism:
        case Mechanism.PLAIN:
            return _Plain()
        case Mechanism.LOGIN:
            return _Login()
        case _:
            assert_never(mechanism)


class _Plain:
    challenge = b""

    def respond(self, response: bytes) -> Credentials:
        parts = response.split(b"\x00")
        if len(parts) != 3 or not parts[1]:
            raise Mistake("a PLAIN response is authorization identity, NUL, user, NUL, password")
        authorization, user, password = parts
        # Nobody here may act for another: a proxy that ignored the identity would open the wrong maildrop.
        if authorization not in (b"", user):
            raise Mistake("the authorization identity must be empty or the user itself")
        return Credentials(credential(user, Keyword.AUTH), Secret(credential(password, Keyword.AUTH)))


class _Login:
    challenge = b"Username:"

    def __init__(self) -> None:
        self._user: str | None = None

    def respond(self, response: bytes) -> Credentials | None:
        text = credential(response, Keyword.AUTH)
        if self._user is not None:
            return Credentials(self._user, Secret(text))
        if not text:
            raise Mistake("the user name is empty")
        self._user = text
        self.challenge = b"Password:"
        return None


def challenge_line(exchange: Exchange) -> str:
    """The line that asks for a response (RFC 5034 §4)."""
    return "+ " + binascii.b2a_base64(exchange.challenge, newline=False).decode()


def decode(line: bytes) -> bytes:
    """The octets of a response line. Raises :class:`Mistake`, also for ``*``, with which a client gives up."""
    if line == b"*":
        raise Mistake("authentication cancelled")
    try:
        return binascii.a2b_base64(line, strict_mode=True)
    except binascii.Error:
        # Without the cause: binascii's words would be about octets of a password.
        raise Mistake("the response is not base64") from None
