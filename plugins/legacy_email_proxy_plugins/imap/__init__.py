r"""The ``imap`` maildrop (entry point ``legacy_email_proxy_plugins.imap:IMAPMaildrop``).

A session opens the folder once and then borrows a connection for each exchange::

    maildrop   settings, sessions, ``probe``          session    RETR, TOP and QUIT as exchanges with the server
    accounts   one pool and shelf per user and        pool       bounded connections, one thread each
               password                               shelf      what an account's sessions share: listing, messages
    folder     what has to be listed, and what not    ahead      the next messages before they are asked for
    connection IMAP, synchronously                    client     imaplib and IMAPClient over our ``wire``
    index      UIDs, octets, unique-ids; ``listing``  body       one message, proven; ``batch``: several
    wire       octets within deadlines, ``tls``       stream     thread → event loop
    view       what of the folder is shown            deletion   what QUIT means        actions    on many UIDs at once
    options    the site's choices                     memory     of a folder, on disk   throttle   the server's pauses
    watch      messages that can not be had           substitute Exchange's stand-ins   unique_ids
    opening    one look at the folder for many        credentials the ways to log in    verdicts   what a refusal means

Never SEARCH, EXAMINE, message sequence numbers or a plain EXPUNGE; always ``BODY.PEEK[]``, so that no \Seen is set.
"""

from __future__ import annotations

from .maildrop import IMAPMaildrop

__all__ = ("IMAPMaildrop",)
