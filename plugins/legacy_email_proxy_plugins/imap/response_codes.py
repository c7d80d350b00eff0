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

__all__ = (
    "Busy",
    "NotUnderstood",
    "is_busy",
    "is_fault",
    "login_failure",
    "names_the_password",
    "other_protocol",
    "overloaded",
    "refusal",
    "response_code",
)

_CODE = re.compile(r"\s*\[([A-Za-z0-9-]+)")

_BUSY_CODES = frozenset({"UNAVAILABLE", "INUSE", "LIMIT", "OVERQUOTA", "THROTTLED"})

_FAULT_CODES = frozenset({"SERVERBUG", "CORRUPTION"})
"""The server's own fault (RFC 5530 §3): neither is the password wrong, nor would fewer connections help."""

_PASSWORD_CODES = frozenset({"AUTHENTICATIONFAILED", "AUTHORIZATIONFAILED", "EXPIRED"})
"""AUTHORIZATIONFAILED and EXPIRED count as well: RFC 3206 §4 has ``[AUTH]`` for an expired account and for a breach of
policy too, and trying again can not help."""

_PASSWORD_WORDS = re.compile(r"too many (failed|invalid|bad|wrong|incorrect|login|auth)|\blocked\b", re.IGNORECASE)

_NAMES_PASSWORD = re.compile(
    r"\[(AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|CONTACTADMIN)\b|passw|credential|user ?name"
    r"|(invalid|unknown|no such) (user|login)|user (unknown|not found)"
    r"|\b(account|mailbox|locked|suspended|expired|blocked)\b|too many",
    re.IGNORECASE,
)
"""A refusal that says what is wrong. "LOGIN failed" and "AUTHENTICATE failed" (Exchange) don't."""

_FAULT_WORDS = re.compile(r"internal (server )?error", re.IGNORECASE)

_BUSY_WORDS = re.compile(
    r"too many|simultaneous|maximum number of|connection limit|rate limit|throttl|back-?off|temporar"
    r"|try again (later|in)|unavailable|overload|\bbusy\b|not connected|time(d )?out",
    re.IGNORECASE,
)
"""Gmail, Exchange and others say so without a code, or behind ``[ALERT]``. Exchange's "User is authenticated but not
connected" stands for throttling as well as for a missing mailbox."""


_SUGGESTED = re.compile(r"back-?off time: (\d{1,9}) milliseconds", re.IGNORECASE)
_THROTTLED = re.compile(r"throttl", re.IGNORECASE)
_NOT_CONNECTED = re.compile(r"authenticated but not connected", re.IGNORECASE)
_NOT_CONNECTED_SECONDS = 16.0
"""It may be a wrong password after all; asking on would look like guessing."""


_OTHER_PROTOCOLS = (
    (re.compile(rb"\+OK\b|-ERR\b"), "POP3"),
    (re.compile(rb"[245][0-9][0-9][ -]"), "SMTP"),
    (re.compile(rb"HTTP/"), "HTTP"),
    (re.compile(rb"SSH-"), "SSH"),
)


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
    if code in _BUSY_CODES or code in _PASSWORD_CODES or code in _FAULT_CODES:
        return code in _BUSY_CODES
    return _BUSY_WORDS.search(text) is not None and not _PASSWORD_WORDS.search(text)


def is_fault(text: str) -> bool:
    """Whether the server speaks of a fault of its own."""
    code = response_code(text)
    return code in _FAULT_CODES or (code not in _PASSWORD_CODES and _FAULT_WORDS.search(text) is not None)


def names_the_password(text: str) -> bool:
    """Whether a refusal of the login says what is wrong with the account or the password, or only that it is one."""
    return _NAMES_PASSWORD.search(text) is not None


def other_protocol(greeting: bytes) -> str:
    """What a server speaks that greets like this; empty for IMAP and for what nobody knows."""
    return next((name for pattern, name in _OTHER_PROTOCOLS if pattern.match(greeting)), "")


def overloaded(text: str) -> Busy:
    """The failure for a server that :func:`is_busy`."""
    return Busy(text)


class NotUnderstood(Disconnected):
    """The server does not know the command with which we log in: nothing was judged."""


def login_failure(status: str, text: str, *, clients_own: bool, with_token: bool = False, tls: bool = True) -> Failure:
    """What a NO or BAD to the login means. ``clients_own``: it was the client's USER and PASS."""
    code = response_code(text)
    if status != "NO":
        return NotUnderstood(f"the server did not understand the login: {status} {text}")
    if is_busy(text):
        return overloaded(text)
    if is_fault(text):
        return Failure(f"the server could not check the login, because of a fault of its own: {text}")
    if code == "PRIVACYREQUIRED":
        detail = f"the server takes no password without TLS{', which there is' if tls else ''}: {text}"
        look_at = "BACKEND_IMAP_HOST, BACKEND_IMAP_PORT" if tls else "BACKEND_IMAP_USE_SSL, BACKEND_IMAP_USE_STARTTLS"
        return Unusable(detail, look_at=look_at)
    if clients_own:
        if code == "CONTACTADMIN":
            # No fault of the password: a client told [AUTH] would ask its owner for another one.
            return Failure(f"the server wants its administrator to look at this account: {text}")
        return LoginRefused(f"the server refused the client's login: {text}")
    look_at = f"BACKEND_IMAP_USER, BACKEND_IMAP_{'CREDENTIALS' if with_token else 'PASS'}"
    return CredentialsRefused(f"the server refused the login: {text}", look_at=look_at)


def refusal(doing: str, status: str, text: str, *, look_at: str = "") -> Failure:
    """What a NO or BAD to anything else means."""
    if is_busy(text):
        return overloaded(text)
    # No setting mends the server's own fault.
    return Failure(f"the server refused to {doing}: {status} {text}", look_at="" if is_fault(text) else look_at)
