"""HAProxy: the balancer in front of two proxies, with the configuration that the pages show."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

from realservers.processes import Daemon, require, short_folder
from realservers.server import Server

__all__ = ("HAProxy",)

REASON = "stands in front of two proxies"


class HAProxy(Server):
    """One balancer. It logs to the file that :attr:`log` reads."""

    @classmethod
    def start(cls, configuration: str, ports: list[int]) -> Self:
        """Start it; ``ports`` are those of 127.0.0.1 that the configuration binds."""
        program = require("haproxy", REASON)
        self = cls()
        with ExitStack() as stack:
            folder = stack.enter_context(short_folder("haproxy-"))
            (folder / "haproxy.cfg").write_text(configuration)
            daemon = Daemon.start(
                [program, "-W", "-db", "-f", str(folder / "haproxy.cfg")],
                log_file=folder / "log",
                started="Loading success",
                ports=ports,
            )
            self._started(daemon, stack)
        return self

    @property
    def log(self) -> str:
        return self._daemon.log

    def ups(self, server: str) -> int:
        """How often it has found this server, like ``smtp/one``, alive again."""
        return self.log.count(f"Server {server} is UP")
