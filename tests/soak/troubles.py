"""What goes wrong meanwhile: servers and proxies that are killed and come back, servers that hang, reloads."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from realservers.server import Server
from soak.ledger import Trouble
from soak.proxies import Proxy

Action = tuple[str, str]
START_TRIES = 5


class Troubles:
    """Makes one after the other, in an order and at times that the seed decides."""

    def __init__(
        self,
        servers: Mapping[str, Server],
        proxies: list[Proxy],
        chance: random.Random,
        *,
        seconds: float,
        folder: Path,
    ) -> None:
        self._servers = servers
        self._proxies = {proxy.name: proxy for proxy in proxies}
        self._chance = chance
        self._seconds = seconds
        self._pace = min(1.0, seconds / 600)
        """A short run has short pauses, so that it too meets every kind."""
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._make)
        self.made: list[Trouble] = []
        self.failed: list[str] = []

    def start(self) -> None:
        self._began = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Returns when all that was killed or frozen is back."""
        self._ended.set()
        self._thread.join()

    def _make(self) -> None:
        for what, who in self._order():
            if self._ended.wait(self._chance.uniform(6, 20) * self._pace):
                return
            self._trouble(what, who)
            if self.failed:
                return

    def _order(self) -> Iterator[Action]:
        """Every kind once, in any order, then again. After a third of the run no proxy is killed a second time, so
        that each lives long enough to show whether it grows.
        """
        kinds = [(what, who) for what in ("kill", "freeze") for who in self._servers]
        kinds += [("reload", name) for name in self._proxies]
        kinds += [("kill", name) for name, proxy in self._proxies.items() if proxy.keeps]
        for _ in itertools.count():
            self._chance.shuffle(kinds)
            for what, who in kinds:
                late = time.monotonic() - self._began > self._seconds / 3
                again = any((each.what, each.who) == (what, who) for each in self.made)
                if not (late and again and what == "kill" and who in self._proxies):
                    yield what, who

    def _trouble(self, what: str, who: str) -> None:
        trouble = Trouble(what, who, time.time())
        self.made.append(trouble)
        doing: dict[str, Callable[[str], None]] = {"kill": self._kill, "freeze": self._freeze, "reload": self._reload}
        try:
            doing[what](who)
        except Exception as error:  # the run has to end, and to say why
            self.failed.append(f"{what} {who}: {type(error).__name__} {error}")
        trouble.ended = time.time()

    def _kill(self, who: str) -> None:
        if who in self._proxies:
            self._proxies[who].kill()
            self._proxies[who].start()
            return
        server = self._servers[who]
        with (self._folder / f"{who}.log").open("a") as file:
            file.write(server.log)  # it begins a new one
        server.kill()
        self._pause(1, 10)
        for remaining in reversed(range(START_TRIES)):
            try:
                server.start_again()
                return
            except Exception:  # somebody may have its port for a moment
                if not remaining:
                    raise

    def _freeze(self, who: str) -> None:
        self._servers[who].freeze()
        try:
            self._pause(2, 12)
        finally:
            self._servers[who].thaw()

    def _reload(self, who: str) -> None:
        self._proxies[who].reload()

    def _pause(self, least: float, most: float) -> None:
        self._ended.wait(self._chance.uniform(least, most) * max(self._pace, 0.2))
