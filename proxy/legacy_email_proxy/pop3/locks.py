"""``POP3_LOCK``, the exclusive-access lock of RFC 1939 §4: which maildrops are held, and by whom.

It ends with the session that holds it, however that ends. Where several proxies share a database, it holds for all of
them: there it is taken for a minute at a time, so that the maildrops of a proxy that died are free again soon.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

from .. import log
from ..contracts import Failure, MaildropBusy, SharedState

__all__ = ("MaildropLocks",)

_KIND = "pop3 lock"
_HELD_SECONDS = 60.0
_RENEWED_SECONDS = 20.0
"""So that two renewals may fail."""

logger = logging.getLogger("legacy_email_proxy.pop3")


class MaildropLocks:
    """The maildrops that are held."""

    def __init__(self, shared: SharedState | None = None) -> None:
        self._shared = shared
        self._held: set[str] = set()
        self._holder = secrets.token_hex(16)
        """One for all sessions of this proxy, so that none is kept out by what an earlier one could not give back."""

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Hold the maildrop of this name or user, ``""`` for the configured one. Raises :class:`MaildropBusy`.

        Call it once the maildrop is open, so that only a client with the right password learns of the lock. Most
        servers treat ``Me`` and ``me`` as one user, and so does this lock.
        """
        key = name.casefold()
        if key in self._held:
            raise _busy()
        self._held.add(key)
        try:
            if self._shared is None:
                yield
            else:
                async with _everywhere(self._shared, key, self._holder):
                    yield
        finally:
            self._held.discard(key)


@asynccontextmanager
async def _everywhere(shared: SharedState, key: str, holder: str) -> AsyncIterator[None]:
    renewing = asyncio.create_task(_renew(shared, key, holder))
    try:
        if not await _free(shared, key, holder):
            raise _busy()
        yield
    finally:
        renewing.cancel()
        # Also after a wait that was given up: the database may have done what was asked. If it is away, the lock ends
        # by its time.
        with anyio.CancelScope(shield=True), suppress(Failure):
            await shared.leave(_KIND, key, holder)


async def _free(shared: SharedState, key: str, holder: str) -> bool:
    try:
        return await shared.take(_KIND, key, holder, _HELD_SECONDS)
    except Failure as failure:
        # Mail that can not be read would be worse than two sessions at once, which most clients never have.
        log.event(logger, logging.WARNING, "maildrop locked in this proxy only", cause=str(failure))
        return True


async def _renew(shared: SharedState, key: str, holder: str) -> None:
    while True:
        await asyncio.sleep(_RENEWED_SECONDS)
        with suppress(Failure):
            await shared.take(_KIND, key, holder, _HELD_SECONDS)


def _busy() -> MaildropBusy:
    return MaildropBusy("another session holds this maildrop", look_at="POP3_LOCK")
