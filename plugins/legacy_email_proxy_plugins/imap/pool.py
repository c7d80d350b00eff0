"""One pool of connections per account, that is per user and proven password: nobody gets another user's connection.

A pool has a limited number of connections. Each is lent for one exchange, which runs in a thread; on a connection that
was used before, a batch of small messages is read in the event loop.

Each pool has its own threads, no more than it has connections. So an account whose server hangs takes no thread from
another account, and the number of threads is limited. A connection is used again only after an exchange that ended
cleanly. Otherwise the rest of one answer would be taken for the answer to the next command.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import anyio

from legacy_email_proxy.contracts import Account, Disconnected, Login, Overloaded, Secret, logged_in

from ..backoff import Breaker, Throttle
from ..places import Holder, Places
from .account_cache import Openings, Shelf, Shelves
from .connection import Connection
from .imapclient_adapter import InThread
from .login import LoginWays
from .response_codes import Busy
from .settings import Server

__all__ = ("Accounts", "Pool")

T = TypeVar("T")

Key = tuple[str, bytes, bool]


class Accounts:
    """The pools of all accounts. A pool is dropped when no session uses it and it has no connection."""

    def __init__(self, server: Server, logger: logging.Logger) -> None:
        self._server = server
        self._logger = logger
        self._pools: dict[Key, Pool] = {}
        self._users: Counter[Key] = Counter()
        self._throttles: dict[Key, Throttle] = {}
        self._ways = LoginWays()
        self._shelves = Shelves()

    @contextmanager
    def pool(self, login: Login, *, clients_own: bool) -> Iterator[Pool]:
        """The account's pool, for the time of the ``with`` block."""
        key = (login.user, login.password.fingerprint(), clients_own)
        with self._shelves.lent(key) as shelf:
            pool = self._pools.get(key)
            if pool is None:
                pool = Pool(
                    self._server,
                    login,
                    clients_own=clients_own,
                    logger=self._logger,
                    on_idle=lambda: self._drop_if_unused(key),
                    throttle=self._throttle(key),
                    ways=self._ways,
                )
                self._pools[key] = pool
            pool.shelf = shelf
            self._users[key] += 1
            try:
                yield pool
            finally:
                self._users[key] -= 1
                self._drop_if_unused(key)

    def _throttle(self, key: Key) -> Throttle:
        # A pause may last longer than the pool, so it is kept here. Each password has its own pause: otherwise a
        # stranger with a wrong password could make the owner wait.
        self._throttles = {of: known for of, known in self._throttles.items() if known.left or of in self._pools}
        return self._throttles.setdefault(key, Throttle())

    def _drop_if_unused(self, key: Key) -> None:
        pool = self._pools.get(key)
        # The pool of the account in the settings stays, because it remembers that a password was refused.
        if pool is not None and key[2] and not self._users[key] and not pool.in_use:
            del self._pools[key], self._users[key]
            pool.dismiss()

    def counts(self) -> tuple[int, int, int]:
        """As :attr:`Pool.counts`, of all pools together."""
        counts = [pool.counts for pool in self._pools.values()]
        return sum(each[0] for each in counts), sum(each[1] for each in counts), sum(each[2] for each in counts)

    def paused_seconds(self) -> float:
        """How long the account in the settings has to wait; clients' own logins have pauses of their own."""
        return max((pool.paused_seconds for key, pool in self._pools.items() if not key[2]), default=0.0)

    async def aclose(self) -> None:
        """Close every connection."""
        async with anyio.create_task_group() as closing:
            for pool in self._pools.values():
                closing.start_soon(pool.aclose)
        self._pools.clear()


class Pool:
    """At most ``server.max_connections`` connections, all logged in as ``login``; used in one event loop.

    ``on_idle`` is called whenever no connection is lent or kept any more.
    """

    def __init__(
        self,
        server: Server,
        login: Login,
        *,
        clients_own: bool,
        logger: logging.Logger,
        on_idle: Callable[[], None] = lambda: None,
        throttle: Throttle | None = None,
        ways: LoginWays | None = None,
    ) -> None:
        self._throttle = throttle or Throttle()
        self._ways = ways or LoginWays()
        self.shelf: Shelf
        """What the sessions that use this pool share; set by :meth:`Accounts.pool`."""
        self.openings = Openings()
        self._server = server
        self._login = login
        self._clients_own = clients_own
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        # Only for the account in the settings. With clients' own logins, a stranger's wrong passwords would make the
        # user wait.
        self._breaker = Breaker(logger)
        self._places = Places(server.max_connections, logger)
        self._executor = ThreadPoolExecutor(server.max_connections, thread_name_prefix="imap")
        self._idle: list[tuple[float, Connection]] = []
        self._lent: set[_Lease] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many connections are lent, how many are idle, and how many exchanges wait for one."""
        return len(self._lent), len(self._idle), self._places.waiting

    @property
    def paused_seconds(self) -> float:
        """How long the server is left alone, because it refused the login or asked for a pause."""
        return max(self._breaker.left, self._throttle.left)

    @property
    def in_use(self) -> bool:
        """Whether a connection is lent or kept."""
        return bool(self._lent or self._idle)

    async def exchange(
        self,
        function: Callable[[Connection], T],
        *,
        address: str = "",
        fresh: bool = False,
        log_in: bool = True,
        reached: Callable[[Connection], None] = lambda connection: None,
        untouched: Callable[[], bool] = lambda: True,
        reader: Holder | None = None,
        in_loop: Callable[[Connection, InThread], Awaitable[T]] | None = None,
    ) -> T:
        """Run ``function`` with a connection and return what it returns. ``address`` is the client's.

        ``fresh`` asks for a new connection that has just logged in, or without ``log_in`` for one that has only
        connected. ``reached`` is called with a new connection before its login.

        If the server asks us to come back later, ``function`` runs again after a pause. If a kept connection turns out
        to be dead, it is replaced once. Both happen only as long as ``untouched`` says that ``function`` has handed on
        nothing yet.

        If the caller is cancelled, the connection is closed. Its place is free again when its thread has ended.
        ``reader`` is given where the exchange lasts as long as a client reads: it may have to give up for others.
        ``in_loop`` does the same as ``function`` in the event loop, where a kept connection has the folder open.

        Raises :class:`Overloaded` if no connection became free in time, and what logging in and ``function`` raise.
        """
        while True:
            await self._throttle.wait()
            try:
                result = await self._try(
                    function,
                    address=address,
                    fresh=fresh,
                    log_in=log_in,
                    reached=reached,
                    untouched=untouched,
                    reader=reader,
                    in_loop=in_loop,
                )
            except Busy as busy:
                if not (self._throttle.told(busy.suggested_seconds, throttled=busy.throttled) and untouched()):
                    raise
                continue
            self._throttle.went_well()
            return result

    async def _try(
        self,
        function: Callable[[Connection], T],
        *,
        address: str,
        fresh: bool,
        log_in: bool,
        reached: Callable[[Connection], None],
        untouched: Callable[[], bool],
        reader: Holder | None,
        in_loop: Callable[[Connection, InThread], Awaitable[T]] | None,
    ) -> T:
        long = reader is not None
        await self._take_place(address, long)
        lease = _Lease(address, long)
        self._lent.add(lease)
        if reader is not None:
            self._places.watch(reader, address)
        try:
            kept = None if fresh else self._take_idle(lease)
            if kept is not None:
                try:
                    if in_loop is not None and kept.mailbox is not None and not self._closing:
                        return await in_loop(kept, partial(self._in_thread, lease))
                    return await self._in_thread(lease, function)
                except Disconnected:
                    if not untouched():
                        raise
                    kept.close()
            self._take_fresh(lease, instead_of_idle=fresh)
            if log_in:
                await self._log_in(lease, reached)
            else:
                await self._connect(lease, reached)
            return await self._in_thread(lease, function)
        finally:
            if reader is not None:
                self._places.forget(reader)
            self._give_back(lease)

    async def _connect(self, lease: _Lease, reached: Callable[[Connection], None]) -> None:
        await self._in_thread(lease, Connection.connect)
        assert lease.connection is not None  # noqa: S101
        reached(lease.connection)

    async def _log_in(self, lease: _Lease, reached: Callable[[Connection], None]) -> None:
        credentials, user = self._server.credentials, self._login.user
        if self._clients_own or credentials is None:
            await self._connect(lease, reached)
            await self._prove(lease, self._login)
            return
        connected = False

        async def attempt(secret: Secret) -> None:
            nonlocal connected
            self._breaker.check(secret)
            if not connected:
                await self._connect(lease, reached)
                connected = True
            async with self._breaker.attempt(secret, self._server.patience.command):
                await self._prove(lease, Login(user, secret))

        await logged_in(credentials, Account("imap", user), attempt)

    async def _prove(self, lease: _Lease, login: Login) -> None:
        prove = partial(Connection.login, login=login, clients_own=self._clients_own, ways=self._ways)
        await self._in_thread(lease, prove)

    # Lending

    async def _take_place(self, address: str, long: bool) -> None:
        seconds = self._server.patience.slot
        try:
            await self._places.take(address, self._loop.time() + seconds, long=long)
        except TimeoutError:
            words = self._places.words(address, long=long)
            detail = f"no connection to the server got free within {seconds:g} s: {words}"
            raise Overloaded(detail, look_at="BACKEND_IMAP_MAX_CONNECTIONS") from None

    def _take_idle(self, lease: _Lease) -> Connection | None:
        if self._idle:
            # The one that was used last: so those that are not needed become old and are closed.
            lease.connection = self._idle.pop()[1]
        return lease.connection

    def _take_fresh(self, lease: _Lease, *, instead_of_idle: bool) -> None:
        # The server counts kept connections too. If one is kept, it is closed before a new one is opened in its place.
        # So lent and kept connections together are never more than allowed.
        if instead_of_idle and self._idle:
            self._idle.pop(0)[1].close()
        lease.connection = Connection(self._server)

    async def _in_thread(self, lease: _Lease, function: Callable[[Connection], T]) -> T:
        connection = lease.connection
        assert connection is not None, "nothing lent"  # noqa: S101
        if self._closing:
            raise Disconnected("the proxy is shutting down")
        # With the task's context: lines that are logged in the thread belong to the session, too.
        lease.future = future = self._executor.submit(copy_context().run, function, connection)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            connection.abort()
            raise

    def _give_back(self, lease: _Lease) -> None:
        if lease.future is None or lease.future.done():
            self._settle(lease)
            return

        def ended(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # The loop is gone, and the pool with it.
                self._loop.call_soon_threadsafe(self._settle, lease)

        lease.future.add_done_callback(ended)

    def _settle(self, lease: _Lease) -> None:
        self._lent.discard(lease)
        connection = lease.connection
        if connection is not None:
            if connection.usable and connection.logged_in and not self._closing:
                self._idle.append((time.monotonic(), connection))
                self._watch_idle()
            else:
                connection.close()
        self._places.give(lease.address, long=lease.long)
        if not self.in_use:
            self._on_idle()

    # Keeping

    def _watch_idle(self) -> None:
        if self._timer is None and self._idle:
            age = time.monotonic() - self._idle[0][0]
            self._timer = self._loop.call_later(max(0.0, self._server.patience.idle - age), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._idle and now - self._idle[0][0] >= self._server.patience.idle:
            self._executor.submit(self._idle.pop(0)[1].logout)
        self._watch_idle()
        if not self.in_use:
            self._on_idle()

    def dismiss(self) -> None:
        """End the threads of a pool that is not :attr:`in_use`."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._executor.shutdown(wait=False)

    async def aclose(self) -> None:
        """End the exchanges that are going on, log out where that is quick, and end the threads."""
        leaving: list[Future[Any]] = []
        for lease in self._lent:
            if lease.connection is not None:
                lease.connection.abort()
            if lease.future is not None:
                leaving.append(lease.future)
        leaving += [self._executor.submit(connection.logout) for _, connection in self._idle]
        self._idle.clear()
        self.dismiss()
        with anyio.move_on_after(2 * self._server.patience.logout):
            await asyncio.gather(*map(asyncio.wrap_future, leaving), return_exceptions=True)


class _Lease:
    """What one exchange has borrowed: a place, a connection, and the work that its thread does or did last."""

    def __init__(self, address: str, long: bool) -> None:
        self.address = address
        self.long = long
        self.connection: Connection | None = None
        self.future: Future[Any] | None = None
