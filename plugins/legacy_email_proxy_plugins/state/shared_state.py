"""The contract: every call is made in one thread and has a deadline, because a server may stop answering."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from legacy_email_proxy.contracts import Context, Failure, Secret, SettingsMistake

from ..slow_calls import SlowCalls
from ..spool.settings import database_name
from ..spool.store import Interrupted

if TYPE_CHECKING:
    from .table import StateTable

__all__ = ("PostgresState",)

_Result = TypeVar("_Result")


class _Calls(SlowCalls):
    seconds: ClassVar = 5.0
    """A device waits for these calls. What takes longer goes on alone, and all others fail at once meanwhile."""
    words: ClassVar = "PostgreSQL does not answer"


class PostgresState:
    """See :class:`~legacy_email_proxy.contracts.SharedState`."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._look_at = "SPOOL_URL" if settings["STATE_URL"] is None else "STATE_URL"
        url: Secret | None = settings[self._look_at]
        if url is None:
            raise SettingsMistake("STATE_URL: not set")
        # First, because it says what to install where the driver is missing.
        database_name(url.reveal(), self._look_at)
        from .table import StateTable

        self._table: StateTable = StateTable(url.reveal(), self._look_at)
        self._calls = _Calls()
        self._logger = context.logger
        self._away = False
        # A process has one for all who ask for it, and it ends with the last of them.
        weakref.finalize(self, self._table.close)

    async def read(self, kind: str, key: str) -> bytes | None:
        """See :meth:`SharedState.read`."""
        return await self._call(lambda: self._table.read(kind, key))

    async def change(self, kind: str, key: str, edit: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """See :meth:`SharedState.change`."""
        return await self._call(lambda: self._table.change(kind, key, edit))

    async def take(self, kind: str, key: str, holder: str, seconds: float) -> bool:
        """See :meth:`SharedState.take`."""
        return await self._call(lambda: self._table.take(kind, key, holder, seconds))

    async def leave(self, kind: str, key: str, holder: str) -> None:
        """See :meth:`SharedState.leave`."""
        await self._call(lambda: self._table.leave(kind, key, holder))

    async def _call(self, call: Callable[[], _Result]) -> _Result:
        try:
            result = await self._calls.run(call)
        except TimeoutError as error:
            failure = Failure(error.strerror or "no answer", look_at=self._look_at)
            self._tell_away(failure)
            raise failure from None
        except Interrupted as failure:
            self._tell_away(failure)
            raise
        if self._away:
            self._away = False
            self._logger.info("shared state is there again")
        return result

    def _tell_away(self, failure: Failure) -> None:
        """Log it, once until a call works: many sessions may ask, and most of them can do without."""
        if not self._away:
            self._away = True
            self._logger.warning("shared state is away", extra={"facts": {"cause": str(failure)}})
