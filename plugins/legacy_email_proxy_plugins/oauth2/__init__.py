"""The credentials ``oauth2``: access tokens for both backends, from any of the usual grants.

``credentials`` fulfils the contract; ``configuration`` reads the settings, with what ``providers`` knows; ``tokens``
keeps an account's token and renews it, not too often; ``store`` keeps what outlives a restart, and ``disk`` keeps a
dead disk from holding anybody up; ``grants`` are the forms, ``assertions`` what is signed in them, ``http`` the
exchange, ``errors`` what is said when there is no token; ``consent`` is the dialogue with the mailbox's owner.
"""

from __future__ import annotations

from .credentials import OAuth2Credentials

__all__ = ("OAuth2Credentials",)
