"""The credentials ``oauth2``: access tokens for both backends, from any of the usual grants.

``credentials`` implements the contract; ``configuration`` reads the settings, with defaults from ``providers``;
``tokens`` keeps an account's token and limits how often it is renewed; ``store`` keeps tokens in a file, ``encryption``
encrypts them, and ``disk`` limits how long a dead disk delays a session; ``grants`` builds the requests, ``assertions``
signs statements for them, ``http`` sends them, ``errors`` words their failures; ``consent`` is the dialogue with the
mailbox's owner.
"""

from __future__ import annotations

from .credentials import OAuth2Credentials

__all__ = ("OAuth2Credentials",)
