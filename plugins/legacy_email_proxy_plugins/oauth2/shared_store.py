"""Tokens in the database that several proxies share: one consent serves all of them, and one renews at a time.

A renewal holds the lock for as long as its answer may take, also if its proxy dies or loses the database meanwhile. The
others wait until then: the provider may have replaced the refresh token, and if another proxy used the old one, the
provider would take that for theft and end the consent. Their access token is still good for some minutes, as it is
renewed early.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.to_thread import run_sync

from legacy_email_proxy.contracts import Failure, Overloaded, Secret, SharedState, StorageFull

from .records import Damaged, Record, Seal, TokenStore
from .store import LOCK_SECONDS

__all__ = ("HELD_SECONDS", "SharedStore")

HELD_SECONDS = 360.0
"""Longer than the answer to a renewal is waited for."""
_KIND = "oauth2 token"
_FRESH_SECONDS = 5.0
"""So long what was read is good for the next login; a consent that was given elsewhere is seen after it."""
_RETRY_SECONDS = 0.2
_LOOK_AT = "STATE_URL"


class SharedStore:
    """See :class:`~.records.TokenStore`. ``former`` is where this proxy alone kept the token before."""

    def __init__(
        self,
        state: SharedState,
        account: str,
        key: Secret | None,
        former: TokenStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._account = account
        self._seal = Seal(account, key, "its row in the table state", _LOOK_AT)
        self._former = former
        self._clock = clock
        self._holder = secrets.token_hex(16)
        self._looked = -math.inf
        self._octets: bytes | None = None
        self._record: Record | None = None
        self._unstored = False
        """Whether a new refresh token could not be stored: then the one in the database must not be used."""

    async def load(self) -> Record:
        """See :meth:`TokenStore.load`."""
        if self._record is None or self._clock() - self._looked >= _FRESH_SECONDS:
            try:
                await self._look()
            except Damaged:
                raise
            except Failure as failure:
                if self._record is None:
                    detail = f"the stored token can not be read: {failure.detail}"
                    raise Damaged(detail, look_at=failure.look_at) from None
        assert self._record is not None  # noqa: S101 (for the type checker)
        return self._record

    async def _look(self) -> None:
        # Also after a failure: while the database is away, not every login waits for it.
        self._looked = self._clock()
        octets = await self._state.read(_KIND, self._account)
        if octets is None:
            # Until the first renewal or consent that is stored in the database.
            self._octets, self._record = None, await self._former.load()
        elif octets != self._octets or self._record is None:
            self._record = None
            self._record = await run_sync(self._seal.record, octets)
            self._octets = octets

    async def save(self, record: Record) -> None:
        """See :meth:`TokenStore.save`."""
        octets = await run_sync(self._seal.octets, record)
        former = None if self._record is None else self._record.refresh_token
        self._unstored = record.refresh_token is not None and record.refresh_token != former
        await self._stored(lambda _: octets)
        self._unstored = False
        self._octets, self._record, self._looked = octets, record, self._clock()

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """See :meth:`TokenStore.room`: tries whether the database takes a change."""
        await self._stored(lambda octets: octets)
        yield

    @asynccontextmanager
    async def locked(self, seconds: float | None = None) -> AsyncIterator[None]:
        """See :meth:`TokenStore.locked`."""
        deadline = self._clock() + (LOCK_SECONDS if seconds is None else seconds)
        try:
            while not await self._taken():
                if self._clock() > deadline:
                    raise Overloaded("another proxy is busy with this account's token for too long")
                await anyio.sleep(_RETRY_SECONDS)
            with suppress(Damaged):  # the next `load` says so
                await self._looked_anew()
            yield
        finally:
            # Also after a wait that was given up: the database may have done what was asked. If it is away, the lock
            # ends by its time; so it does if nobody else may use the stored token, and until then we can store ours.
            if not self._unstored:
                with anyio.CancelScope(shield=True), suppress(Failure):
                    await self._state.leave(_KIND, self._account, self._holder)

    async def _looked_anew(self) -> None:
        """Another proxy may have replaced the token before it gave the lock back."""
        try:
            await self._look()
        except Damaged:
            raise
        except Failure as failure:
            raise _unwritable(failure) from None

    async def _taken(self) -> bool:
        try:
            return await self._state.take(_KIND, self._account, self._holder, HELD_SECONDS)
        except Failure as failure:
            raise _unwritable(failure) from None

    async def _stored(self, edit: Callable[[bytes | None], bytes | None]) -> None:
        try:
            await self._state.change(_KIND, self._account, edit)
        except Failure as failure:
            raise _unwritable(failure) from None


def _unwritable(failure: Failure) -> StorageFull:
    return StorageFull(f"the token can not be stored: {failure.detail}", look_at=failure.look_at)
