"""One sender address for all mail, for providers that accept only the account's own ("SendAsDenied").

The null reverse-path stays null: otherwise two servers could answer notifications with notifications for ever.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from legacy_email_proxy.contracts import Context, Envelope, Filter, Finding, Header, Level, SettingsMistake

from .mailboxes import Mailbox, mailboxes, phrase

__all__ = ("SenderFilter", "rewrite_header")

_ADDRESS = re.compile(r"[!#-'*+./0-9=?A-Z^_`a-z{|}~-]+@[A-Za-z0-9][A-Za-z0-9.-]*")


class SenderFilter(Filter):
    """Entry point ``sender``; ``SMTP_SENDER`` switches it on. See :class:`contracts.Filter`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        address: str | None = context.settings["SMTP_SENDER"]
        if address is None:
            raise SettingsMistake("SMTP_SENDER: not set; name the address that all mail shall come from")
        if not _ADDRESS.fullmatch(address):
            raise SettingsMistake(f"SMTP_SENDER: {address!r} is no address; write one like scanner@firm.example")
        self._sender = address
        self._rewrite: str = context.settings["SMTP_SENDER_REWRITE"]
        self._reply_to: bool = context.settings["SMTP_SENDER_REPLY_TO"]

    async def reverse_path(self, envelope: Envelope) -> str:
        """The address of ``SMTP_SENDER``; a null reverse-path stays null."""
        if envelope.reverse_path and self._rewrite != "header":
            return self._sender
        return envelope.reverse_path

    async def header(self, envelope: Envelope, header: Header) -> None:
        """Put the address of ``SMTP_SENDER`` into From; see :func:`rewrite_header`."""
        if self._rewrite != "envelope":
            rewrite_header(header, self._sender, envelope.given, reply_to=self._reply_to)

    async def probe(self) -> Sequence[Finding]:
        """Report the address, and whether it goes into the envelope, the header or both."""
        places = {"both": "envelope and header", "envelope": "envelope", "header": "header"}[self._rewrite]
        return [Finding(Level.GOOD, f"all mail comes from {self._sender} ({places})")]


def rewrite_header(header: Header, sender: str, given: str, *, reply_to: bool) -> None:
    """Make ``sender`` the only author of the message (RFC 5322 §3.6.2).

    From keeps its name; if it has none, the old address becomes the name, so that readers see which device sent the
    message. Of several authors, the first one's name stays. A Sender field with another address is removed: From has
    only one author now. ``given`` is the device's reverse-path, used for a message without From. With ``reply_to``,
    the old addresses of From become Reply-To, if there is none. A field that is already right is not changed.
    """
    values = header.get_all("From")
    authors = mailboxes(values[0]) if values else []
    if not authors:
        authors = [Mailbox(address=given)]
    if len(values) != 1 or not _only(authors, sender):
        first = authors[0]
        name = first.name or ("" if _only([first], sender) else phrase(first.address))
        header.replace("From", f"{name} <{sender}>" if name else sender)
    senders = [mailbox for value in header.get_all("Sender") for mailbox in mailboxes(value)]
    if "Sender" in header and not _only(senders, sender):
        header.remove("Sender")
    others = [author.address for author in authors if _ADDRESS.fullmatch(author.address)]
    if reply_to and others and "Reply-To" not in header and not _only(authors, sender):
        header.add("Reply-To", ", ".join(others))


def _only(found: list[Mailbox], address: str) -> bool:
    return bool(found) and all(one.address.lower() == address.lower() for one in found)
