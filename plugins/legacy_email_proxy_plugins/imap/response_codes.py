"""What a server's refusal means: by its response code (RFC 9051 §7.1, RFC 5530) or, without a code, by its words.

At login this decides between "the password is wrong" and "come back later". If "come back later" were taken for "wrong
password", a device would ask its owner for a new password although the old one is right. If "wrong password" were taken
for "come back later", the wrong password would be tried again and again until the account is locked.
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
"""Faults of the server itself (RFC 5530 §3). The password is not wrong, and fewer connections would not help."""

_PASSWORD_CODES = frozenset({"AUTHENTICATIONFAILED", "AUTHORIZATIONFAILED", "EXPIRED"})
"""The account or the password is wrong. AUTHORIZATIONFAILED and EXPIRED are among them because RFC 3206 §4 has POP3's
``[AUTH]`` for an expired account and for a breach of policy too. Trying again can not help."""

_PASSWORD_WORDS = re.compile(r"too many (failed|invalid|bad|wrong|incorrect|login|auth)|\blocked\b", re.IGNORECASE)

_NAMES_PASSWORD = re.compile(
    r"\[(AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|CONTACTADMIN)\b|passw|credential|user ?name"
    r"|(invalid|unknown|no such) (user|login)|user (unknown|not found)"
    r"|\b(account|mailbox|locked|suspended|expired|blocked)\b|too many",
    re.IGNORECASE,
)
"""Matches a refusal that says what is wrong. "LOGIN failed" and "AUTHENTICATE failed" (Exchange) do not say it."""

_FAULT_WORDS = re.compile(r"internal (server )?error", re.IGNORECASE)

_BUSY_WORDS = re.compile(
    r"too many|simultaneous|maximum number of|connection limit|rate limit|throttl|back-?off|temporar"
    r"|try again (later|in)|unavailable|overload|\bbusy\b|not connected|time(d )?out",
    re.IGNORECASE,
)
"""Gmail, Exchange and others ask for patience without a code, or after ``[ALERT]``. Exchange says "User is
authenticated but not connected" when it throttles, but also when there is no mailbox."""


_SUGGESTED = re.compile(r"back-?off time: (\d{1,9}) milliseconds", re.IGNORECASE)
_THROTTLED = re.compile(r"throttl", re.IGNORECASE)
_NOT_CONNECTED = re.compile(r"authenticated but not connected", re.IGNORECASE)
_NOT_CONNECTED_SECONDS = 16.0
"""The pause after "authenticated but not connected". It may also mean a wrong password, and fast retries would look
like guessing passwords."""


_OTHER_PROTOCOLS = (
    (re.compile(rb"\+OK\b|-ERR\b"), "POP3"),
    (re.compile(rb"[245][0-9][0-9][ -]"), "SMTP"),
    (re.compile(rb"HTTP/"), "HTTP"),
    (re.compile(rb"SSH-"), "SSH"),
)


class Busy(Overloaded):
    """The server asked us to come back later: in ``suggested_seconds``, 0 if it gave no time; ``throttled`` if it said
    that we ask too often.
    """

    def __init__(self, text: str) -> None:
        super().__init__(f"the server asks for patience: {text}", look_at="BACKEND_IMAP_MAX_CONNECTIONS")
        suggested = _SUGGESTED.search(text)
        self.suggested_seconds = int(suggested[1]) / 1000 if suggested else 0.0
        if _NOT_CONNECTED.search(text):
            self.suggested_seconds = _NOT_CONNECTED_SECONDS
        self.throttled = _THROTTLED.search(text) is not None


def response_code(text: str) -> str:
    """The response code at the beginning of ``text``, in upper case; empty if there is none."""
    match = _CODE.match(text)
    return match[1].upper() if match else ""


def is_busy(text: str) -> bool:
    """Whether the server asks us to come back later."""
    code = response_code(text)
    if code in _BUSY_CODES or code in _PASSWORD_CODES or code in _FAULT_CODES:
        return code in _BUSY_CODES
    return _BUSY_WORDS.search(text) is not None and not _PASSWORD_WORDS.search(text)


def is_fault(text: str) -> bool:
    """Whether the server reports a fault of its own."""
    code = response_code(text)
    return code in _FAULT_CODES or (code not in _PASSWORD_CODES and _FAULT_WORDS.search(text) is not None)


def names_the_password(text: str) -> bool:
    """Whether a refused login says that the account or the password is wrong, and not only that it is refused."""
    return _NAMES_PASSWORD.search(text) is not None


def other_protocol(greeting: bytes) -> str:
    """The protocol of a server with this greeting, if it is not IMAP; empty for IMAP and for an unknown greeting."""
    return next((name for pattern, name in _OTHER_PROTOCOLS if pattern.match(greeting)), "")


def overloaded(text: str) -> Busy:
    """The failure for a server that :func:`is_busy`."""
    return Busy(text)


class NotUnderstood(Disconnected):
    """The server does not know the login command, so it has said nothing about the password."""


def login_failure(status: str, text: str, *, clients_own: bool, with_token: bool = False, tls: bool = True) -> Failure:
    """The failure for a NO or BAD to the login. ``clients_own``: user and password came from the POP3 client."""
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
            # The password is not at fault. A client that reads [AUTH] would ask its owner for another one.
            return Failure(f"the server wants its administrator to look at this account: {text}")
        return LoginRefused(f"the server refused the client's login: {text}")
    look_at = f"BACKEND_IMAP_USER, BACKEND_IMAP_{'CREDENTIALS' if with_token else 'PASS'}"
    return CredentialsRefused(f"the server refused the login: {text}", look_at=look_at)


def refusal(doing: str, status: str, text: str, *, look_at: str = "") -> Failure:
    """The failure for a NO or BAD to any other command."""
    if is_busy(text):
        return overloaded(text)
    # If the server itself is at fault, no setting of ours helps.
    return Failure(f"the server refused to {doing}: {status} {text}", look_at="" if is_fault(text) else look_at)
