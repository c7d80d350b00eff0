"""Makes the header say what the envelope says. Graph has no envelope: it delivers to To, Cc and Bcc of the header.

So recipients that only the envelope has are added as Bcc, which nobody reads, and addresses that are only in the header
are removed: mail that was redirected would still go to the first address. A field in which nothing has to change stays
as it is, octet for octet.
"""

from __future__ import annotations

from collections.abc import Sequence

from legacy_email_proxy.contracts import Header, ascii_domain

from ..filters.mailboxes import Mailbox, mailboxes

__all__ = ("MOST_RECIPIENTS", "address_header", "same_address")

MOST_RECIPIENTS = 500
"""Of one message (resources/message)."""
_FIELDS = ("To", "Cc")


def same_address(address: str) -> str:
    """What two spellings of an address have in common. Exchange takes no notice of case in local parts."""
    local, at, domain = address.strip().rpartition("@")
    if len(local) > 2 and local[0] == local[-1] == '"' and "\\" not in local:
        local = local[1:-1]
    return f"{local.casefold()}{at}{ascii_domain(domain).casefold()}"


def address_header(header: Header, forward_paths: Sequence[str]) -> None:
    """Change To, Cc and Bcc so that exactly ``forward_paths`` get the message, each once."""
    wanted = {same_address(path): path for path in forward_paths}
    for name in _FIELDS:
        values = header.get_all(name)
        if not values:
            continue
        given = [mailbox for value in values for mailbox in mailboxes(value)]
        kept = [mailbox for mailbox in given if mailbox.address and wanted.pop(same_address(mailbox.address), "")]
        if not kept:
            header.remove(name)
        elif kept != given or len(values) > 1 or set(":;") & set(values[0]):
            # Groups too: a group without members is refused as an address (SMTP2Graph, issue 30).
            header.replace(name, ", ".join(map(_written, kept)))
    header.remove("Bcc")
    if wanted:
        header.add("Bcc", ", ".join(wanted.values()))


def _written(mailbox: Mailbox) -> str:
    return f"{mailbox.name} <{mailbox.address}>" if mailbox.name else mailbox.address
