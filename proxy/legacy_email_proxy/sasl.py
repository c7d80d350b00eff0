"""SASL as both legs speak it (RFC 4422): PLAIN (RFC 4616) and LOGIN, each a state machine without I/O.

What is around it differs: POP3 asks with ``+``, SMTP with ``334``, and each has its own words for a mistake.
"""

from __future__ import annotations

import binascii
import re
from enum import StrEnum
from typing import Protocol, assert_never

from .contracts import Login, Secret

__all__ = (
    "MAX_RESPONSE_OCTETS",
    "Exchange",
    "Malformed",
    "Mechanism",
    "begin",
    "challenge",
    "credential",
    "decode",
    "initial",
    "shown",
)

MAX_RESPONSE_OCTETS = 12288
"""A base64 line, its line end included: the length that RFC 4954 §4 wants to be taken, for tokens as passwords."""

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_NAMES = re.compile(
    r"PLAIN|LOGIN|ANONYMOUS|EXTERNAL|CRAM-MD5|DIGEST-MD5|SCRAM-SHA-[0-9]{1,3}(?:-PLUS)?|NTLM|MSN|GSSAPI|GSS-SPNEGO"
    r"|KERBEROS_V[45]|OAUTHBEARER|XOAUTH2?|OTP|S/?KEY|SRP|APOP"
)


class Mechanism(StrEnum):
    """The mechanisms of AUTH. CRAM-MD5 is not among them: for it a server has to know the password itself."""

    PLAIN = "PLAIN"
    LOGIN = "LOGIN"


class Malformed(ValueError):
    """The response can not be used. The text is fixed, has nothing of the response, and may be shown to the client."""


class Exchange(Protocol):
    """One AUTH: a challenge, and what the response to it leads to."""

    @property
    def challenge(self) -> bytes:
        """What the client is asked now."""

    def respond(self, response: bytes) -> Login | None:
        """Take the response; ``None`` means that there is another challenge. Raises :class:`Malformed`."""


def begin(mechanism: Mechanism, *, judged: bool = True) -> Exchange:
    """A fresh exchange. Where nobody judges the login, it needs no user, and may be for somebody else."""
    match mechanism:
        case Mechanism.PLAIN:
            return _Plain(judged)
        case Mechanism.LOGIN:
            return _Login(judged)
        case _:
            assert_never(mechanism)


class _Plain:
    challenge = b""

    def __init__(self, judged: bool) -> None:
        self._judged = judged

    def respond(self, response: bytes) -> Login:
        parts = response.split(b"\x00")
        if len(parts) != 3 or (self._judged and not parts[1]):
            raise Malformed("a PLAIN response is authorization identity, NUL, user, NUL, password")
        authorization, user, password = parts
        # Nobody here may act for another: a proxy that ignored the identity would open the wrong maildrop.
        if self._judged and authorization not in (b"", user):
            raise Malformed("the authorization identity must be empty or the user itself")
        return Login(credential(user), Secret(credential(password)))


class _Login:
    # Some Xerox devices hang up at any other wording.
    challenge = b"Username:"

    def __init__(self, judged: bool) -> None:
        self._judged = judged
        self._user: str | None = None

    def respond(self, response: bytes) -> Login | None:
        text = credential(response)
        if self._user is not None:
            return Login(self._user, Secret(text))
        if self._judged and not text:
            raise Malformed("the user name is empty")
        self._user = text
        self.challenge = b"Password:"
        return None


def shown(argument: str) -> str:
    """The argument of AUTH as the log may show it. Some clients leave the mechanism out and send the password at once,
    so only a mechanism that exists is shown.
    """
    name, *rest = argument.upper().split() or [""]
    if not _NAMES.fullmatch(name):
        return "***" if name else ""
    return f"{name} ***" if rest else name


def challenge(exchange: Exchange) -> str:
    """The challenge in base64."""
    return binascii.b2a_base64(exchange.challenge, newline=False).decode()


def initial(argument: bytes) -> bytes:
    """The octets of an initial response, where ``=`` stands for none (RFC 4954 §4, RFC 5034 §4)."""
    return b"" if argument == b"=" else decode(argument)


def decode(line: bytes) -> bytes:
    """The octets of a response line. Raises :class:`Malformed`, also for ``*``, with which a client gives up."""
    if line == b"*":
        raise Malformed("authentication cancelled")
    try:
        # Some clients leave out the "=" at the end.
        return binascii.a2b_base64(line + b"=" * (-len(line) % 4), strict_mode=True)
    except binascii.Error:
        # Without the cause: the text of binascii could tell something of a password.
        raise Malformed("the response is not base64") from None


def credential(octets: bytes) -> str:
    """A user name or password as the backend gets it. Raises :class:`Malformed`."""
    # A CR or NUL that passed here could end the backend's command early and begin another one.
    if _CONTROL.search(octets):
        raise Malformed("control characters are not allowed")
    # Octets that are no UTF-8 survive as surrogates, so that a Latin-1 password reaches the backend as it was typed.
    return octets.decode("utf-8", "surrogateescape")
