"""The composition that new sessions use, and its replacement at a reload while the listeners stay open.

An open maildrop and a mail transaction that has begun keep the composition with which they started. When the last of
them has ended, the plugins of that composition are closed.

A reload builds a whole new composition and then replaces the old one in one step, so the two are never mixed. Kept are
only the filters of the whole process, the logins that POP-before-SMTP remembers, and the counts of failed logins and of
messages in the last minute.
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
class _InUse:
    """A composition and how many sessions use it."""

    composition: Composition
    sessions: int = 0


class Current:
    """The current composition. ``retire`` is called with a former one when no session uses it any more."""

    def __init__(self, composition: Composition, retire: Callable[[Composition], object]) -> None:
        self._used = _InUse(composition)
        self._retire = retire

    @property
    def composition(self) -> Composition:
        """The one that new sessions use."""
        return self._used.composition

    def tls(self) -> ssl.SSLContext:
        """The context of a TLS handshake that begins now.

        A reload makes a new context. If the new certificate were loaded into the old context, OpenSSL would keep an old
        certificate with another type of key beside it, and show that one to some clients.
        """
        if self.composition.tls is None:
            raise TypeError("there is no certificate")
        return self.composition.tls

    def acquire(self) -> _InUse:
        """The composition for a new session; it is not retired before :meth:`release`."""
        self._used.sessions += 1
        return self._used

    def release(self, used: _InUse) -> None:
        """A session that used it has ended."""
        used.sessions -= 1
        if used is not self._used:
            self._retire_unused(used)

    async def prove(self, login: Login, address: str) -> None:
        """Judge a local user's password by the current accounts file; see :meth:`Users.prove`."""
        users = self.composition.users
        if users is None:
            raise TypeError("there is no accounts file")
        await users.prove(login, address)

    def replace(self, composition: Composition) -> None:
        """Use this composition for new sessions."""
        former, self._used = self._used, _InUse(composition)
        composition.logins.forget_refused()
        self._retire_unused(former)

    def _retire_unused(self, former: _InUse) -> None:
        if not former.sessions:
            self._retire(former.composition)


class _Keeping(AbstractAsyncContextManager[_Session], Generic[_Session]):
    """A session at a plugin of the current composition, which is not retired before the session is over."""

    def __init__(
        self, current: Current, opened: Callable[[Composition], AbstractAsyncContextManager[_Session]]
    ) -> None:
        self._current = current
        self._opened = opened
        self._used: _InUse
        self._context: AbstractAsyncContextManager[_Session]

    async def __aenter__(self) -> _Session:
        self._used = self._current.acquire()
        try:
            self._context = self._opened(self._used.composition)
            return await self._context.__aenter__()
        except BaseException:
            self._current.release(self._used)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._context.__aexit__(kind, error, traceback)
        finally:
            self._current.release(self._used)


class CurrentMaildrop:
    """The :class:`~legacy_email_proxy.contracts.Maildrop` of the composition that is current at the login."""

    def __init__(self, current: Current) -> None:
        self._current = current

    def open(self, client: Client, login: Login | None) -> AbstractAsyncContextManager[MaildropSession]:
        """Open a maildrop of the current plugin, which is not closed before the session ends."""
        return _Keeping(self._current, lambda composition: _maildrop(composition).open(client, login))

    async def probe(self) -> Sequence[Finding]:
        """What the current one finds."""
        return await _maildrop(self._current.composition).probe()

    async def aclose(self) -> None:
        """Close the current one."""
        await _maildrop(self._current.composition).aclose()


class CurrentRelay:
    """The :class:`~legacy_email_proxy.contracts.Relay` of the composition that is current at MAIL."""

    def __init__(self, current: Current) -> None:
        self._current = current

    def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction of the current plugin, which is not closed before the transaction is over."""
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
