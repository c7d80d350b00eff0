"""The number of heaps from which the C library takes memory.

glibc gives each thread a heap of its own, up to eight for each processor core. Large messages pass through many
threads, and each heap keeps what was freed in it. So a busy proxy would grow for a long time, the longer the more cores
there are, though what it has in use stays the same. Its threads mostly wait for each other and for servers; two heaps
are enough for them.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

__all__ = ("limit",)

_M_ARENA_MAX = -8
_HEAPS = 2


def limit() -> None:
    """To be called before the first thread starts. ``MALLOC_ARENA_MAX``, glibc's own variable, goes before it."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(OSError, AttributeError):  # not glibc: nothing to limit
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS)
