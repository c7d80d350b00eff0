"""Delivery status notifications: they tell a sender that mail failed or is late (RFC 3461, 3464, 6522, 6533).

A notification must be accepted everywhere, also by a server that refused the mail. So it is ASCII in lines of at most
998 octets, and other text in it is encoded. It needs SMTPUTF8 only if its recipient's address is not ASCII.
"""

from __future__ import annotations

import binascii
import re
import secrets
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from email.message import MIMEPart
from email.policy import SMTP
from email.utils import format_datetime

from legacy_email_proxy.contracts import NULL_REVERSE_PATH, Client, Header

from .message import Notice, Recipient, SpooledMessage, Submission, Verdict
from .settings import Options

__all__ = ("HEADER_OCTETS", "header_of", "notices", "waived")

HEADER_OCTETS = 64 * 1024
"""Octets of the original's header that are returned, at most."""

_ENHANCED = re.compile(r"[45]\.\d{1,3}\.\d{1,3}")
_NO_QCHAR = re.compile(r"[^\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]")
_XTEXT = re.compile(r"\+([0-9A-Fa-f]{2})")
_MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]{1,250}>")
_REFERENCES = 20
_TEXT_OCTETS = 900
_PASSES = re.compile(rb"(?:[\t\x20-\x7e]{0,998}\r\n)*")
"""Lines that every server accepts and does not change (RFC 5322 §2.1.1)."""


def notices(
    message: SpooledMessage,
    recipients: Sequence[Recipient],
    header: bytes,
    options: Options,
    now: float,
    *,
    delayed: bool = False,
) -> list[Notice]:
    """Make the notifications about the failure or delay of these recipients: messages with the null reverse-path.

    There is none about a message with a null reverse-path, because that may be a notification itself. The sender gets
    none about a recipient for whom it asked for none (NOTIFY, RFC 3461 §4.1). The postmaster is told of all recipients.
    """
    if message.notice or message.reverse_path == NULL_REVERSE_PATH:
        return []
    wanted = [each for each in recipients if options.notify_sender and not waived(each, delayed=delayed)]
    postmaster = None if wanted and options.postmaster == message.reverse_path else options.postmaster
    mailings: list[tuple[list[str], Sequence[Recipient]]]
    if postmaster and len(wanted) == len(recipients):
        mailings = [([message.reverse_path, postmaster], wanted)]
    else:
        mailings = [([message.reverse_path], wanted), ([postmaster or ""], recipients if postmaster else [])]
    made: list[Notice] = []
    for to, about in mailings:
        if about:
            # One notification counts for a recipient: the sender's, if the postmaster gets another one.
            settled = {number for notice in made for number in notice.about}
            numbers = () if delayed else tuple(each.number for each in about if each.number not in settled)
            content = _report(message, about, to, header, options, delayed=delayed)
            made.append(Notice(_submission(message, to, now), content, numbers))
    return made


def waived(recipient: Recipient, *, delayed: bool = False) -> bool:
    """Whether the sender asked for no notification about this recipient's failure or delay (NOTIFY, RFC 3461 §4.1)."""
    asked = recipient.parameters.get("NOTIFY")
    return asked is not None and ("DELAY" if delayed else "FAILURE") not in asked.upper().split(",")


def _submission(message: SpooledMessage, to: Sequence[str], now: float) -> Submission:
    parameters: dict[str, str | None] = {} if all(path.isascii() for path in to) else {"SMTPUTF8": None}
    client = Client("", f"notice-of-{message.number}", _host())
    return Submission(message.account, client, NULL_REVERSE_PATH, parameters, [(path, {}) for path in to], now)


async def header_of(content: AsyncGenerator[bytes, None]) -> bytes:
    """The header of a message, as complete lines without the blank line."""
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


def _report(
    message: SpooledMessage,
    recipients: Sequence[Recipient],
    to: Sequence[str],
    header: bytes,
    options: Options,
    *,
    delayed: bool,
) -> bytes:
    boundary, host = f"=_{secrets.token_hex(16)}", _host()
    head = (
        f"From: Mail delivery system <{_address(options.daemon or f'MAILER-DAEMON@{host}')}>\r\n"
        f"To: {', '.join(f'<{_addressee(path)}>' for path in to)}\r\n"
        f"Subject: {'Mail is late' if delayed else 'Mail could not be delivered'}\r\n"
        f"Date: {format_datetime(datetime.now(UTC))}\r\n"
        f"Message-ID: <{secrets.token_hex(16)}@{host}>\r\n"
        f"{_thread(header)}"
        "Auto-Submitted: auto-replied\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"\r\n'
        "\r\n"
    )
    status = (
        "Content-Type: message/delivery-status\r\n"
        "\r\n"
        f"{_envelope_id(message)}"
        f"Reporting-MTA: dns; {host}\r\n"
        f"Arrival-Date: {_date(message.received)}\r\n"
        f"{''.join(_fields(message, each, options, delayed=delayed) for each in recipients)}"
    )
    parts = (_text(_words(message, recipients, delayed=delayed)), status.encode("ascii"), _quoted(header))
    opening = f"--{boundary}\r\n".encode("ascii")
    return head.encode() + b"".join(opening + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode("ascii")


def _text(words: str) -> bytes:
    part = MIMEPart(SMTP)
    if words.isascii():
        part.set_content(words, charset="us-ascii", cte="7bit")
    else:
        part.set_content(words, charset="utf-8", cte="quoted-printable")
    return part.as_bytes()


def _quoted(header: bytes) -> bytes:
    """The part with the original's header. A reader gets it octet for octet."""
    if _PASSES.fullmatch(header):
        return b"Content-Type: text/rfc822-headers\r\n\r\n" + header
    kind = b"text/rfc822-headers" if header.isascii() or not _is_utf_8(header) else b"message/global-headers"
    encoded = binascii.b2a_qp(header, istext=True)
    return b"Content-Type: " + kind + b"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + encoded


def _is_utf_8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def _thread(header: bytes) -> str:
    """Fields that make mail programs show the notification beside the original message (RFC 5322 §3.6.4)."""
    original = Header(header)
    answered = _MESSAGE_ID.findall(original.get("Message-ID") or "")[:1]
    if not answered:
        return ""
    before = _MESSAGE_ID.findall(original.get("References") or original.get("In-Reply-To") or "")
    references = "\r\n ".join([*before[-_REFERENCES:], *answered])
    return f"In-Reply-To: {answered[0]}\r\nReferences: {references}\r\n"


def _envelope_id(message: SpooledMessage) -> str:
    """The sender's name of the envelope (RFC 3461 §4.4)."""
    given = message.parameters.get("ENVID")
    return f"Original-Envelope-Id: {_decoded(given)}\r\n" if given else ""


def _decoded(xtext: str) -> str:
    """Decode xtext (RFC 3461 §4). A code that is no printable character is not decoded."""
    return _shown(
        _XTEXT.sub(lambda found: decoded if 0x20 <= ord(decoded := chr(int(found[1], 16))) < 0x7F else found[0], xtext)
    )


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
        code = f"{each.verdict.code} {each.verdict.enhanced}".rstrip() if each.verdict and each.verdict.code else ""
        lines.append(f"  <{_addressee(each.forward_path)}>")
        lines.append(f"      {code} {' '.join(_addressee(said).split())}"[:_TEXT_OCTETS].rstrip())
    lines += ["", "The header of the message is attached."]
    return "".join(f"{line}\n" for line in lines)


def _fields(message: SpooledMessage, recipient: Recipient, options: Options, *, delayed: bool) -> str:
    verdict = recipient.verdict or Verdict(0, "", "", message.received)
    fields = ["", *_original_recipient(recipient)]
    fields += [
        f"Final-Recipient: {_typed(recipient.forward_path)}",
        f"Action: {'delayed' if delayed else 'failed'}",
        f"Status: {_status(verdict, delayed=delayed)}",
    ]
    if verdict.code:
        said = f"{verdict.code} {_enhanced(verdict)}".rstrip()
        fields.append(f"Diagnostic-Code: smtp; {said} {_shown(verdict.text)}"[:_TEXT_OCTETS])
    elif verdict.text:
        fields.append(f"Diagnostic-Code: x-proxy; {_shown(verdict.text)}"[:_TEXT_OCTETS])
    fields.append(f"Last-Attempt-Date: {_date(verdict.time)}")
    if delayed:
        fields.append(f"Will-Retry-Until: {_date(message.since + options.give_up_seconds)}")
    return "".join(f"{field}\r\n" for field in fields)


def _original_recipient(recipient: Recipient) -> list[str]:
    """The recipient as the sender named it (ORCPT, RFC 3461 §4.2)."""
    kind, separator, address = (recipient.parameters.get("ORCPT") or "").partition(";")
    # An address of the type utf-8 has its own encoding, which is kept in this field (RFC 6533 §3).
    decoded = _shown(address) if kind.lower() == "utf-8" else _decoded(address)
    return [f"Original-Recipient: {_shown(kind)}; {decoded}"] if separator and decoded else []


def _status(verdict: Verdict, *, delayed: bool) -> str:
    """The enhanced code of the last reply, or a general one (RFC 3463)."""
    if given := _enhanced(verdict):
        return given
    if delayed:
        return "4.0.0"
    # Not refused for good, but given up: "delivery time expired" (RFC 3463 §3.5).
    return "5.0.0" if verdict.code >= 500 else "5.4.7"


def _enhanced(verdict: Verdict) -> str:
    """The enhanced code, or nothing if it contradicts the code: then nobody knows which one is right."""
    found = _ENHANCED.fullmatch(verdict.enhanced)
    return verdict.enhanced if found and verdict.enhanced[0] == str(verdict.code)[0] else ""


def _host() -> str:
    return socket.gethostname() or "localhost"


def _date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))


def _shown(text: str) -> str:
    return " ".join(re.sub(r"[^\x21-\x7e]+", " ", text).split())


def _addressee(path: str) -> str:
    """Text for a line of UTF-8, without characters that could end the line."""
    return "".join(each if each.isprintable() else "?" for each in path)


def _typed(path: str) -> str:
    """An address with its type. Characters that are not ASCII are written as numbers (RFC 6533 §3)."""
    if path.isascii():
        return f"rfc822; {_address(path)}"
    return "utf-8; " + _NO_QCHAR.sub(lambda found: f"\\x{{{ord(found[0]):X}}}", path)


def _address(path: str) -> str:
    """An address for a header field, without characters that could end the field or are not ASCII."""
    return re.sub(r"[^\x20-\x7e]", "?", path)
