"""The connections to the backend: a limited number, each lent to one transaction at a time and used again if clean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from legacy_email_proxy.contracts import Overloaded

from ..places import Holder, Places
from .connecting import NotLetIn
from .connection import Connection

__all__ = ("Limits", "Loan", "Pool")

_ONE_MORE_SECONDS = 60.0
_NEXT_SECONDS = 1.0
"""How long to wait before one connection more than the backend is known to take is tried: after the backend refused
one, and after it took one."""

_TRIES = 3
"""How many times one loan may try, while the backend takes no further connection."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a connection is not used again.

    Servers close idle connections, and some do not like long or busy ones. A new connection costs as much as ten small
    messages; once per 500 ``transactions``, this is 2 % of the work. Exim sends as many over one connection by default,
    so servers are used to it. A server that wants fewer answers 421 to a MAIL, which is then sent again over a new
    connection.
    """

    idle_seconds: float = 30
    age_seconds: float = 600
    transactions: int = 500


class Loan(Holder):
    """One slot of the pool with its connection, lent to ``address``; it has to be given back.

    A device that opens a transaction and then only says NOOP, or that sends its message one octet at a time, would keep
    its connection from everybody else for as long as its session may last. So its transaction may have to do without it
    for a while, or to give it up.
    """

    # Half the speed of a modem of 9600 baud: a device that works is not slower.
    fair_octets_per_second = 500

    def __init__(self, address: str, release: Callable[[Loan], None]) -> None:
        super().__init__()
        self.address = address
        self._release = release
        self.connection: Connection
        """There is none before the pool has put one in."""
        self.reused = False
        """Whether the connection was used before, and so may have been closed unnoticed while it was idle."""
        self.spent = False
        """Whether it must not be used for another transaction, although it works."""
        self.suspend: Callable[[], None] | None = None
        """While we wait for the device: gives this loan back although the transaction goes on later; ``None`` where it
        could not go on."""
        self._given_up: Overloaded | None = None

    @property
    def may_step_aside(self) -> bool:
        """See :attr:`Holder.may_step_aside`."""
        return self.suspend is not None

    def step_aside(self) -> None:
        """Lend the connection to others until the device goes on."""
        if self.suspend is not None:
            self.suspend()

    def give_up(self, reason: str) -> None:
        """Take the connection away from a slow device: :meth:`client_went_on` raises when the device goes on."""
        self.abort()
        self._given_up = Overloaded(reason, look_at="BACKEND_SMTP_MAX_CONNECTIONS", about_us=False)
        self._release(self)

    def client_went_on(self) -> None:
        """The device has sent a command or content. Raises :class:`Overloaded` if it was too slow."""
        Holder.client_went_on(self)
        if self._given_up is not None:
            raise self._given_up

    def abort(self) -> Connection | None:
        """Close the connection, if there is one; the transaction on it ends with ``Disconnected``."""
        connection: Connection | None = getattr(self, "connection", None)
        if connection is not None:
            connection.abort()
        return connection


class Pool:
    """Lends connections that ``connect`` has opened. Use it in one event loop.

    If the backend refuses a connection while it serves others of ours, their number is taken as its limit for now: a
    further transaction waits for one of those connections, as if the pool were that small.
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
        self._places = Places(size, logger)
        """As many places as the backend takes connections, as far as is known."""
        self._one_more_at = 0.0
        """When one connection more than that is tried."""
        self._told = False
        self._idle: list[Connection] = []
        """In the order in which they were given back."""
        self._sweep: asyncio.TimerHandle | None = None
        self._lent: set[Loan] = set()
        self._leaving: set[Connection] = set()
        self._opening: set[asyncio.Timeout] = set()
        """One timeout for each connection that is being opened; :meth:`aclose` uses it to stop the opening."""
        self._closed = False

    async def lend(self, address: str) -> Loan:
        """A connection for one transaction of this client.

        Raises :class:`Overloaded` if no connection gets free in time, and whatever ``connect`` raises.
        """
        loan = Loan(address, self._release)
        at_once = self._places.take_at_once(address)
        if at_once and self._take_idle(loan):
            self._hold(loan)
            return loan
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        if not at_once:
            self._try_one_more()
            await self._slot(address, deadline)
        await self._fill(loan, deadline)
        return loan

    async def renew(self, loan: Loan) -> None:
        """Close the connection in ``loan`` and put another one in its place. Raises what :meth:`lend` raises; then
        ``loan`` has no working connection, and has to be given back nevertheless.
        """
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        connection = loan.connection
        if connection.reusable:
            # The backend counts this one until it is closed, and might refuse the new one as one too many.
            self._dismiss(connection)
            await connection.closed()
        connection.abort()
        await self._fill(loan, deadline, idle=False)

    def give_back(self, loan: Loan) -> None:
        """Take the connection back; close it if it isn't clean."""
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
            or now - connection.opened >= self._limits.age_seconds
        ):
            self._dismiss(connection)
        else:
            connection.idle_since = now
            self._idle.append(connection)
            if self._sweep is None:
                self._expire()
        self._release(loan)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many connections are lent, how many are idle, and how many transactions wait for one."""
        return len(self._lent), len(self._idle), self._places.waiting

    # Slots.

    def _hold(self, loan: Loan) -> None:
        self._lent.add(loan)
        if loan.address:  # There is no device behind the messages of the spool.
            self._places.watch(loan, loan.address)

    def _release(self, loan: Loan) -> None:
        self._lent.discard(loan)
        self._places.forget(loan)
        self._places.give(loan.address)

    def _try_one_more(self) -> None:
        """If it is time, make room for one connection more than the backend is known to take."""
        places = self._places
        if places.most < self._size and (now := asyncio.get_running_loop().time()) >= self._one_more_at:
            places.most += 1
            self._one_more_at = now + _ONE_MORE_SECONDS
            places.serve()

    async def _slot(self, address: str, deadline: float, *, again: bool = False) -> None:
        try:
            # If ``again``, this task had its turn before, but the backend refused its connection as one too many.
            await self._places.take(address, deadline, first=again)
        except TimeoutError:
            raise Overloaded(
                f"no connection to the backend got free within {self._wait_seconds:g} s: {self._places.words(address)}",
                look_at="BACKEND_SMTP_MAX_CONNECTIONS",
                # The connections are in use by other clients' messages, so the backend works.
                about_us=False,
            ) from None

    # Connections.

    async def _fill(self, loan: Loan, deadline: float, *, idle: bool = True) -> None:
        """Put a connection in ``loan``, which has a slot. If this fails, ``loan`` loses its slot."""
        loop = asyncio.get_running_loop()
        for left in reversed(range(_TRIES)):
            self._hold(loan)
            try:
                if not (idle and self._take_idle(loan)):
                    await self._open_in(loan)
                return
            except BaseException as error:
                one_too_many = self._is_one_too_many(error)
                self._release(loan)
                if not (one_too_many and left and loop.time() < deadline):
                    raise
            idle = True
            await self._slot(loan.address, deadline, again=True)

    async def _open_in(self, loan: Loan) -> None:
        loop = asyncio.get_running_loop()
        leaving = sum(not connection.gone for connection in self._leaving)
        if self._places.taken + leaving > self._places.most:
            # The backend also counts the connections that are still being closed.
            await self._left()
        loan.connection, loan.reused = await self._open(), False
        loan.connection.opened = loop.time()
        if self._places.taken >= self._places.most:
            # The backend takes this many; perhaps it takes one more.
            self._one_more_at = min(self._one_more_at, loop.time() + _NEXT_SECONDS)

    def _take_idle(self, loan: Loan) -> bool:
        # The connection used last is the least likely to have been closed by the backend or the network.
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                loan.connection, loan.reused = connection, True
                return True
            self._dismiss(connection)
        return False

    def _is_one_too_many(self, error: BaseException) -> bool:
        """Whether the backend refused this connection but serves others of ours, so that waiting for one of them helps;
        then the pool is made that small for now. If it serves none of ours, the refusal has another reason.
        """
        # If the server hangs up at the login, it may have refused the password: there is no other try then.
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
        """Close the connections that were idle for too long, and set a timer for the next one."""
        loop = asyncio.get_running_loop()
        # A timer may fire up to one tick of the clock early.
        ended = loop.time() - self._limits.idle_seconds + 0.001
        while self._idle and self._idle[0].idle_since <= ended:
            self._dismiss(self._idle.pop(0))
        due = self._idle[0].idle_since + self._limits.idle_seconds if self._idle else None
        self._sweep = None if due is None else loop.call_at(due, self._expire)

    def _dismiss(self, connection: Connection) -> None:
        connection.leave()
        self._leaving = {leaving for leaving in self._leaving if not leaving.gone}
        self._leaving.add(connection)

    async def aclose(self) -> None:
        """Send QUIT on the idle connections, close the lent ones, open no more. Ends by the deadline of QUIT."""
        self._closed = True
        while self._opening:
            self._opening.pop().reschedule(asyncio.get_running_loop().time())
        for loan in self._lent:
            if connection := loan.abort():
                self._leaving.add(connection)
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._dismiss(self._idle.pop())
        await self._left()
        self._leaving.clear()
