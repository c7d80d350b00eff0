"""Opens the folder, and lists no more of it than what is not known yet; in the worker thread.

UIDs only grow (RFC 9051 §2.3.1.1). So when a listing was complete below one UIDNEXT, then everything below it that is
not in the listing never will be; and as many messages as before means the same messages as before. Wherever that does
not add up, the whole folder is listed: nothing is guessed.
"""

from __future__ import annotations

import logging

from legacy_email_proxy.contracts import Disconnected

from .account_cache import Listed, Shelf
from .connection import Connection
from .listing import Index, Mailbox, Sizes

__all__ = ("open_folder",)


def open_folder(shelf: Shelf, connection: Connection, logger: logging.Logger) -> Index:
    """SELECT, and what has to be listed; the result is left on ``shelf`` for the next.

    Messages that the server can't list as it should are not shown; the log names them. Where that would leave nothing
    to show, it is a :class:`Disconnected`: a client takes an empty maildrop for the truth.
    """
    mailbox = connection.select()
    listed = shelf.listed
    sizes = None if listed is None else _continued(listed, mailbox, connection)
    undisturbed = True
    if listed is not None and sizes is listed.index.sizes:
        index = listed.index  # The very same, so that what is made of it can be shared as well.
    else:
        if sizes is None:
            listing = connection.listing()
            sizes, undisturbed = listing.sizes(), listing.undisturbed
            if listing.fault:
                undisturbed = False
                if not sizes:
                    raise Disconnected(f"could not list the folder, the server broke the protocol: {listing.fault}")
                facts = {"shown": len(sizes), "of": mailbox.exists, "cause": listing.fault}
                logger.warning("the server's listing can not be read whole", extra={"facts": facts})
        index = Index(mailbox.uidvalidity, sizes)
    if undisturbed and len(sizes) == sizes.below(mailbox.uidnext) == mailbox.exists:
        shelf.listed = Listed(mailbox.uidnext, index)
    return index


def _continued(listed: Listed, mailbox: Mailbox, connection: Connection) -> Sizes | None:
    """What was listed and what has come since; ``None`` if that is not the whole folder."""
    known = listed.index.sizes
    if mailbox.uidvalidity != listed.index.uidvalidity or not listed.uidnext <= mailbox.uidnext:
        return None
    arrived = mailbox.exists - len(known)
    if mailbox.uidnext == listed.uidnext:
        return known if arrived == 0 else None
    if arrived < 0:
        return None
    listing = connection.listing(listed.uidnext)
    later = listing.sizes()
    # A message that came after SELECT counted is welcome, but proves nothing.
    proven = listing.undisturbed and not listing.fault and later.below(mailbox.uidnext) == arrived
    return known.with_later(later) if proven else None
