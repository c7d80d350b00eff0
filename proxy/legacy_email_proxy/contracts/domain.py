"""Domain names in letters of any language, in the ASCII form in which the DNS has them (IDNA 2008).

Python's own codec, which sockets and TLS use, is of IDNA 2003 and makes ``ss`` of ``ß``. That is another domain, so a
login could be sent to a stranger's server.
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
