"""One account's own filters, in front of its relay; and From for a message that has none.

They run once the account is chosen. Without an accounts file the process's own filters do their work.
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
from ..smtp.rewriting import Rewriting, send
from .wrapper import RelayWrapper, all_verdicts

__all__ = ("FilteredRelay",)


class FilteredRelay(RelayWrapper):
    """See :class:`~legacy_email_proxy.contracts.Relay`. The filters see what those of the whole process returned.

    With ``add_missing`` a message without From gets one, made of the reverse-path that the filters return. Other
    missing fields are added earlier, for all accounts alike.
    """

    def __init__(self, relay: Relay, filters: Mapping[str, Filter], *, add_missing: bool = False) -> None:
        super().__init__(relay)
        self._filters = filters
        self._rewriting = Rewriting(HeaderOptions(add_missing=add_missing), dict(filters), again=True)

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """Open the relay's transaction with the reverse-path that the filters return."""
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
    """The relay's transaction, with the paths that the filters return."""

    def __init__(self, transaction: Transaction, rewriting: Rewriting, mail: Envelope) -> None:
        self._transaction = transaction
        self._rewriting = rewriting
        self._mail = mail
        self._accepted: list[str] = []

    async def add_recipients(
        self, recipients: Sequence[Recipient], *, content_follows: bool
    ) -> Sequence[Refused | None]:
        checked: list[Recipient | Refused] = []
        wanted: list[Recipient] = []
        for recipient in recipients:
            # The backend has not judged those of the same group yet; a filter sees them as accepted.
            before = [*self._accepted, *(each.forward_path for each in wanted)]
            try:
                path = await self._rewriting.recipient(self._mail, before, recipient.forward_path)
            except Refused as refused:
                checked.append(refused)
            else:
                wanted.append(Recipient(path, recipient.parameters))
                checked.append(wanted[-1])
        verdicts = await add_recipients(self._transaction, wanted, content_follows=content_follows)
        self._accepted += [each.forward_path for each, verdict in zip(wanted, verdicts, strict=True) if verdict is None]
        return all_verdicts(checked, verdicts)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        # The "" is for a Received line, which is not written here: it was added before, for all accounts alike.
        return await send(self._transaction, self._rewriting.content(self._mail, self._accepted, "", content))
