"""What is one account's own, in front of its relay: its filters, and From for a message without, as they leave it.

They can run only once the account is chosen. Without accounts the process's filters and lines stand in their place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from ..contracts import (
    Client,
    Envelope,
    Filter,
    Finding,
    Parameters,
    PipeliningTransaction,
    Receipt,
    Recipient,
    Refused,
    Relay,
    Transaction,
    add_recipients,
)
from ..smtp.headers import HeaderOptions
from ..smtp.rewriting import Rewriting
from .wrapper import RelayLayer, in_place

__all__ = ("FilteredRelay",)


class FilteredRelay(RelayLayer):
    """See :class:`~legacy_email_proxy.contracts.Relay`. The filters see what those of the whole process have left.

    With ``add_missing`` a message without From gets one, of the reverse-path that the filters leave; all else that a
    message may lack is added before, for all accounts alike.
    """

    def __init__(self, relay: Relay, filters: Mapping[str, Filter], *, add_missing: bool = False) -> None:
        super().__init__(relay)
        self._filters = filters
        self._rewriting = Rewriting(HeaderOptions(add_missing=add_missing), dict(filters))

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """Open the relay's transaction for the sender that the filters make of this one."""
        mail = await self._rewriting.mail(client, reverse_path, parameters)
        async with self._relay.transaction(client, mail.reverse_path, parameters) as transaction:
            yield _Filtered(transaction, self._rewriting, mail)

    async def probe(self) -> Sequence[Finding]:
        """The relay's, and what the filters say."""
        found = [*await super().probe()]
        for one in self._filters.values():
            found += await one.probe()
        return found

    async def aclose(self) -> None:
        """Close the relay, then the filters."""
        await super().aclose()
        for one in self._filters.values():
            await one.aclose()


class _Filtered(PipeliningTransaction):
    """See :class:`~legacy_email_proxy.contracts.PipeliningTransaction`: the relay's, for other paths."""

    def __init__(self, transaction: Transaction, rewriting: Rewriting, mail: Envelope) -> None:
        self._transaction = transaction
        self._rewriting = rewriting
        self._mail = mail
        self._accepted: list[str] = []

    async def add_recipients(
        self, recipients: Sequence[Recipient], *, content_follows: bool
    ) -> Sequence[Refused | None]:
        looked: list[Recipient | Refused] = []
        wanted: list[Recipient] = []
        for recipient in recipients:
            # A filter sees those that came together with it as if they were accepted.
            before = [*self._accepted, *(each.forward_path for each in wanted)]
            try:
                path = await self._rewriting.recipient(self._mail, before, recipient.forward_path)
            except Refused as refused:
                looked.append(refused)
            else:
                wanted.append(Recipient(path, recipient.parameters))
                looked.append(wanted[-1])
        verdicts = await add_recipients(self._transaction, wanted, content_follows=content_follows)
        self._accepted += [each.forward_path for each, verdict in zip(wanted, verdicts, strict=True) if verdict is None]
        return in_place(looked, verdicts)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        # Its word for a Received line is not used: that line is put there before, for all accounts alike.
        return await self._transaction.send(self._rewriting.content(self._mail, self._accepted, "", content))
