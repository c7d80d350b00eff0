"""The connections to the backend: a bounded number, each lent to one transaction at a time, clean ones used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from legacy_email_proxy.contracts import Overloaded

from .connection import Connection

__all__ = ("Limits", "Loan", "Pool")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a connection is not used again. Servers hang up on idle ones, and some dislike long or busy ones."""

    idle_seconds: float = 30
    age_seconds: float = 600
    transactions: int = 100


@dataclass(slots=True)
class _Idle:
    connection: Connection
    opened: float
    expiry: asyncio.TimerHandle


class Loan:
    """One of the pool's slots, with a connection in it."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self.opened = 0.0
        self.reused = False
        """Whether the connection has served before, and so may have died unnoticed."""

    @property
    def connection(self) -> Connection:
        """The connection."""
        if self._connection is None:
            raise RuntimeError("the loan has no connection yet")
        return self._connection

    def take(self, idle: Connection, opened: float) -> None:
        """Use one that has served before."""
        self._connection, self.opened, self.reused = idle, opened, True

    async def renew(self) -> None:
        """Put a new connection in the place of the old one, which is closed."""
        self.abort()
        self._connection = await self._connect()
        self.opened, self.reused = asyncio.get_running_loop().time(), False

    def abort(self) -> Connection | None:
        """Close the connection, if there is one; the transaction on it ends with ``Disconnected``."""
        if self._connection is not None:
            self._connection.abort()
        return self._connection


class Pool:
    """Lends connections that ``connect`` has opened. Use it in one event loop."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], size: int, wait_seconds: float, limits: Limits | None = None
    ) -> None:
        self._connect = connect
        self._size = size
        self._wait_seconds = wait_seconds
        self._limits = limits or Limits()
        self._slots = asyncio.Semaphore(size)
        self._idle: list[_Idle] = []
        self._lent: set[Loan] = set()
        self._leaving: set[Connection] = set()
        self._closed = False

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Loan]:
        """A connection for one transaction; what isn't clean when it comes back is closed.

        Raises :class:`Overloaded` when all stay lent for too long, and whatever ``connect`` raises.
        """
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded(
                f"all {self._size} connections to the backend were in use for {self._wait_seconds:g} s",
                look_at="BACKEND_SMTP_MAX_CONNECTIONS",
            ) from None
        loan = Loan(self._connect)
        self._lent.add(loan)
        try:
            await self._fill(loan)
            try:
                yield loan
            finally:
                self._give_back(loan)
        finally:
            self._lent.discard(loan)
            self._slots.release()

    async def _fill(self, loan: Loan) -> None:
        if self._closed:
            raise Overloaded("the proxy is shutting down")
        # The one used last is the least likely to have been closed by the backend, or on the way.
        while self._idle:
            idle = self._idle.pop()
            idle.expiry.cancel()
            if idle.connection.reusable:
                loan.take(idle.connection, idle.opened)
                return
            self._dismiss(idle.connection)
        await loan.renew()

    def _give_back(self, loan: Loan) -> None:
        connection = loan.connection
        loop = asyncio.get_running_loop()
        if not connection.reusable:
            connection.abort()
        elif (
            self._closed
            or connection.transactions >= self._limits.transactions
            or loop.time() - loan.opened >= self._limits.age_seconds
        ):
            self._dismiss(connection)
        else:
            expiry = loop.call_later(self._limits.idle_seconds, self._expire, connection)
            self._idle.append(_Idle(connection, loan.opened, expiry))

    def _expire(self, connection: Connection) -> None:
        self._idle = [idle for idle in self._idle if idle.connection is not connection]
        self._dismiss(connection)

    def _dismiss(self, connection: Connection) -> None:
        connection.leave()
        self._leaving = {leaving for leaving in self._leaving if not leaving.gone}
        self._leaving.add(connection)

    async def aclose(self) -> None:
        """Say QUIT on the idle connections and close the lent ones. Bounded by the deadline of QUIT."""
        self._closed = True
        for loan in self._lent:
            if connection := loan.abort():
                self._leaving.add(connection)
        while self._idle:
            idle = self._idle.pop()
            idle.expiry.cancel()
            self._dismiss(idle.connection)
        await asyncio.gather(*(connection.closed() for connection in self._leaving))
        self._leaving.clear()
