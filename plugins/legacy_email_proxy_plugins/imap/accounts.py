"""One pool and one shelf per account, by user and proven password: what one opened is never lent to another."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from legacy_email_proxy.contracts import Login

from .account_cache import Shelves
from .login import LoginWays
from .pool import Pool
from .settings import Server
from .throttle import Throttle

__all__ = ("Accounts",)

Key = tuple[str, bytes, bool]


class Accounts:
    """The pools of all accounts; one is dropped when no session uses it and no connection of it is left."""

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
        """The account's pool, kept at least as long as the ``with`` block."""
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
        # It outlives the pool, but not the password: a stranger's wrong one must not keep the owner waiting.
        self._throttles = {of: known for of, known in self._throttles.items() if known.left or of in self._pools}
        return self._throttles.setdefault(key, Throttle())

    def _drop_if_unused(self, key: Key) -> None:
        pool = self._pools.get(key)
        # The settings' own account stays: its pool remembers that a password was refused.
        if pool is not None and key[2] and not self._users[key] and not pool.in_use:
            del self._pools[key], self._users[key]
            pool.dismiss()

    async def aclose(self) -> None:
        """Close every connection."""
        async with anyio.create_task_group() as closing:
            for pool in self._pools.values():
                closing.start_soon(pool.aclose)
        self._pools.clear()
