"""Who may send and to whom: ``SMTP_ALLOWED_SENDERS`` and ``SMTP_ALLOWED_RECIPIENTS``, a filter before all others.

Its lists of addresses are as an operator writes them: ``user@domain``, ``@domain``, and ``<>`` for the null
reverse-path. A domain may be written in letters of any language or as ``xn--…``, which is the same (IDNA 2008). The
rules of an accounts file use the same lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ..contracts import Context, Envelope, Filter, SettingsMistake, ascii_domain
from ..replies import SMTP, refusal

__all__ = ("Addresses", "GuardFilter")

_NULL = "<>"
_ROUTING = frozenset("@%!")
"""In a local-part each of these may name another domain, to which a backend would send the mail on, as ``x%evil@here``:
such an address is in a domain only by its looks."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """A set of addresses and whole domains. Upper and lower case are one, in the local-part too."""

    entries: frozenset[str]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """The list that these texts make. Raises :class:`ValueError` in words."""
        entries = frozenset(_folded(text.strip()) for text in texts)
        for entry in sorted(entries):
            if entry != _NULL and not entry.rpartition("@")[2]:
                raise ValueError(f"{entry!r} has no domain; write user@domain or @domain")
            if entry != _NULL and "@" not in entry:
                raise ValueError(f"{entry!r} is no address; write user@domain, or @{entry} for a whole domain")
        return cls(entries)

    def holds(self, path: str) -> bool:
        """Whether this path (without brackets) is in the list; a domain does not stand for those below it, nor for
        an address that may lead out of it.
        """
        folded = _folded(path) or _NULL
        # A domain alone is nobody's address.
        return not folded.startswith("@") and (folded in self.entries or _domain(folded) in self.entries)

    def covers(self, other: Addresses) -> bool:
        """Whether everything in ``other`` is in this list."""
        return all(entry in self.entries or _domain(entry) in self.entries for entry in other.entries)


def _folded(path: str) -> str:
    local, at, domain = path.rpartition("@")
    # Not casefold(), for which ß is ss.
    return local.lower() + at + ascii_domain(domain.removesuffix(".")).lower()


def _domain(folded: str) -> str:
    """The entry that would stand for all of its domain, ``""`` where none can."""
    local, at, domain = folded.rpartition("@")
    return at + domain if local and _ROUTING.isdisjoint(local) else ""


class GuardFilter(Filter):
    """Lets through what the lists hold; a list that is not set holds everybody. Raises :class:`SettingsMistake`."""

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
