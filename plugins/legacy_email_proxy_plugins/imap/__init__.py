r"""The ``imap`` maildrop (entry point ``legacy_email_proxy_plugins.imap:IMAPMaildrop``).

A session opens the folder once and then borrows a connection for each exchange::

    maildrop        opens the folder, says what is shown of it; ``probe``: what ``check`` is told
    session         RETR, TOP and QUIT as exchanges with the server
    unfetchable     messages that can not be had, and what servers send in their place
    prefetch        the next messages before they are asked for
    account_cache   what an account's sessions share: listing, messages, one look for many
    pool            one pool for each user and password; bounded connections, one thread each
    connection      IMAP, synchronously; ``imapclient_adapter``: imaplib and IMAPClient over our ``transport``
    responses       what a server answers; ``response_codes``: what a refusal means
    listing         UIDs, octets, unique-ids
    deletion        what QUIT means, on many UIDs at once; ``folder_state``: what is kept on disk
    login           the ways to log in
    settings        the folder, time limits; the site's choices

Never SEARCH, EXAMINE, message sequence numbers or a plain EXPUNGE; always ``BODY.PEEK[]``, so that no \Seen is set.
"""

from __future__ import annotations

from .maildrop import IMAPMaildrop

__all__ = ("IMAPMaildrop",)
