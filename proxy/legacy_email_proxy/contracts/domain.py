"""Domains in letters of any language, as the DNS has them: Python itself asks for another one.

Its codec, which sockets and TLS use too, is of IDNA 2003 and makes ``ss`` of ``ß``: a login could go to a stranger.
"""

from __future__ import annotations

__all__ = ("ascii_domain",)


def ascii_domain(domain: str) -> str:
    """The domain as ``xn--…`` (IDNA 2008). What is ASCII already, or no domain, is returned as it is."""
    if domain.isascii():
        return domain
    # Loading it takes longer than reading all settings, and few need it.
    import idna

    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        return domain
