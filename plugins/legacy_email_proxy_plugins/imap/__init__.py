r"""The ``imap`` maildrop (entry point ``legacy_email_proxy_plugins.imap:IMAPMaildrop``).

A session opens the folder once and then borrows a connection for each exchange::

    maildrop        opens the folder, decides which messages are shown; ``probe``: what ``check`` reports
    session         RETR, TOP and QUIT as exchanges with the server
    unfetchable     messages that the server does not hand out, and the texts it sends in their place
    prefetch        reads the next messages before the client asks for them
    account_cache   what an account's sessions share: listing, prefetched messages, one SELECT for many
    pool            one pool for each user and password: a limited number of connections, one thread each
    connection      IMAP commands, synchronous; ``imapclient_adapter``: IMAPClient and imaplib over ``transport``
    responses       parses what the server answers; ``response_codes``: what a refusal means
    listing         UIDs, octets, unique-ids
    deletion        what QUIT does with marked messages; ``folder_state``: what is kept on disk for the next session
    login           LOGIN and AUTHENTICATE, and which of them is tried first
    settings        folder, time limits, and what a site chooses about the maildrop

It never uses SEARCH, EXAMINE, message sequence numbers or a plain EXPUNGE. It always asks for ``BODY.PEEK[]``, because
``BODY[]`` would set \Seen.
"""

from __future__ import annotations

from .maildrop import IMAPMaildrop

__all__ = ("IMAPMaildrop",)
