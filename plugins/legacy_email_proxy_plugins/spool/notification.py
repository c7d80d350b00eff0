"""Delivery status notifications: what a sender is told of mail that failed or is late (RFC 3464, RFC 6522)."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import format_datetime

from legacy_email_proxy.contracts import NULL_REVERSE_PATH, Client

from .message import Notice, Recipient, SpooledMessage, Submission, Verdict
from .options import Options

__all__ = ("HEADER_OCTETS", "addressees", "header_of", "notice")

HEADER_OCTETS = 64 * 1024
"""How much of the original's header is returned, at most."""

_ENHANCED = re.compile(r"[45]\.\d{1,3}\.\d{1,3}")
_NO_QCHAR = re.compile(r"[^\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]")
_TEXT_OCTETS = 900


def addressees(message: SpooledMessage, options: Options) -> list[str]:
    """Who is to be told of this message; nobody of one with a null reverse-path, which may be a notification."""
    if message.notice or message.reverse_path == NULL_REVERSE_PATH:
        return []
    told = [message.reverse_path] if options.notify_sender else []
    return told + ([options.postmaster] if options.postmaster and options.postmaster not in told else [])


async def header_of(content: AsyncGenerator[bytes, None]) -> bytes:
    """The header of a message, whole lines of it, without the blank line."""
    read = b""
    async with aclosing(content) as pieces:
        async for piece in pieces:
            read += piece
            if b"\r\n\r\n" in read or len(read) >= HEADER_OCTETS:
                break
    if read.startswith(b"\r\n"):
        return b""
    header, blank, _ = (read[:HEADER_OCTETS] if b"\r\n\r\n" not in read else read).partition(b"\r\n\r\n")
    if blank:
        return (
            header[:HEADER_OCTETS].rpartition(b"\r\n")[0] + b"\r\n" if len(header) > HEADER_OCTETS else header + b"\r\n"
        )
    return header.rpartition(b"\r\n")[0] + b"\r\n" if b"\r\n" in header else b""


def notice(
    message: SpooledMessage,
    recipients: Sequence[Recipient],
    to: Sequence[str],
    header: bytes,
    options: Options,
    now: float,
    *,
    delayed: bool = False,
) -> Notice:
    """The notification of these recipients' failure, or delay, as a message of its own from the null reverse-path."""
    host = socket.gethostname() or "localhost"
    content = _report(message, recipients, to, header, options, host, delayed=delayed)
    parameters: dict[str, str | None] = {} if content.isascii() else {"BODY": "8BITMIME"}
    if not all(path.isascii() for path in to):
        parameters["SMTPUTF8"] = None
    client = Client("", f"notice-of-{message.number}", host)
    submission = Submission(
        message.account, client, NULL_REVERSE_PATH, parameters, [(path, {}) for path in to], now
    )
    return Notice(submission, content, () if delayed else tuple(each.number for each in recipients))


def _report(
    message: SpooledMessage,
    recipients: Sequence[Recipient],
    to: Sequence[str],
    header: bytes,
    options: Options,
    host: str,
    *,
    delayed: bool,
) -> bytes:
    boundary = f"=_{secrets.token_hex(16)}"
    now = datetime.now(UTC)
    eight_bit = "Content-Transfer-Encoding: 8bit\r\n"
    head = (
        f"From: Mail delivery system <{_address(options.daemon or f'MAILER-DAEMON@{host}')}>\r\n"
        f"To: {', '.join(f'<{_addressee(path)}>' for path in to)}\r\n"
        f"Subject: {'Mail is late' if delayed else 'Mail could not be delivered'}\r\n"
        f"Date: {format_datetime(now)}\r\n"
        f"Message-ID: <{secrets.token_hex(16)}@{host}>\r\n"
        "Auto-Submitted: auto-replied\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"\r\n'
        f"{'' if header.isascii() else eight_bit}"
        "\r\n"
        f"--{boundary}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        "\r\n"
        f"{_words(message, recipients, delayed=delayed)}"
        f"\r\n--{boundary}\r\n"
        "Content-Type: message/delivery-status\r\n"
        "\r\n"
        f"Reporting-MTA: dns; {host}\r\n"
        f"Arrival-Date: {_date(message.received)}\r\n"
        f"{''.join(_fields(message, each, options, delayed=delayed) for each in recipients)}"
        f"\r\n--{boundary}\r\n"
        "Content-Type: text/rfc822-headers\r\n"
        f"{'' if header.isascii() else eight_bit}"
        "\r\n"
    )
    return head.encode() + header + f"\r\n--{boundary}--\r\n".encode("ascii")


def _words(message: SpooledMessage, recipients: Sequence[Recipient], *, delayed: bool) -> str:
    lines = [f"The message that {_shown(message.client.address or 'somebody')} sent on {_date(message.received)}"]
    lines += [
        "has not been delivered yet to the following recipients. It is tried further;"
        if delayed
        else "could not be delivered to the following recipients, and is not tried any more.",
        *(["you need not send it again."] if delayed else []),
        "",
    ]
    for each in recipients:
        said = each.verdict.text if each.verdict else ""
        code = (
            f"{each.verdict.code} {each.verdict.enhanced}".rstrip() + " " if each.verdict and each.verdict.code else ""
        )
        lines.append(f"  <{_shown(each.forward_path)}>")
        lines.append(f"      {code}{_shown(said)}"[:_TEXT_OCTETS])
    lines += ["", "The header of the message is attached."]
    return "".join(f"{line}\r\n" for line in lines)


def _fields(message: SpooledMessage, recipient: Recipient, options: Options, *, delayed: bool) -> str:
    verdict = recipient.verdict or Verdict(0, "", "", message.received)
    fields = [
        "",
        f"Final-Recipient: {_typed(recipient.forward_path)}",
        f"Action: {'delayed' if delayed else 'failed'}",
        f"Status: {_status(verdict, delayed=delayed)}",
    ]
    if verdict.code:
        said = f"{verdict.code} {verdict.enhanced}".rstrip()
        fields.append(f"Diagnostic-Code: smtp; {said} {_shown(verdict.text)}"[:_TEXT_OCTETS])
    elif verdict.text:
        fields.append(f"Diagnostic-Code: x-proxy; {_shown(verdict.text)}"[:_TEXT_OCTETS])
    fields.append(f"Last-Attempt-Date: {_date(verdict.time)}")
    if delayed:
        fields.append(f"Will-Retry-Until: {_date(message.since + options.give_up_seconds)}")
    return "".join(f"{field}\r\n" for field in fields)


def _status(verdict: Verdict, *, delayed: bool) -> str:
    permanent = verdict.code >= 500
    if delayed:
        return verdict.enhanced if _ENHANCED.fullmatch(verdict.enhanced) and not permanent else "4.4.7"
    if not permanent:
        # Not refused for good, but given up: "delivery time expired" (RFC 3463 §3.5).
        return "5.4.7" if verdict.code == 0 or verdict.code < 500 else "5.0.0"
    matches = _ENHANCED.fullmatch(verdict.enhanced) and verdict.enhanced.startswith("5")
    return verdict.enhanced if matches else "5.0.0"


def _date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))


def _shown(text: str) -> str:
    return " ".join(re.sub(r"[^\x21-\x7e]+", " ", text).split())


def _addressee(path: str) -> str:
    """An address in a field of a message that is sent with SMTPUTF8 where it needs that (RFC 6532)."""
    return "".join(each if each.isprintable() and not each.isspace() else "?" for each in path)


def _typed(path: str) -> str:
    """An address with its type; outside ASCII by the numbers of its characters (RFC 6533 §3)."""
    if path.isascii():
        return f"rfc822; {_address(path)}"
    return "utf-8; " + _NO_QCHAR.sub(lambda found: f"\\x{{{ord(found[0]):X}}}", path)


def _address(path: str) -> str:
    """An address in a field: what could end the field, or is not ASCII, is no part of any that we can reach."""
    return re.sub(r"[^\x21-\x7e]", "?", path)
