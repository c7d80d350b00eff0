"""The connections to the backend: a bounded number, each lent to one transaction at a time, clean ones used again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from legacy_email_proxy.contracts import Overloaded

from .connection import Connection

__all__ = ("Limits", "Loan", "Pool")


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

    def __init__(self, address: str, connect: Callable[[], Awaitable[Connection]]) -> None:
        self.address = address
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
    """Lends connections that ``connect`` has opened. Use it in one event loop.

    No client address is lent all of them: at least a quarter of the slots, and at least one, stay for others, so that
    one device that opens transactions and leaves them open can't lock everybody out. Who has to wait is served in the
    order of coming, except that an address with all its share is passed over. ``""`` is nobody's address, and has no
    share: whoever asks for it sees to the turns of the devices behind it by itself.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], size: int, wait_seconds: float, limits: Limits | None = None
    ) -> None:
        self._connect = connect
        self._size = size
        self._share = max(1, size - max(1, -(-size // 4)))
        self._wait_seconds = wait_seconds
        self._limits = limits or Limits()
        self._waiting: dict[asyncio.Future[None], str] = {}
        """Their addresses, in the order in which they came. Each stays in here until its task has noticed its turn."""
        self._taken: Counter[str] = Counter()
        """Slots by address; one that was given to somebody who waits is taken from that moment on."""
        self._free = size
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
        if self._free and self._may_have_more(address):
            self._take_slot(address)
        else:
            await self._wait(address)
        loan = Loan(address, self._open)
        self._lent.add(loan)
        try:
            await self._fill(loan)
        except BaseException:
            self._release(loan)
            raise
        return loan

    def give_back(self, loan: Loan) -> None:
        """Take the connection back; what isn't clean is closed."""
        connection = loan.connection
        now = asyncio.get_running_loop().time()
        if not connection.reusable:
            connection.abort()
        elif (
            self._closed
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

    def _may_have_more(self, address: str) -> bool:
        return not address or self._taken[address] < self._share

    def _take_slot(self, address: str) -> None:
        self._free -= 1
        self._taken[address] += 1

    def _give_slot(self, address: str) -> None:
        self._free += 1
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]
        self._serve()

    def _release(self, loan: Loan) -> None:
        self._lent.discard(loan)
        self._give_slot(loan.address)

    def _serve(self) -> None:
        for turn, address in self._waiting.items():
            if not self._free:
                break
            if not turn.done() and self._may_have_more(address):
                self._take_slot(address)
                turn.set_result(None)

    async def _wait(self, address: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = address
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except TimeoutError:
            # Else its turn came in the very moment in which the time was up.
            if turn.cancelled():
                raise self._all_in_use(address) from None
        except BaseException:
            if not turn.cancelled():
                self._give_slot(address)
            raise
        finally:
            del self._waiting[turn]

    def _all_in_use(self, address: str) -> Overloaded:
        mine = self._taken[address]
        others = "" if self._may_have_more(address) else f", and {address} has {mine} of them, which is its share"
        return Overloaded(
            f"no connection to the backend got free within {self._wait_seconds:g} s: "
            f"{self._size - self._free} of {self._size} are in use{others}",
            look_at="BACKEND_SMTP_MAX_CONNECTIONS",
        )

    # Connections.

    async def _fill(self, loan: Loan) -> None:
        # The one used last is the least likely to have been closed by the backend, or on the way.
        while self._idle:
            idle = self._idle.pop()
            if idle.connection.reusable:
                loan.take(idle.connection, idle.opened)
                return
            self._dismiss(idle.connection)
        await loan.renew()

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
        await asyncio.gather(*(connection.closed() for connection in self._leaving))
        self._leaving.clear()
