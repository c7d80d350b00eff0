"""What a server means when it refuses: response codes (RFC 9051 §7.1, RFC 5530) and, where there is none, its words.

At login this decides between "the password is wrong" and "come back later". Mistaking the second for the first would
make a device ask its owner for a password that is right; mistaking the first for the second would try a wrong password
again and again until the account is locked.
"""

from __future__ import annotations

import re

from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    LoginRefused,
    Overloaded,
    Unusable,
)

from .credentials import TokenExchange

__all__ = ("Busy", "is_busy", "is_throttling", "login_failure", "overloaded", "refusal", "response_code")

_CODE = re.compile(r"\s*\[([A-Za-z0-9-]+)")

_BUSY_CODES = frozenset({"UNAVAILABLE", "INUSE", "LIMIT", "OVERQUOTA", "SERVERBUG", "THROTTLED"})

_PASSWORD_CODES = frozenset({"AUTHENTICATIONFAILED", "AUTHORIZATIONFAILED", "EXPIRED"})
"""AUTHORIZATIONFAILED and EXPIRED count as well: RFC 3206 §4 has ``[AUTH]`` for an expired account and for a breach of
policy too, and trying again can not help."""

_PASSWORD_WORDS = re.compile(r"too many (failed|invalid|bad|wrong|incorrect|login|auth)|\blocked\b", re.IGNORECASE)

_BUSY_WORDS = re.compile(
    r"too many|simultaneous|maximum number of|connection limit|rate limit|throttl|back-?off|temporar"
    r"|try again (later|in)|unavailable|overload|\bbusy\b|internal (server )?error|not connected|time(d )?out",
    re.IGNORECASE,
)
"""Gmail, Exchange and others say so without a code, or behind ``[ALERT]``. Exchange's "User is authenticated but not
connected" stands for throttling as well as for a missing mailbox."""


_SUGGESTED = re.compile(r"back-?off time: (\d{1,9}) milliseconds", re.IGNORECASE)
_THROTTLED = re.compile(r"throttl", re.IGNORECASE)
_NOT_CONNECTED = re.compile(r"authenticated but not connected", re.IGNORECASE)
_NOT_CONNECTED_SECONDS = 16.0
"""It may be a wrong password after all; asking on would look like guessing."""


class Busy(Overloaded):
    """The server itself asked for patience, for ``suggested_seconds`` if it said so, because of our pace if
    ``throttled``.
    """

    def __init__(self, text: str) -> None:
        super().__init__(f"the server asks for patience: {text}", look_at="BACKEND_IMAP_MAX_CONNECTIONS")
        suggested = _SUGGESTED.search(text)
        self.suggested_seconds = int(suggested[1]) / 1000 if suggested else 0.0
        if _NOT_CONNECTED.search(text):
            self.suggested_seconds = _NOT_CONNECTED_SECONDS
        self.throttled = _THROTTLED.search(text) is not None


def response_code(text: str) -> str:
    """The response code in front of ``text``, in upper case; empty if there is none."""
    match = _CODE.match(text)
    return match[1].upper() if match else ""


def is_busy(text: str) -> bool:
    """Whether the server asks for patience."""
    code = response_code(text)
    if code in _BUSY_CODES or code in _PASSWORD_CODES:
        return code in _BUSY_CODES
    return _BUSY_WORDS.search(text) is not None and not _PASSWORD_WORDS.search(text)


def is_throttling(text: str) -> bool:
    """Whether a server that is asked for one message wants patience; SERVERBUG and the like may be that message's."""
    return response_code(text) != "SERVERBUG" and is_busy(text)


def overloaded(text: str) -> Busy:
    """The failure for a server that :func:`is_busy`."""
    return Busy(text)


def login_failure(status: str, text: str, *, clients_own: bool, token: TokenExchange | None = None) -> Failure:
    """What a NO or BAD to the login means. ``clients_own``: it was the client's USER and PASS."""
    code = response_code(text)
    if token is not None and token.said:
        text = f"{text} ({token.said})"
    if status != "NO":
        return Disconnected(f"the server did not understand the login: {status} {text}")
    if is_busy(text):
        return overloaded(text)
    if code == "PRIVACYREQUIRED":
        detail = f"the server takes no password without TLS: {text}"
        return Unusable(detail, look_at="BACKEND_IMAP_USE_SSL, BACKEND_IMAP_USE_STARTTLS")
    if clients_own:
        if code == "CONTACTADMIN":
            # No fault of the password: a client told [AUTH] would ask its owner for another one.
            return Failure(f"the server wants its administrator to look at this account: {text}")
        return LoginRefused(f"the server refused the client's login: {text}")
    look_at = f"BACKEND_IMAP_USER, BACKEND_IMAP_{'PASS' if token is None else 'CREDENTIALS'}"
    return CredentialsRefused(f"the server refused the login: {text}", look_at=look_at)


def refusal(doing: str, status: str, text: str, *, look_at: str = "") -> Failure:
    """What a NO or BAD to anything else means."""
    if is_busy(text):
        return overloaded(text)
    return Failure(f"the server refused to {doing}: {status} {text}", look_at=look_at)
