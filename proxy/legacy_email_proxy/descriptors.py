"""How many descriptors the process may have open, and how many connections of clients that allows.

Each connection takes one. When there are none left, no backend can be reached, no file of the spool be opened and no
name be asked of a resolver: clients that only connect would stop everything. So they get a part, and no more.
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
