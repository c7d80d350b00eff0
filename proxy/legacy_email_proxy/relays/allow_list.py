"""Who may send and to whom: ``SMTP_ALLOWED_SENDERS`` and ``SMTP_ALLOWED_RECIPIENTS``, a filter before all others.

An operator writes ``user@domain``, ``@domain``, or ``<>`` for the null reverse-path into these lists. A domain may be
written in letters of any language or as ``xn--…``, which is the same (IDNA 2008). The rules of an accounts file use the
same lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ..contracts import Context, Envelope, Filter, SettingsMistake, ascii_domain
from ..replies import SMTP, refusal

__all__ = ("Addresses", "AllowListFilter", "entries_holding")

_NULL = "<>"
_ROUTING = frozenset("@%!")
"""A local-part with one of these may name another domain, to which a backend may send the mail on: ``x%evil@here``. So
``@here`` does not allow such an address."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """A set of addresses and whole domains. Upper and lower case are the same, in the local-part too."""

    entries: frozenset[str]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """The list that these texts make. Raises :class:`ValueError` with a text for the operator."""
        entries = frozenset(_folded(text.strip()) for text in texts)
        for entry in sorted(entries):
            if entry != _NULL and not entry.rpartition("@")[2]:
                raise ValueError(f"{entry!r} has no domain; write user@domain or @domain")
            if entry != _NULL and "@" not in entry:
                raise ValueError(f"{entry!r} is no address; write user@domain, or @{entry} for a whole domain")
        return cls(entries)

    def holds(self, path: str) -> bool:
        """Whether this path (without brackets) is in the list. ``@domain`` holds neither addresses of its subdomains,
        nor one that a backend may send on to another domain.
        """
        folded = _folded(path) or _NULL
        # A path that is only `@domain` is no address.
        return not folded.startswith("@") and (folded in self.entries or _domain(folded) in self.entries)

    def covers(self, other: Addresses) -> bool:
        """Whether everything in ``other`` is in this list."""
        return all(any(one in self.entries for one in entries_holding(entry)) for entry in other.entries)


def entries_holding(entry: str) -> tuple[str, str]:
    """The entries of a list that would hold all of this entry: itself and its domain, ``""`` where none can."""
    return entry, _domain(entry)


def _folded(path: str) -> str:
    local, at, domain = path.rpartition("@")
    # Not casefold(), which makes ss of ß.
    return local.lower() + at + ascii_domain(domain.removesuffix(".")).lower()


def _domain(folded: str) -> str:
    """The entry ``@domain`` that would hold this address, ``""`` where none can."""
    local, at, domain = folded.rpartition("@")
    return at + domain if local and _ROUTING.isdisjoint(local) else ""


class AllowListFilter(Filter):
    """Refuses what the lists do not hold; a list that is not set allows everybody. Raises :class:`SettingsMistake`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        lists: list[Addresses | None] = []
        mistakes = []
        for variable in ("SMTP_ALLOWED_SENDERS", "SMTP_ALLOWED_RECIPIENTS"):
            given = context.settings[variable]
            try:
                lists.append(None if given is None else Addresses.parse(given))
            except ValueError as error:
                mistakes.append(f"{variable}: {error}")
        if mistakes:
            raise SettingsMistake(*mistakes)
        self._senders, self._recipients = lists

    async def reverse_path(self, envelope: Envelope) -> str:
        """The sender, if it may send."""
        if self._senders is not None and not self._senders.holds(envelope.reverse_path):
            raise refusal(SMTP.SENDER_NOT_ALLOWED, "not in SMTP_ALLOWED_SENDERS")
        return envelope.reverse_path

    async def forward_path(self, envelope: Envelope, forward_path: str) -> str:
        """The recipient, if it may be sent to."""
        if self._recipients is not None and not self._recipients.holds(forward_path):
            raise refusal(SMTP.RECIPIENT_NOT_ALLOWED, "not in SMTP_ALLOWED_RECIPIENTS")
        return forward_path
