"""The connections to the backend: a bounded number, each lent to one transaction at a time, clean ones used again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from legacy_email_proxy.contracts import Overloaded

from ..places import Places
from .connecting import NotLetIn
from .connection import Connection

__all__ = ("Limits", "Loan", "Pool")

_ONE_MORE_SECONDS = 60.0
_NEXT_SECONDS = 1.0
"""When a connection is tried beyond those that the backend is known to take: after it refused one, and after it took
one more than that."""

_TRIES = 3
"""So often one loan may meet a backend that takes no further connection."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a connection is not used again. Servers hang up on idle ones, and some dislike long or busy ones.

    A new one costs as much as ten small messages. After ``transactions``, which is what Exim sends over one by default
    and servers therefore know, that is 2 % of the work; a server that wants fewer says 421 to a MAIL, which then goes
    out again over a new connection.
    """

    idle_seconds: float = 30
    age_seconds: float = 600
    transactions: int = 500


@dataclass(slots=True)
class _Idle:
    connection: Connection
    opened: float
    since: float


class Loan:
    """One of the pool's slots, with a connection in it, lent to ``address``. To be given back."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._connection: Connection | None = None
        self.opened = 0.0
        self.reused = False
        """Whether the connection has served before, and so may have died unnoticed."""
        self.spent = False
        """Whether it may serve nobody else, although it is in order."""

    @property
    def connection(self) -> Connection:
        """The connection."""
        if self._connection is None:
            raise RuntimeError("the loan has no connection yet")
        return self._connection

    def take(self, connection: Connection, opened: float, *, reused: bool) -> None:
        """Put a connection in it."""
        self._connection, self.opened, self.reused = connection, opened, reused

    def abort(self) -> Connection | None:
        """Close the connection, if there is one; the transaction on it ends with ``Disconnected``."""
        if self._connection is not None:
            self._connection.abort()
        return self._connection


class Pool:
    """Lends connections that ``connect`` has opened. Use it in one event loop.

    Where the backend takes no further connection while it serves others of ours, their number is its limit for now:
    whoever wanted one more waits for one of those, as if the pool were that small.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        size: int,
        wait_seconds: float,
        logger: logging.Logger,
        limits: Limits | None = None,
    ) -> None:
        self._connect = connect
        self._size = size
        self._wait_seconds = wait_seconds
        self._logger = logger
        self._limits = limits or Limits()
        self._places = Places(size)
        """Their number is how many the backend takes, as far as is known."""
        self._one_more_at = 0.0
        """When one more than that is tried."""
        self._told = False
        self._idle: list[_Idle] = []
        """In the order in which they came back."""
        self._sweep: asyncio.TimerHandle | None = None
        self._lent: set[Loan] = set()
        self._leaving: set[Connection] = set()
        self._opening: set[asyncio.Timeout] = set()
        """Around each connection that is being made: what ends that."""
        self._closed = False

    async def lend(self, address: str) -> Loan:
        """A connection for one transaction of this client.

        Raises :class:`Overloaded` when none gets free for too long, and whatever ``connect`` raises.
        """
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        loan = Loan(address)
        await self._slot(address, deadline)
        await self._fill(loan, deadline)
        return loan

    async def renew(self, loan: Loan) -> None:
        """Put another connection in the place of the one in ``loan``, which is closed. Raises as :meth:`lend` does;
        then there is none in it that works, and it is to be given back nevertheless.
        """
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        connection = loan.connection
        if connection.reusable:
            # The backend counts it until it is closed; and the one that takes its place may be one too many.
            self._dismiss(connection)
            await connection.closed()
        connection.abort()
        await self._fill(loan, deadline, idle=False)

    def give_back(self, loan: Loan) -> None:
        """Take the connection back; what isn't clean is closed."""
        if loan not in self._lent:
            return
        connection = loan.connection
        now = asyncio.get_running_loop().time()
        if not connection.reusable:
            connection.abort()
        elif (
            self._closed
            or loan.spent
            or connection.transactions >= self._limits.transactions
            or now - loan.opened >= self._limits.age_seconds
        ):
            self._dismiss(connection)
        else:
            self._idle.append(_Idle(connection, loan.opened, now))
            if self._sweep is None:
                self._expire()
        self._release(loan)

    # Slots.

    def _release(self, loan: Loan) -> None:
        self._lent.discard(loan)
        self._places.give(loan.address)

    def _try_one_more(self) -> None:
        """Once it is time, make room for one more than the backend is known to take."""
        places = self._places
        if places.most < self._size and (now := asyncio.get_running_loop().time()) >= self._one_more_at:
            places.most += 1
            self._one_more_at = now + _ONE_MORE_SECONDS
            places.serve()

    async def _slot(self, address: str, deadline: float, *, again: bool = False) -> None:
        if not self._places.has_room(address):
            self._try_one_more()
        try:
            # Again: it had its turn, and what it got was one too many.
            await self._places.take(address, deadline, first=again)
        except TimeoutError:
            raise Overloaded(
                f"no connection to the backend got free within {self._wait_seconds:g} s: {self._places.words(address)}",
                look_at="BACKEND_SMTP_MAX_CONNECTIONS",
                # Those who hold the connections are sending messages as well.
                about_us=False,
            ) from None

    # Connections.

    async def _fill(self, loan: Loan, deadline: float, *, idle: bool = True) -> None:
        """Put a connection in ``loan``, which has a slot, and loses it if that fails."""
        loop = asyncio.get_running_loop()
        for left in reversed(range(_TRIES)):
            self._lent.add(loan)
            try:
                if not (idle and self._take_idle(loan)):
                    await self._open_in(loan)
                return
            except BaseException as error:
                self._lent.discard(loan)
                one_too_many = self._is_one_too_many(error)
                self._places.give(loan.address)
                if not (one_too_many and left and loop.time() < deadline):
                    raise
            idle = True
            await self._slot(loan.address, deadline, again=True)

    async def _open_in(self, loan: Loan) -> None:
        loop = asyncio.get_running_loop()
        leaving = sum(not connection.gone for connection in self._leaving)
        if self._places.taken + leaving > self._places.most:
            # The backend counts those that are on their way out, too.
            await self._left()
        loan.take(await self._open(), loop.time(), reused=False)
        if self._places.taken >= self._places.most:
            # As many as that do work; perhaps one more does.
            self._one_more_at = min(self._one_more_at, loop.time() + _NEXT_SECONDS)

    def _take_idle(self, loan: Loan) -> bool:
        # The one used last is the least likely to have been closed by the backend, or on the way.
        while self._idle:
            found = self._idle.pop()
            if found.connection.reusable:
                loan.take(found.connection, found.opened, reused=True)
                return True
            self._dismiss(found.connection)
        return False

    def _is_one_too_many(self, error: BaseException) -> bool:
        """Whether the backend takes others of ours, so that it is worth while to wait for one of them; then the pool is
        that small for now. Where it takes none, its reason is another one.
        """
        # A server that hangs up at the login may have refused the password: it is not tried again.
        if self._closed or not isinstance(error, Overloaded | NotLetIn):
            return False
        others = self._places.taken - 1
        if not others and not self._idle:
            self._places.most = self._size
            return False
        self._places.most = max(1, min(self._places.most, others))
        self._one_more_at = asyncio.get_running_loop().time() + _ONE_MORE_SECONDS
        if not self._told:
            words = "the backend takes fewer connections at once than BACKEND_SMTP_MAX_CONNECTIONS (%d) allows: %s"
            self._logger.warning(words, self._size, error)
        self._told = True
        return True

    async def _left(self) -> None:
        await asyncio.gather(*(connection.closed() for connection in self._leaving if not connection.gone))

    async def _open(self) -> Connection:
        shutting_down = Overloaded("the proxy is shutting down")
        if self._closed:
            raise shutting_down
        scope = asyncio.timeout(None)
        self._opening.add(scope)
        try:
            async with scope:
                return await self._connect()
        except TimeoutError:
            raise shutting_down from None
        finally:
            self._opening.discard(scope)

    def _expire(self) -> None:
        """Dismiss what has been idle for too long, and come back when the next one may be."""
        loop = asyncio.get_running_loop()
        # A timer rings up to one tick of the clock early.
        ended = loop.time() - self._limits.idle_seconds + 0.001
        while self._idle and self._idle[0].since <= ended:
            self._dismiss(self._idle.pop(0).connection)
        due = self._idle[0].since + self._limits.idle_seconds if self._idle else None
        self._sweep = None if due is None else loop.call_at(due, self._expire)

    def _dismiss(self, connection: Connection) -> None:
        connection.leave()
        self._leaving = {leaving for leaving in self._leaving if not leaving.gone}
        self._leaving.add(connection)

    async def aclose(self) -> None:
        """Say QUIT on the idle connections, close the lent ones, and make no more. Bounded by the deadline of QUIT."""
        self._closed = True
        while self._opening:
            self._opening.pop().reschedule(asyncio.get_running_loop().time())
        for loan in self._lent:
            if connection := loan.abort():
                self._leaving.add(connection)
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._dismiss(self._idle.pop().connection)
        await self._left()
        self._leaving.clear()
