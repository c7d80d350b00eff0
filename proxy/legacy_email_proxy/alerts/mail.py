"""Alerts by mail, through an account's relay.

They go straight to the provider and never into the spool, from the null reverse-path where the provider takes that. So
an alert about dead mail can not become dead mail itself, and nobody answers it automatically.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from itertools import islice

from .. import log
from ..build import NEXT_RELAY, Account
from ..contracts import NULL_REVERSE_PATH, Client, Failure, Receipt, Refused, Relay
from ..plugins import PluginContext
from ..relays.wrapper import start
from ..settings import Settings
from .alert import Alert

__all__ = ("Mail", "Sender", "senders_of")

_MAIL_SECONDS = 60.0
"""For one account."""
_MOST_ACCOUNTS = 3
"""How many accounts are tried for one mail: with all of a hundred down, this must end."""


@dataclass(frozen=True, slots=True)
class Sender:
    """An account by which mail may go out; ``address`` is its own, where it has one."""

    account: str
    relay: Relay
    address: str | None


class Mail:
    """Mail through the first of the accounts that takes it: the trouble may be another one's."""

    name = "ALERT_MAIL_TO"

    def __init__(self, addresses: Sequence[str], senders: Sequence[Sender], seconds: float = _MAIL_SECONDS) -> None:
        self._addresses = addresses
        self._senders = senders
        self._seconds = seconds
        self._started: set[str] = set()

    async def send(self, alert: Alert) -> str:
        """See :meth:`Channel.send`."""
        failure = Failure("no account has a relay")
        for sender in self._senders:
            through = f" through account {sender.account}" if sender.account else ""
            try:
                async with asyncio.timeout(self._seconds):
                    return f"{(await self._by(sender, alert)).detail}{through}"
            except TimeoutError:
                failure = Failure(f"not taken within {self._seconds:g} s{through}")
            except Failure as error:
                failure = Failure(f"{error}{through}")
        raise failure

    async def _by(self, sender: Sender, alert: Alert) -> Receipt:
        if sender.account not in self._started:
            await start(sender.relay)
            self._started.add(sender.account)
        content = self._written(sender, alert)
        try:
            return await self._given(sender, NULL_REVERSE_PATH, content)
        except Refused as refused:
            # Some providers refuse the null reverse-path, which notifications should have (RFC 5321 §4.5.5).
            if not refused.permanent or sender.address is None:
                raise
            return await self._given(sender, sender.address, content)

    async def _given(self, sender: Sender, reverse_path: str, content: bytes) -> Receipt:
        client = Client("", log.new_session("alert"), _host(), spooled=True)
        async with sender.relay.transaction(client, reverse_path, {"SIZE": str(len(content))}) as transaction:
            refused: list[Refused] = []
            for address in self._addresses:
                try:
                    await transaction.add_recipient(address, {})
                except Refused as verdict:
                    refused.append(verdict)
            if len(refused) == len(self._addresses):
                raise refused[0]
            return await transaction.send(_pieces(content))

    def _written(self, sender: Sender, alert: Alert) -> bytes:
        message = EmailMessage(SMTP)
        message["From"] = f"Mail proxy <{sender.address or f'mail-proxy@{_host()}'}>"
        message["To"] = ", ".join(self._addresses)
        message["Subject"] = alert.title
        message["Date"] = format_datetime(datetime.now(UTC))
        message["Message-ID"] = f"<{os.urandom(16).hex()}@{_host()}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(f"{alert.text}\n", charset="utf-8", cte="quoted-printable")
        return message.as_bytes()

    async def aclose(self) -> None:
        """Close the relays."""
        for sender in self._senders:
            await sender.relay.aclose()


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


def senders_of(accounts: Iterable[Account]) -> list[Sender]:
    """The first accounts that can send, each with a relay of its own for this. Raises :class:`SettingsMistake`."""
    able = islice((account for account in accounts if account.relay is not None), _MOST_ACCOUNTS)
    return [Sender(account.name, _direct_relay(account), _address_of(account.settings)) for account in able]


def _direct_relay(account: Account) -> Relay:
    """The account's relay, or the one behind it where that one keeps mail."""
    variable = NEXT_RELAY.get(account.settings["RELAY_PLUGIN"].rpartition(":")[2], "RELAY_PLUGIN")
    # With the account's own credentials, so that no token is renewed twice; the account closes them.
    context = PluginContext("alerts", account.settings, account.name, shared=dict(account.credentials))
    return context.relay(variable)


def _address_of(settings: Settings) -> str | None:
    """The account's own address, as the spool's notifications have it."""
    user = settings["BACKEND_SMTP_USER"]
    found: str | None = settings["SPOOL_NOTIFY_SENDER"] or settings["SMTP_SENDER"]
    return found or (user if user and "@" in user else None)


def _host() -> str:
    return socket.gethostname() or "localhost"
