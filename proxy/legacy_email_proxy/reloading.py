"""What new sessions get: the composition of the moment, which a reload exchanges under running listeners.

A maildrop that is open and a mail transaction that has begun keep what they have; when the last of them has ended, the
plugins of the composition that they came from are closed.

A reload composes everything anew and exchanges it whole, so there is nothing half old and half new that could be wrong.
Only the logins that POP-before-SMTP remembers and the filters of the whole process live on.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from .build import Composition
from .contracts import (
    Client,
    Finding,
    Login,
    Maildrop,
    MaildropSession,
    Parameters,
    Relay,
    RelayCapabilities,
    Transaction,
)

__all__ = ("Current", "CurrentMaildrop", "CurrentRelay")

_Session = TypeVar("_Session")


@dataclass(slots=True, eq=False)
class _Lent:
    """A composition and how many sessions use it."""

    composition: Composition
    sessions: int = 0


class Current:
    """The composition of the moment. ``retire`` is called for one that was replaced and that nobody uses any more."""

    def __init__(self, composition: Composition, retire: Callable[[Composition], object]) -> None:
        self._lent = _Lent(composition)
        self._retire = retire

    @property
    def composition(self) -> Composition:
        """What is lent now."""
        return self._lent.composition

    def tls(self) -> ssl.SSLContext:
        """What a handshake that begins now shows.

        It is exchanged whole. Loaded into the former context, a certificate with another kind of key would stand beside
        the old one, which clients that want that kind would still be shown.
        """
        if self.composition.tls is None:
            raise TypeError("there is no certificate")
        return self.composition.tls

    def borrow(self) -> _Lent:
        """The composition, kept from being retired until it is given back."""
        self._lent.sessions += 1
        return self._lent

    def give_back(self, lent: _Lent) -> None:
        """One session less uses it."""
        lent.sessions -= 1
        self._retire_unused(lent)

    async def prove(self, login: Login, address: str) -> None:
        """Judge a local user's password by the accounts file of the moment; see :meth:`Users.prove`."""
        users = self.composition.users
        if users is None:
            raise TypeError("there is no accounts file")
        await users.prove(login, address)

    def replace(self, composition: Composition) -> None:
        """Lend this one from now on."""
        former, self._lent = self._lent, _Lent(composition)
        composition.logins.forget_refused()
        self._retire_unused(former)

    def _retire_unused(self, lent: _Lent) -> None:
        if lent is not self._lent and not lent.sessions:
            self._retire(lent.composition)


class _Keeping(AbstractAsyncContextManager[_Session], Generic[_Session]):
    """A session at a plugin of the current composition, which is kept until the session is over."""

    def __init__(
        self, current: Current, opened: Callable[[Composition], AbstractAsyncContextManager[_Session]]
    ) -> None:
        self._current = current
        self._opened = opened
        self._lent: _Lent
        self._context: AbstractAsyncContextManager[_Session]

    async def __aenter__(self) -> _Session:
        self._lent = self._current.borrow()
        try:
            self._context = self._opened(self._lent.composition)
            return await self._context.__aenter__()
        except BaseException:
            self._current.give_back(self._lent)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._context.__aexit__(kind, error, traceback)
        finally:
            self._current.give_back(self._lent)


class CurrentMaildrop:
    """See :class:`~legacy_email_proxy.contracts.Maildrop`: that of the composition which is current at the login."""

    def __init__(self, current: Current) -> None:
        self._current = current

    def open(self, client: Client, login: Login | None) -> AbstractAsyncContextManager[MaildropSession]:
        """Open a maildrop, and keep its plugin until it is closed."""
        return _Keeping(self._current, lambda composition: _maildrop(composition).open(client, login))

    async def probe(self) -> Sequence[Finding]:
        """What the current one finds."""
        return await _maildrop(self._current.composition).probe()

    async def aclose(self) -> None:
        """Close the current one."""
        await _maildrop(self._current.composition).aclose()


class CurrentRelay:
    """See :class:`~legacy_email_proxy.contracts.Relay`: that of the composition which is current at MAIL."""

    def __init__(self, current: Current) -> None:
        self._current = current

    def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction, and keep its plugin until it is over."""
        return _Keeping(
            self._current, lambda composition: _relay(composition).transaction(client, reverse_path, parameters)
        )

    def capabilities(self) -> RelayCapabilities:
        """Those of the current one."""
        return _relay(self._current.composition).capabilities()

    async def probe(self) -> Sequence[Finding]:
        """What the current one finds."""
        return await _relay(self._current.composition).probe()

    async def aclose(self) -> None:
        """Close the current one."""
        await _relay(self._current.composition).aclose()


def _maildrop(composition: Composition) -> Maildrop:
    if composition.maildrop is None:
        raise TypeError("the POP3 leg is closed")
    return composition.maildrop


def _relay(composition: Composition) -> Relay:
    if composition.relay is None:
        raise TypeError("the SMTP leg is closed")
    return composition.relay
