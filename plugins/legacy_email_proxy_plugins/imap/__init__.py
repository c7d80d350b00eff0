r"""The ``imap`` maildrop (entry point ``legacy_email_proxy_plugins.imap:IMAPMaildrop``).

A session lists the folder once and then borrows a connection for each exchange::

    maildrop   settings, sessions, ``probe``          session    RETR, TOP and QUIT as exchanges with the server
    accounts   one pool per user and password         pool       bounded connections, one thread each; ``breaker``
    connection IMAP, synchronously (client (the    index      UIDs, octets, unique-ids     body   one message, proven
               of imapclient)                         wire       octets within deadlines      stream thread → event loop

Never SEARCH, EXAMINE, message sequence numbers or a plain EXPUNGE; always ``BODY.PEEK[]``, so that no \Seen is set.
"""

from __future__ import annotations

from .maildrop import IMAPMaildrop

__all__ = ("IMAPMaildrop",)
