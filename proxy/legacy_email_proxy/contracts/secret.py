"""A secret is a type of its own, so that printing, logging or dumping one by accident shows nothing."""

from __future__ import annotations

import hashlib

__all__ = ("Secret",)


class Secret:
    """A password or token. ``str``, ``repr`` and formatting give ``***``; only :meth:`reveal` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call it where the octets go on the wire, and nowhere else."""
        return self._text

    def fingerprint(self) -> bytes:
        """SHA-256 of the text: a key for pools and caches that must not mix two secrets, nor hold either."""
        return hashlib.sha256(self._text.encode("utf-8", "surrogateescape")).digest()

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __bool__(self) -> bool:
        return bool(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")
