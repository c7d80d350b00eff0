"""How many descriptors the process may have open, and how many connections of clients that allows.

Each connection takes one. With none left no backend can be reached, no file of the spool opened and no name resolved,
so clients that only connect could stop everything. They get a part of the descriptors, and no more.
"""

from __future__ import annotations

import resource

__all__ = ("clients_of_each", "raised")

_LEAST_RESERVE = 96


def raised() -> int:
    """Raise the limit of the process as far as it may by itself, and return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            # Some systems name a hard limit that they do not grant.
            return _number(soft)
    return _number(hard)


def clients_of_each(descriptors: int, legs: int) -> int:
    """How many clients each leg may have. A quarter of all, and 96 at least, is for backends, files and the spool."""
    return max(1, (descriptors - max(_LEAST_RESERVE, descriptors // 4)) // max(1, legs))


def _number(limit: int) -> int:
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit
