"""How the C library takes memory from the system, and gives it back.

glibc gives each thread a heap of its own, up to eight for each processor core. Large messages pass through many
threads, and each heap keeps what was freed in it. So a busy proxy would grow for a long time, the longer the more cores
there are, though what it has in use stays the same. Its threads mostly wait for each other and for servers; two heaps
are enough for them.

A large block is taken from the system by itself, and goes back when it is freed. But glibc takes the first such free as
a sign that blocks of this size come and go: from then on it takes them from the heaps too, and keeps twice as much free
in each. The hash of one password needs 16 MiB, so a few wrong logins would leave up to 64 MiB with the process for
ever. Sizes that are set are not changed by glibc.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

__all__ = ("limit",)

_OPTIONS = (
    ("MALLOC_ARENA_MAX", -8, 2),
    # Larger than the pieces of a message, which come and go all the time.
    ("MALLOC_MMAP_THRESHOLD_", -3, 4 << 20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 8 << 20),
)
"""glibc's own environment variable, which goes before ours; its number in ``mallopt``; the value."""


def limit() -> None:
    """To be called before the first thread starts."""
    with suppress(OSError, AttributeError):  # not glibc: nothing to limit
        mallopt = ctypes.CDLL(None).mallopt
        for variable, option, value in _OPTIONS:
            if variable not in os.environ:
                mallopt(option, value)
