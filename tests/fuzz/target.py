"""What a target is, and how octets are cut."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise

__all__ = ("Target", "cut", "cuts_for")


@dataclass(frozen=True)
class Target:
    """``run`` takes octets and the places of the cuts, and raises where something is wrong. ``words`` are what inputs
    are made of that get beyond the parser's first branch.
    """

    run: Callable[[bytes, Collection[int]], None]
    words: tuple[bytes, ...]


def cut(octets: bytes, cuts: Collection[int]) -> list[bytes]:
    """The pieces, none of them empty."""
    places = sorted({0, len(octets), *(place % (len(octets) + 1) for place in cuts)})
    return [octets[start:end] for start, end in pairwise(places)]


def cuts_for(octets: bytes) -> list[int]:
    """Places for octets that came alone: random ones, but always the same for the same octets."""
    made = random.Random(zlib.crc32(octets))
    return [made.randrange(len(octets) + 1) for _ in range(made.choice((1, 2, 5, 20)))]
