"""The router of the SMTP leg: a relay that passes each transaction to the relay of the account that rules choose.

Where a rule needs a recipient, the account is chosen at the first RCPT: its transaction opens then, and all other
recipients of the message go the same way. Two backends could give two verdicts on one message, but the device can read
only one.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from .. import log
from ..contracts import (
    Client,
    Finding,
    Parameters,
    PipeliningTransaction,
    Receipt,
    Recipient,
    Refused,
    Relay,
    RelayCapabilities,
    Transaction,
    add_recipients,
    bound,
)
from ..relays.wrapper import all_verdicts
from ..replies import SMTP, refusal
from ..smtp.handler import check, limit
from ..smtp.reading import Measured
from .plugins import close_all, probe_all, start_all
from .pop_before_smtp import RecentLogins
from .rules import Facts, Leg, Match, Rule, asks_for_logins, candidates, choose, login_would_help

__all__ = ("RoutedRelay",)

_log = logging.getLogger("legacy_email_proxy.accounts")


class RoutedRelay:
    """See :class:`~legacy_email_proxy.contracts.Relay`. ``relays`` are by account."""

    def __init__(self, relays: Mapping[str, Relay], rules: Sequence[Rule], recent: RecentLogins) -> None:
        self._relays = relays
        self._rules = rules
        self._recent = recent
        self._asks_for_logins = asks_for_logins(rules)

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """Open the account's transaction: at MAIL, unless a rule first wants to know the recipient."""
        recent = await self._recent.of_all(client.address) if self._asks_for_logins else ()
        logged_in = tuple((name, age) for name, age in recent if name in self._relays)
        facts = Facts(Leg.SMTP, client.address, client.port, client.login, reverse_path, logged_in)
        found = candidates(self._rules, facts)
        if not found:
            raise _no_account(self._rules, facts)

        @asynccontextmanager
        async def opened(match: Match) -> AsyncIterator[_Chosen]:
            log.event(
                _log, logging.DEBUG, "account chosen", session=client.session, account=match.account,
                rule=match.rule.place,
            )  # fmt: skip
            relay = self._relays[match.account]
            check(parameters, relay.capabilities())
            with bound(account=match.account):
                async with relay.transaction(client, reverse_path, parameters) as transaction:
                    yield _Chosen(transaction, relay)

        if found[0].recipients is None:
            async with opened(found[0]) as transaction:
                yield transaction
        else:
            async with AsyncExitStack() as stack:
                yield _ByRecipient(found, opened, stack, lambda recipient: _no_account(self._rules, facts, recipient))

    def capabilities(self) -> RelayCapabilities:
        """What at least one account can: at EHLO none is chosen yet, and the one that is chosen later judges."""
        each = [relay.capabilities() for relay in self._relays.values()]
        limits = [one.max_octets for one in each if one.max_octets]
        largest = max(limits) if limits and len(limits) == len(each) else None
        return RelayCapabilities(largest, any(one.smtputf8 for one in each), any(one.dsn for one in each))

    async def start(self) -> None:
        """Start those that have a ``start``. Raises :class:`SettingsMistake` with all mistakes."""
        await start_all(self._relays)

    async def probe(self) -> Sequence[Finding]:
        """What each account's relay finds, with its name in front."""
        return await probe_all(self._relays)

    async def aclose(self) -> None:
        """Close all of them."""
        await close_all(self._relays)


def _no_account(rules: Sequence[Rule], facts: Facts, recipient: str | None = None) -> Refused:
    """The refusal for a client without an account. If a login would help, it says so (RFC 4954 §6)."""
    if login_would_help(rules, facts, recipient):
        return refusal(SMTP.LOGIN_NEEDED, "rules of the accounts file lead to an account only after a login")
    what = "" if recipient is None else " this recipient"
    return refusal(SMTP.NO_ACCOUNT, f"no rule of the accounts file fits{what}")


class _Chosen:
    """The transaction of the account that was chosen, which takes no larger messages than its own backend does."""

    def __init__(self, transaction: Transaction, relay: Relay) -> None:
        self._transaction = transaction
        self._relay = relay

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        await self._transaction.add_recipient(forward_path, parameters)

    async def add_recipients(
        self, recipients: Sequence[Recipient], *, content_follows: bool
    ) -> Sequence[Refused | None]:
        return await add_recipients(self._transaction, recipients, content_follows=content_follows)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        # Only now: before the first transaction was open, the backend's limit was not known.
        return await self._transaction.send(Measured(content, limit(self._relay.capabilities())))


class _ByRecipient(PipeliningTransaction):
    """A transaction that is opened at its first recipient. All recipients of a message go through one account."""

    def __init__(
        self,
        found: Sequence[Match],
        opened: Callable[[Match], AbstractAsyncContextManager[Transaction]],
        stack: AsyncExitStack,
        no_account: Callable[[str], Refused],
    ) -> None:
        self._found = found
        self._opened = opened
        self._stack = stack
        self._no_account = no_account
        self._account = ""
        self._transaction: Transaction | None = None

    async def add_recipients(
        self, recipients: Sequence[Recipient], *, content_follows: bool
    ) -> Sequence[Refused | None]:
        checked: list[Recipient | Refused] = []
        for recipient in recipients:
            try:
                await self._go_to_account_of(recipient.forward_path)
                checked.append(recipient)
            except Refused as refused:
                checked.append(refused)
        if self._transaction is None:
            return all_verdicts(checked, ())
        wanted = [each for each in checked if isinstance(each, Recipient)]
        return all_verdicts(checked, await add_recipients(self._transaction, wanted, content_follows=content_follows))

    async def _go_to_account_of(self, forward_path: str) -> None:
        """Open its account's transaction, if none is open. Raises :class:`Refused` where it can not go there."""
        match = choose(self._found, forward_path)
        if match is None:
            raise self._no_account(forward_path)
        if self._transaction is None:
            self._transaction = await self._stack.enter_async_context(self._opened(match))
            self._account = match.account
        elif match.account != self._account:
            # The device then sends the others in another message, as for a message with too many recipients (RFC 5321
            # §4.5.3.1.10).
            detail = f"it goes to account {match.account}, the message so far to {self._account}"
            raise refusal(SMTP.ANOTHER_MESSAGE, detail)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        if self._transaction is None:
            raise refusal(SMTP.NO_VALID_RECIPIENTS, "no recipient was accepted")
        return await self._transaction.send(content)
