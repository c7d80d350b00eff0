r"""The ``imap`` maildrop (entry point ``legacy_email_proxy_plugins.imap:IMAPMaildrop``).

A session opens the folder once and then borrows a connection for each exchange::

    maildrop           settings, sessions, ``probe``; ``folder`` opens the folder, ``view`` says what is shown of it
    session            RETR, TOP and QUIT as exchanges with the server; ``stream`` leads from thread to event loop
    unfetchable        messages that can not be had; ``substitute``: what servers send in their place
    prefetch           the next messages before they are asked for
    account_cache      what an account's sessions share: listing, messages; ``opening``: one look for many
    accounts, pool     one pool for each user and password; bounded connections, one thread each
    connection         IMAP, synchronously; ``imapclient_adapter``: imaplib and IMAPClient over our ``transport``
    responses          what a server answers, ``top`` for a part of a message; ``response_codes``: what a refusal means
    listing, index     UIDs, octets, ``unique_ids``
    deletion           what QUIT means; ``actions``: on many UIDs at once; ``folder_state``: what is kept on disk
    login, throttle    the ways to log in; the pauses that a server asks for
    settings, options  host, port, TLS; the site's choices

Never SEARCH, EXAMINE, message sequence numbers or a plain EXPUNGE; always ``BODY.PEEK[]``, so that no \Seen is set.
"""

from __future__ import annotations

from .maildrop import IMAPMaildrop

__all__ = ("IMAPMaildrop",)
