"""Who may send and to whom: ``SMTP_ALLOWED_SENDERS`` and ``SMTP_ALLOWED_RECIPIENTS``, in front of any relay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ..contracts import Client, Finding, Parameters, Receipt, Relay, RelayCapabilities, SettingsMistake, Transaction
from ..replies import SMTP, refusal
from .addresses import Addresses

__all__ = ("GuardedRelay", "guarded")


def guarded(relay: Relay, settings: Mapping[str, Any]) -> Relay:
    """``relay``, behind a guard where a setting asks for one. Raises :class:`SettingsMistake`."""
    lists: list[Addresses | None] = []
    mistakes = []
    for variable in ("SMTP_ALLOWED_SENDERS", "SMTP_ALLOWED_RECIPIENTS"):
        try:
            lists.append(None if settings[variable] is None else Addresses.parse(settings[variable]))
        except ValueError as error:
            mistakes.append(f"{variable}: {error}")
    if mistakes:
        raise SettingsMistake(*mistakes)
    senders, recipients = lists
    return relay if senders is recipients is None else GuardedRelay(relay, senders, recipients)


class GuardedRelay:
    """See :class:`~legacy_email_proxy.contracts.Relay`. ``None`` lets everybody through."""

    def __init__(self, relay: Relay, senders: Addresses | None, recipients: Addresses | None) -> None:
        self._relay = relay
        self._senders = senders
        self._recipients = recipients

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """Open the relay's transaction for a sender that is allowed."""
        if self._senders is not None and not self._senders.holds(reverse_path):
            raise refusal(SMTP.SENDER_NOT_ALLOWED, "not in SMTP_ALLOWED_SENDERS")
        async with self._relay.transaction(client, reverse_path, parameters) as transaction:
            yield transaction if self._recipients is None else _Guarded(transaction, self._recipients)

    def capabilities(self) -> RelayCapabilities:
        """The relay's."""
        return self._relay.capabilities()

    async def probe(self) -> Sequence[Finding]:
        """The relay's."""
        return await self._relay.probe()

    async def aclose(self) -> None:
        """Close the relay."""
        await self._relay.aclose()


class _Guarded:
    """A transaction that takes recipients one by one, and not all of them."""

    def __init__(self, transaction: Transaction, recipients: Addresses) -> None:
        self._transaction = transaction
        self._recipients = recipients

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        if not self._recipients.holds(forward_path):
            raise refusal(SMTP.RECIPIENT_NOT_ALLOWED, "not in SMTP_ALLOWED_RECIPIENTS")
        await self._transaction.add_recipient(forward_path, parameters)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        return await self._transaction.send(content)
