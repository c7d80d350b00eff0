"""DKIM signatures (RFC 6376) of messages that pass: they are not verified here, but the log says what breaks one.

Mail whose signature is broken ends in spam folders. The setting or filter that changed it has to be found by somebody
who does not know that it did.
"""

from __future__ import annotations

import re
from collections import Counter

from ..contracts import Header

__all__ = ("Signatures",)

_BLANKS = re.compile(r"\s+")
_UNPRINTABLE = re.compile(r"[^!-~]")


class Signatures:
    """The signatures that stand in a header block, and what broke them."""

    def __init__(self, block: bytes) -> None:
        self.domains: list[str] = []
        self.broken_by: list[str] = []
        """What changed something that one of them covers: a setting, or a filter."""
        self._block = block
        self._names: list[Counter[str]] = []
        for value in Header(block).get_all("DKIM-Signature"):
            tags = dict(_tag(part) for part in value.split(";"))
            self.domains.append(_UNPRINTABLE.sub("?", tags.get("d", ""))[:255])
            self._names.append(Counter(tags.get("h", "").lower().split(":")))

    @classmethod
    def of(cls, block: bytes) -> Signatures | None:
        """Those of ``block``; ``None`` where there are none, as with nearly everything that a device sends."""
        return cls(block) if b"dkim-signature" in block.lower() else None

    def compare(self, block: bytes, changed_by: str) -> None:
        """Look at the header block as somebody has left it.

        Of a field that a signature names so many times, it covers so many from the bottom (§5.4.2); one that it names
        more often than it is there must not be added.
        """
        before, self._block = self._block, block
        if block == before:
            return
        had, has = _values(before), _values(block)
        for names in self._names:
            if any(had.get(name, [])[-times:] != has.get(name, [])[-times:] for name, times in names.items()):
                self.broken_by.append(changed_by)
                return


def _tag(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name.strip(), _BLANKS.sub("", value)


def _values(block: bytes) -> dict[str, list[str]]:
    """Name in lower case → the values, from the top, as far as a signature sees a difference."""
    found: dict[str, list[str]] = {}
    for name, value in Header(block).items():
        found.setdefault(name, []).append(_BLANKS.sub(" ", value))
    return found
