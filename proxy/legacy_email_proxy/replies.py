"""What the peer reads: every verdict of the project as an SMTP reply and a POP3 response, in one table.

Codes of refusals stand nowhere else. A kind of failure is turned into a reply here; the peer reads the kind's fixed
text, the log gets the detail. The exception is :class:`Refused`, the backend's verdict on a sender, a recipient or a
message: its class, code, enhanced code and text reach the device, made into one line of printable ASCII.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from .contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    LoginRefused,
    LoginsLimited,
    MaildropBusy,
    MessageGone,
    MessageUnavailable,
    NoCredentials,
    Overloaded,
    Refused,
    StorageFull,
    Unreachable,
    Unusable,
    Unverified,
)

__all__ = (
    "MAX_TEXT_OCTETS",
    "SMTP",
    "Policy",
    "Reply",
    "pop3_error",
    "pop3_line",
    "printable",
    "refusal",
    "severity",
    "smtp_reply",
)

MAX_TEXT_OCTETS = 400
"""A backend's text is cut here, so that a reply stays below the 512 octets of RFC 5321 §4.5.3.1.5."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An SMTP reply: ``code``, RFC 3463 ``enhanced`` code (may be empty) and ``text``, one line of printable ASCII."""

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"


class SMTP:
    """The SMTP replies that the proxy gives of its own accord."""

    OK = Reply(250, "2.0.0", "OK")
    SENDER_OK = Reply(250, "2.1.0", "OK")
    RECIPIENT_OK = Reply(250, "2.1.5", "OK")
    ACCEPTED = Reply(250, "2.0.0", "OK, the message is taken over")
    BYE = Reply(221, "2.0.0", "Bye")
    CANNOT_VERIFY = Reply(252, "2.5.0", "Cannot VRFY, send some mail and see")
    HELP = Reply(214, "2.0.0", "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP")
    READY_FOR_TLS = Reply(220, "2.0.0", "Begin TLS")
    LOGGED_IN = Reply(235, "2.7.0", "Logged in")
    GO_AHEAD = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
    CHUNK_OK = Reply(250, "2.0.0", "OK, the next chunk please")

    LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
    NOT_ASCII = Reply(500, "5.5.2", "Commands are ASCII")
    UNKNOWN_COMMAND = Reply(500, "5.5.1", "Command not recognized")
    NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
    SYNTAX = Reply(501, "5.5.4", "Syntax error in parameters")
    BAD_PATH = Reply(553, "5.1.7", "That is no address")
    BAD_FORWARD_PATH = Reply(553, "5.1.3", "That is no address")
    BAD_SEQUENCE = Reply(503, "5.5.1", "Bad sequence of commands")
    HELLO_FIRST = Reply(503, "5.5.1", "Send HELO or EHLO first")
    UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not recognized")
    UNKNOWN_MECHANISM = Reply(504, "5.5.4", "That mechanism is not offered")
    MALFORMED_RESPONSE = Reply(501, "5.5.2", "Authentication cancelled, or not a response to the challenge")
    RESPONSE_TOO_LONG = Reply(500, "5.5.6", "Authentication response is too long")
    LOGIN_REFUSED = Reply(535, "5.7.8", "User name or password is wrong")
    LOGIN_NOT_JUDGED = Reply(454, "4.7.0", "Can not check logins now, try again later")
    TOO_BIG = Reply(552, "5.3.4", "Message is larger than this server takes")
    HEADER_TOO_LONG = Reply(552, "5.3.4", "The message's header is larger than this server takes")
    LOOP = Reply(554, "5.4.6", "Too many hops, this message goes in circles")
    TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients, send the rest in another message")
    NO_VALID_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
    NO_RECIPIENTS_YET = Reply(451, "4.5.1", "No valid recipients, try again later")
    NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "An address that is not ASCII needs SMTPUTF8")
    NO_SMTPUTF8 = Reply(550, "5.6.7", "The backend does not take SMTPUTF8")
    BARE_END = Reply(554, "5.5.2", "The message must end with <CR><LF>.<CR><LF>, not with a bare <LF>")
    STALLED = Reply(451, "4.4.2", "Too slow, the message was given up, try again later")

    LOGIN_NEEDED = Reply(530, "5.7.0", "Log in first")
    NO_ACCOUNT = Reply(550, "5.7.1", "There is no account here for this mail")
    SENDER_NOT_ALLOWED = Reply(550, "5.7.1", "This sender may not send here")
    RECIPIENT_NOT_ALLOWED = Reply(550, "5.7.1", "Nothing may be sent to this recipient from here")
    ANOTHER_MESSAGE = Reply(452, "4.5.3", "This recipient goes another way, send it in another message")

    NOT_ALLOWED = Reply(554, "5.7.1", "Your address may not use this server")
    TOO_MANY_CONNECTIONS = Reply(421, "4.3.2", "Too many connections, try again later")
    TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, goodbye")
    TOO_MUCH_CHATTER = Reply(421, "4.7.0", "Too many commands without a message, goodbye")
    WRONG_PROTOCOL = Reply(421, "4.7.0", "This is a plain SMTP server, goodbye")
    SHUTTING_DOWN = Reply(421, "4.3.2", "Shutting down, try again later")
    TIMEOUT = Reply(421, "4.4.2", "Idle for too long, goodbye")


@dataclass(frozen=True, slots=True)
class Policy:
    """How one kind of failure is told: the SMTP reply, the POP3 response code and text, and the log level."""

    smtp: Reply
    pop3_code: str
    pop3_text: str
    level: int


_UNEXPECTED = Policy(
    Reply(451, "4.3.0", "Local error, try again later"), "SYS/TEMP", "local error, try again later", logging.ERROR
)

_POLICY: dict[type[Failure], Policy] = {
    Unreachable: Policy(
        Reply(451, "4.4.1", "The backend can not be reached, try again later"),
        "SYS/TEMP", "the backend can not be reached, try again later", logging.WARNING,
    ),
    Disconnected: Policy(
        Reply(451, "4.4.2", "The connection to the backend was lost, try again later"),
        "SYS/TEMP", "the connection to the backend was lost, try again later", logging.WARNING,
    ),
    Unverified: Policy(
        Reply(451, "4.7.5", "The backend's certificate can not be verified"),
        "SYS/TEMP", "the backend's certificate can not be verified", logging.ERROR,
    ),
    CredentialsRefused: Policy(
        Reply(451, "4.7.0", "The backend refused the proxy's credentials"),
        "SYS/TEMP", "the backend refused the proxy's credentials", logging.ERROR,
    ),
    NoCredentials: Policy(
        Reply(451, "4.7.0", "The proxy has nothing to log in with at the backend"),
        "SYS/TEMP", "the proxy has nothing to log in with at the backend", logging.ERROR,
    ),
    Unusable: Policy(
        Reply(451, "4.3.5", "The backend can not be used as it is set up"),
        "SYS/PERM", "the backend can not be used as it is set up", logging.ERROR,
    ),
    Overloaded: Policy(
        Reply(451, "4.3.2", "The backend is busy, try again later"),
        "SYS/TEMP", "the backend is busy, try again later", logging.WARNING,
    ),
    StorageFull: Policy(
        Reply(452, "4.3.1", "No room for the message, try again later"),
        "SYS/TEMP", "no room, try again later", logging.ERROR,
    ),
    LoginRefused: Policy(
        _UNEXPECTED.smtp, "AUTH", "user name or password is wrong", logging.INFO,
    ),
    LoginsLimited: Policy(
        Reply(451, "4.7.0", "Too many failed logins, try again later"),
        "SYS/TEMP", "too many failed logins, try again later", logging.DEBUG,
    ),
    MaildropBusy: Policy(
        Reply(451, "4.3.2", "The mailbox is in use, try again later"),
        "IN-USE", "another session has this maildrop open", logging.INFO,
    ),
    MessageGone: Policy(
        _UNEXPECTED.smtp, "", "the message was removed by another client", logging.INFO,
    ),
    MessageUnavailable: Policy(
        _UNEXPECTED.smtp, "SYS/TEMP", "the backend does not hand out this message", logging.WARNING,
    ),
    Refused: Policy(
        _UNEXPECTED.smtp, "SYS/TEMP", "the backend refused this", logging.WARNING,
    ),
}  # fmt: skip

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


def _policy(failure: BaseException) -> Policy:
    for kind in type(failure).__mro__:
        if kind in _POLICY:
            return _POLICY[kind]
    return _UNEXPECTED


def severity(failure: BaseException) -> int:
    """The :mod:`logging` level that fits this failure."""
    return _policy(failure).level


class _Own(Refused):
    """A refusal of the proxy's own: what it says is meant for the client, whatever its code."""


def refusal(reply: Reply, detail: str = "") -> Refused:
    """A refusal of the proxy's own, in the words of the table above."""
    return _Own(reply.code, reply.enhanced, reply.text, detail=detail)


def smtp_reply(failure: BaseException) -> Reply:
    """The reply to give for ``failure``; anything that is no :class:`Failure` is 451 4.3.0."""
    if isinstance(failure, Refused):
        return _verdict(failure)
    return _policy(failure).smtp


def _verdict(refused: Refused) -> Reply:
    if refused.about_us and not isinstance(refused, _Own):
        return Reply(451, "4.3.0", "The backend did not take this, try again later")
    digit = str(refused.code)[0]
    enhanced = refused.enhanced
    if not (_ENHANCED.fullmatch(enhanced) and enhanced[0] == digit):
        enhanced = f"{digit}.0.0"
    return Reply(refused.code, enhanced, printable(refused.text) or "Refused by the backend")


def pop3_error(failure: BaseException) -> str:
    """The ``-ERR`` line for ``failure``, without CRLF (response codes: RFC 2449 §8, RFC 3206)."""
    policy = _policy(failure)
    code = f"[{policy.pop3_code}] " if policy.pop3_code else ""
    return f"-ERR {code}{policy.pop3_text}"


def pop3_line(text: str, *, code: str = "", ok: bool = False) -> str:
    """A status line that the proxy gives of its own accord, without CRLF."""
    return f"{'+OK' if ok else '-ERR'} {f'[{code}] ' if code else ''}{text}"


def printable(text: str, limit: int = MAX_TEXT_OCTETS) -> str:
    """One line of printable ASCII, at most ``limit`` octets: what a peer or a log may be shown of foreign text."""
    # Anything else in a reply could end the line early and forge a second one.
    squeezed = " ".join(re.sub(r"[^\x21-\x7e]+", " ", text).split())
    return squeezed[:limit].rstrip()
