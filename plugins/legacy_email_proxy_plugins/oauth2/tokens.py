"""One account's access token: kept while it is good, renewed once for all waiting sessions, with pauses after failures.

A renewal is a task of its own, because the session that began it may be cancelled or stop waiting at any moment. By
then the provider may have replaced the refresh token, and the new one must be stored all the same: if the old one is
used again, the provider suspects theft and revokes the consent. So credentials are closed after both legs, and have
minutes to end. ``check`` and the proxies on other machines renew under the lock of the same store, so that no two of
them ever use the same refresh token.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from legacy_email_proxy.contracts import BearerToken, Failure, NoCredentials, Secret, StorageFull, Unreachable

from ..backoff import Pause
from .configuration import Configuration
from .grants import Granted, Grants, Unfit
from .records import Damaged, Record, TokenStore

__all__ = ("Keeper",)

RENEW_AT = 0.8
"""After this part of its lifetime a token is renewed, while it still works."""
_WAITING_SECONDS = 20.0
"""How long a login waits for a renewal; the renewal goes on after that."""
_ADOPTING_SECONDS = 360.0
"""Longer than a renewal by another process may take: otherwise the owner would have to consent again."""
_UNUSED_SECONDS = 86400.0
"""A refresh token unused for so long is renewed. Providers end one after weeks or months without use."""
_FIRST_LOOK_SECONDS = 60.0
"""After a start: the network may need a moment, and a service that keeps restarting must not ask each time."""
_LOOK_SECONDS = 3600.0


class Keeper:
    """Keeps and renews the token of one account. Call it in one event loop."""

    def __init__(
        self,
        configuration: Configuration,
        grants: Grants,
        store: TokenStore,
        logger: logging.Logger,
        clock: Callable[[], float] = time.time,
        account: str = "",
    ) -> None:
        self._whose = {"account": account} if account else {}
        self._configuration = configuration
        self._grants = grants
        self._store = store
        self._logger = logger
        self._clock = clock
        seed = configuration.refresh_token
        self._seed = seed.fingerprint().hex() if seed is not None else ""
        self._basis = _basis(configuration)
        self._task: asyncio.Task[BearerToken] | None = None
        self._began = 0.0
        self._sent = False
        """Whether a refresh token has been sent and the answer is not stored yet."""
        self._keeping_alive: asyncio.Task[None] | None = None
        self._held: Record | None = None
        self._held_rotated = False
        """Whether ``_held``, which is not stored yet, has a new refresh token: then it must not be used."""
        self._unwanted = b""
        """The fingerprint of the token that the backend refused last."""
        self._unwanted_pause = Pause(60.0, 3600.0, clock)
        self._failure: Failure | None = None
        self._failed_with = b""
        self._failed_at = 0.0
        self._act_pause = Pause(60.0, 3600.0, clock)
        self._wait_pause = Pause(2.0, 60.0, clock)

    async def token(self) -> BearerToken:
        """A token that is good now. Raises the failure because of which there is none."""
        record = await self.current()
        token = record.access_token
        if token is None or not self._serves(record):
            return await self._renewed(record)
        if self._is_due(record) and not self._paused(record):
            self._begin()
        return token

    async def fresh(self) -> None:
        """Renew the token even if it is still good, to test whether renewing works. Raises as :meth:`token` does."""
        await self._renewed(await self.current(), replacing=True)

    def start(self) -> None:
        """From now on keep the refresh token alive, also while no session asks for a token."""
        if not self._configuration.is_app:
            self._keeping_alive = asyncio.get_running_loop().create_task(self._look_now_and_then())

    async def refused(self, token: Secret) -> bool:
        """Note that the backend refused ``token``; returns whether another login, with a new token, may work."""
        record = await self.current()
        if record.access_token != token or self._unwanted == token.fingerprint():
            return True
        if self._unwanted_pause.left:
            # The token was just renewed because of a refusal, so the refusal has another cause.
            return False
        self._unwanted_pause.lengthen()
        self._unwanted = token.fingerprint()
        self._logger.info("the backend refused the token, which is renewed", extra={"facts": {"scope": record.scope}})
        return True

    def missing(self, record: Record) -> str:
        """Why the provider can not be asked for a token, or an empty text."""
        try:
            self._means(record)
        except NoCredentials as failure:
            return str(failure)
        return ""

    @property
    def renewed_early(self) -> bool:
        """Whether a backend has refused a token that should still have been good."""
        return bool(self._unwanted)

    async def adopt(self, granted: Granted) -> None:
        """Store what a consent gave. Raises :class:`StorageFull`, or ``Overloaded`` if another process is busy."""
        async with self._store.locked(_ADOPTING_SECONDS):
            await self._store.save(self._record_of(granted, granted.refresh_token))

    async def aclose(self) -> None:
        """Wait for the answer to a renewal that was sent, and store a refresh token that could not be stored yet."""
        ending = {task for task in (self._keeping_alive, self._task) if task is not None}
        if self._keeping_alive is not None:
            self._keeping_alive.cancel()
        if self._task is not None and not self._sent:
            self._task.cancel()
        elif self._task is not None:
            self._logger.warning("waiting for the answer to a renewal: without it the consent may be lost")
        if ending:
            await asyncio.wait(ending)
        if self._held is not None and self._held_rotated:
            try:
                async with self._store.locked():
                    if (record := await self.current()) is self._held:
                        await self._keep(record, rotated=True)
            except Failure as failure:
                self._logger.error("the new refresh token is lost: %s", failure)

    # The current record

    async def current(self) -> Record:
        """The stored record, or the newer one that could not be stored. Raises :class:`Damaged`."""
        try:
            stored = await self._store.load()
        except Damaged as damaged:
            if not self._configuration.is_app:
                raise
            # No loss: an application gets another token whenever it asks.
            self._logger.debug("%s", damaged)
            stored = Record()
        if self._held is not None and stored.obtained > self._held.obtained:
            self._held = None
        return stored if self._held is None else self._held

    def _serves(self, record: Record) -> bool:
        """Whether its token may be used: it fits these settings, has time left, and was not refused."""
        token, now = record.access_token, self._clock()
        margin = min(10.0, 0.05 * (record.expires - record.obtained))
        return (
            token is not None
            and record.basis == self._basis
            and (not self._seed or record.seed == self._seed)
            and now < record.expires - margin
            and token.fingerprint() != self._unwanted
            and not (record is self._held and self._held_rotated)
        )

    def _is_due(self, record: Record) -> bool:
        return self._clock() >= record.obtained + RENEW_AT * (record.expires - record.obtained)

    # Keeping the refresh token alive

    async def _look_now_and_then(self) -> None:
        await asyncio.sleep(_FIRST_LOOK_SECONDS)
        while True:
            try:
                await self.keep_alive()
            except Exception as error:
                cause = None if isinstance(error, Failure) else error
                self._logger.error("the refresh token is not kept alive: %s", error, exc_info=cause)
            await asyncio.sleep(_LOOK_SECONDS)

    async def keep_alive(self) -> None:
        """Renew a token not renewed for a day, or store one that could not be stored. Failures of that are logged."""
        record = await self.current()
        if self.missing(record) or self._task is not None or self._paused(record):
            return
        # `abs`, because a wrong clock may have been ahead when the token was obtained.
        idle = abs(self._clock() - record.obtained) >= _UNUSED_SECONDS
        dead = (
            isinstance(self._failure, NoCredentials)
            and self._failed_with == _fingerprint(record.refresh_token)
            and abs(self._clock() - self._failed_at) < _UNUSED_SECONDS
        )
        if record is self._held or (idle and not dead):
            await asyncio.wait({self._begin(record if idle else None)})

    # Renewing

    async def _renewed(self, record: Record, *, replacing: bool = False) -> BearerToken:
        if self._task is None and self._paused(record):
            assert self._failure is not None  # noqa: S101 (there is no pause without)
            left = max(self._act_pause.left, self._wait_pause.left)
            words, arrow, advice = self._failure.detail.partition(" -> ")
            detail = f"{words}; not asked again for {left:.0f} s{arrow}{advice}"
            raise type(self._failure)(detail, look_at=self._failure.look_at)
        self._means(record)
        task = self._begin(record if replacing else None)
        left = max(0.0, self._began + _WAITING_SECONDS - asyncio.get_running_loop().time())
        if not (await asyncio.wait({task}, timeout=left))[0]:
            detail = f"there is no answer yet, {_WAITING_SECONDS:g} s after a token was asked for; it is still awaited"
            raise Unreachable(detail, look_at="OAUTH2_TOKEN_URL, STATE_DIR")
        return task.result()

    def _paused(self, record: Record) -> bool:
        if self._failure is None or not (self._act_pause.left or self._wait_pause.left):
            return False
        # With another refresh token (from `authorize`), the pause does not count.
        return self._failed_with == _fingerprint(record.refresh_token)

    def _begin(self, replaced: Record | None = None) -> asyncio.Task[BearerToken]:
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._began = loop.time()
            self._task = loop.create_task(self._renew(replaced))
            self._task.add_done_callback(self._ended)
        return self._task

    def _ended(self, task: asyncio.Task[BearerToken]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            # Logged here because perhaps no session waits for it; a session that does also raises it.
            facts, cause = {**self._whose, "cause": str(error)}, None if isinstance(error, Failure) else error
            self._logger.error("no token", exc_info=cause, extra={"facts": facts, "failure": error})

    async def _renew(self, replaced: Record | None) -> BearerToken:
        """Renew the token if it is due or is ``replaced``, unless another process has just renewed it."""
        record = Record()
        try:
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(self._store.locked())
                except StorageFull:
                    # An application can get another token at any time, so it works without storage.
                    if not self._configuration.is_app:
                        raise
                record = await self.current()
                if record is self._held:
                    await self._keep(record, rotated=self._held_rotated)
                wanted = replaced is not None and record.obtained == replaced.obtained
                if wanted or not self._serves(record) or self._is_due(record):
                    natural = self._serves(record)
                    record = await self._asked(record)
                    if natural:
                        self._unwanted_pause.end()
        except Failure as failure:
            if isinstance(failure, Unfit) and failure.refresh_token is not None:
                record = replace(record, refresh_token=failure.refresh_token)
            await self._failed(failure, record)
            raise
        self._failure = None
        self._act_pause.end()
        self._wait_pause.end()
        assert record.access_token is not None  # noqa: S101
        return record.access_token

    async def _asked(self, record: Record) -> Record:
        used = self._means(record)
        async with AsyncExitStack() as stack:
            if used is not None:
                try:
                    await stack.enter_async_context(self._store.room())
                except StorageFull:
                    # A provider that replaces refresh tokens ends this one, and the new one would be only in memory.
                    if not record.kept:
                        raise
            self._sent = used is not None
            stack.callback(self._settled)
            asked = (record.asked or record.scope) if used == record.refresh_token else ""
            try:
                granted = await (
                    self._grants.for_app() if used is None else self._grants.refreshed(used, self._narrowed(asked))
                )
            except Unfit as unfit:
                if used is not None and unfit.refresh_token is not None:
                    await self._keep(self._replaced(record, unfit.refresh_token, asked), rotated=True)
                raise
            renewed = self._record_of(granted, used and (granted.refresh_token or used), asked)
            rotated = renewed.refresh_token != used
            if used is not None and not rotated:
                ends = renewed.consent_ends or record.consent_ends
                renewed = replace(renewed, kept=renewed.obtained, consent_ends=ends)
            facts = {**self._whose, "grant": renewed.grant, "seconds": f"{granted.seconds:.0f}"}
            self._logger.info("token renewed", extra={"facts": facts})
            await self._keep(renewed, rotated=rotated)
        if granted.access_token.fingerprint() == self._unwanted:
            # The provider gave the refused token again: use it, so as not to ask the provider at each login.
            self._unwanted = b""
        return renewed

    def _settled(self) -> None:
        self._sent = False

    def _replaced(self, record: Record, refresh_token: Secret, asked: str) -> Record:
        """The record with another refresh token; the access token is kept only if it came from the same ``seed``."""
        token = record.access_token if record.seed == self._seed else None
        return replace(record, access_token=token, refresh_token=refresh_token, seed=self._seed, asked=asked, kept=0.0)

    def _means(self, record: Record) -> Secret | None:
        """The refresh token to ask with; ``None`` for an application. Raises :class:`NoCredentials` without one."""
        if self._configuration.is_app:
            return None
        seed = self._configuration.refresh_token
        if record.refresh_token is not None and (seed is None or record.seed == self._seed):
            return record.refresh_token
        if seed is None:
            if self._configuration.grant == "refresh_token":
                raise NoCredentials("there is no refresh token", look_at="OAUTH2_REFRESH_TOKEN")
            detail = "nobody has consented yet -> run: legacy-email-proxy authorize"
            raise NoCredentials(detail, look_at="OAUTH2_GRANT")
        return seed

    def _narrowed(self, asked: str) -> str:
        """The scope of the settings if it is less than what was asked for at the consent; else an empty text.

        Sent only then, because some servers accept no scope in a renewal, and others refuse a synonym of a scope.
        """
        scope = self._configuration.scope
        now, then = (set(text.split()) - {"offline_access"} for text in (scope, asked))
        return scope if now < then else ""

    def _record_of(self, granted: Granted, refresh_token: Secret | None, asked: str = "") -> Record:
        now = self._clock()
        return Record(
            grant=self._configuration.grant,
            access_token=granted.access_token,
            refresh_token=refresh_token,
            scope=granted.scope,
            obtained=now,
            expires=now + granted.seconds,
            seed=self._seed,
            basis=self._basis,
            asked=asked or self._configuration.scope,
            consent_ends=now + granted.consent_seconds if granted.consent_seconds else 0.0,
        )

    async def _keep(self, record: Record, *, rotated: bool) -> None:
        try:
            await self._store.save(record)
        except StorageFull as failure:
            self._held, self._held_rotated = record, rotated
            if rotated:
                raise
            self._logger.warning("%s; it is kept in memory", failure)
            return
        self._held = None

    async def _failed(self, failure: Failure, record: Record) -> None:
        (self._act_pause if isinstance(failure, NoCredentials) else self._wait_pause).lengthen()
        self._failure, self._failed_with = failure, _fingerprint(record.refresh_token)
        self._failed_at = self._clock()
        if self._held is not None:
            return
        try:
            # For `authorize --status`, which is another process.
            async with self._store.locked():
                stored = await self._store.load()
                if stored.obtained == record.obtained:  # else the error does not apply to the newer token
                    await self._store.save(replace(stored, error=failure.detail, error_at=self._clock()))
        except Failure as also:
            self._logger.debug("the last error is not noted: %s", also)


def _fingerprint(secret: Secret | None) -> bytes:
    return b"" if secret is None else secret.fingerprint()


def _basis(configuration: Configuration) -> str:
    """A hash of the settings that a token depends on: one requested with other settings must not be used."""
    asked = (configuration.token_url, configuration.client_id, configuration.scope, configuration.subject)
    return hashlib.sha256("\0".join((configuration.grant, *asked)).encode()).hexdigest()
