"""The router of the POP3 leg: a maildrop that opens the maildrop of the account that rules choose."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from .. import log
from ..contracts import Client, Entry, Finding, Login, LoginRefused, Maildrop, MaildropSession, bound
from .plugins import close_all, probe_all
from .pop_before_smtp import RecentLogins
from .rules import Facts, Leg, Rule, asks_for_logins, candidates
from .users import Users

__all__ = ("RoutedMaildrop",)

_log = logging.getLogger("legacy_email_proxy.accounts")


class RoutedMaildrop:
    """See :class:`~legacy_email_proxy.contracts.Maildrop`. ``maildrops`` are by account.

    With ``users`` the client's login is checked here and never sent to a backend; without them it is passed on.
    """

    def __init__(
        self, maildrops: Mapping[str, Maildrop], rules: Sequence[Rule], recent: RecentLogins, users: Users | None
    ) -> None:
        self._maildrops = maildrops
        self._rules = rules
        self._recent = recent
        self._asked_for = asks_for_logins(rules)
        self._users = users

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[MaildropSession]:
        """Open the account's maildrop."""
        user = ""
        if self._users is not None:
            if login is None:
                raise LoginRefused("the client gave no user and password", look_at="POP3_LOGIN")
            await self._users.prove(login, client.address)
            user, login = login.user, None
        found = candidates(self._rules, Facts(Leg.POP3, client.address, client.port, user))
        if not found:
            # The same failure as for a wrong password, so that a client without an account learns nothing more.
            raise LoginRefused("no rule of the accounts file fits", look_at="ACCOUNTS_FILE")
        account = found[0].account
        facts = {"session": client.session, "account": account, "rule": found[0].rule.place}
        log.event(_log, logging.DEBUG, "account chosen", **facts)
        with bound(account=account):
            async with self._maildrops[account].open(client, login) as session:
                self._recent.note(client.address, account)
                if self._asked_for:
                    await self._recent.tell(client.address, account)
                yield _OfAccount(session, f"{account}/{login.user}" if login else account)

    async def probe(self) -> Sequence[Finding]:
        """What each account's maildrop finds, with its name in front."""
        return await probe_all(self._maildrops)

    async def aclose(self) -> None:
        """Close all of them."""
        await close_all(self._maildrops)


class _OfAccount:
    """A :class:`~legacy_email_proxy.contracts.NamedSession`: ``POP3_LOCK`` locks the account, not the local user."""

    def __init__(self, session: MaildropSession, name: str) -> None:
        self._session = session
        self.maildrop_name = name
        if hasattr(session, "at_hand"):
            self.at_hand = session.at_hand

    @property
    def entries(self) -> Sequence[Entry]:
        return self._session.entries

    def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        return self._session.retrieve(unique_id)

    def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        return self._session.top(unique_id, lines)

    async def commit(self, deleted: Collection[str]) -> None:
        await self._session.commit(deleted)
