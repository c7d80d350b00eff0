"""Lists of addresses as an operator writes them: ``user@domain``, ``@domain``, and ``<>`` for the null reverse-path."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

__all__ = ("Addresses",)

_NULL = "<>"


@dataclass(frozen=True, slots=True)
class Addresses:
    """A set of addresses and whole domains. Upper and lower case are one, in the local-part too."""

    entries: frozenset[str]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """The list that these texts make. Raises :class:`ValueError` in words."""
        entries = frozenset(map(_folded, texts))
        for entry in sorted(entries):
            if entry != _NULL and not entry.rpartition("@")[2]:
                raise ValueError(f"{entry!r} has no domain; write user@domain or @domain")
            if entry != _NULL and "@" not in entry:
                raise ValueError(f"{entry!r} is no address; write user@domain, or @{entry} for a whole domain")
        return cls(entries)

    def holds(self, path: str) -> bool:
        """Whether this path (without brackets) is in the list; a domain does not stand for those below it."""
        folded = _folded(path) or _NULL
        return folded in self.entries or _domain(folded) in self.entries

    def covers(self, other: Addresses) -> bool:
        """Whether everything in ``other`` is in this list."""
        return all(entry in self.entries or _domain(entry) in self.entries for entry in other.entries)


def _folded(path: str) -> str:
    return path.strip().casefold().removesuffix(".")


def _domain(folded: str) -> str:
    local, at, domain = folded.rpartition("@")
    return at + domain if local else ""
