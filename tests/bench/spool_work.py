"""The work of the spool: durable 250s and deliveries, beside Postfix and the disk itself, all on the same one.

PostgreSQL, where it is installed, has its data on that disk too, and syncs it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from bench import command, disk, mail
from bench.measure import MIB, Peak, Work, compare, resident
from bench.rivals import postfix_relay
from bench.servers import Proxy, optional, proxy, smtps_sink
from bench.smtp_devices import Device, spool
from bench.table import Figures, Row, Target
from realservers.certificates import Certificates
from realservers.postgres import Postgres
from realservers.processes import short_folder

_STORE_WORK = ("small", "large", "latency", "memory")
WORK = (*_STORE_WORK, *(f"postgres_{name}" for name in _STORE_WORK))
SECONDS = 180.0
"""For one piece of work, once."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rounds: int = 5
    small: int = 5000
    small_octets: int = 2000
    large: int = 60
    large_octets: int = 5_000_000
    latency: int = 300
    huge_octets: int = 100_000_000


QUICK = Sizes(rounds=1, small=1000, large=12, latency=50)


class Spools:
    """The sink, and before it in turns the rival and this project."""

    def __init__(self, stack: ExitStack, sizes: Sizes) -> None:
        self._sizes = sizes
        certificates = Certificates.write(stack.enter_context(short_folder("bench-certificates-")))
        self._sink = stack.enter_context(smtps_sink(certificates.good))
        self._rival = optional(stack, command.note, lambda: postfix_relay(certificates.good, self._sink.port))
        self._postgres = optional(stack, command.note, lambda: Postgres.start({"fsync": "on"}))

    def _proxy(self, url: str | None) -> AbstractContextManager[Proxy]:
        return proxy(
            **({} if url is None else {"SPOOL_URL": url}),
            MAILDROP_PLUGIN="none",
            RELAY_PLUGIN="spool",
            BACKEND_SMTP_HOST="localhost",
            BACKEND_SMTP_PORT=str(self._sink.port),
            BACKEND_SMTP_USER="user",
            BACKEND_SMTP_PASS="password",
            BACKEND_SMTP_CA_FILE=str(self._sink.ca_file),
            SMTP_MAX_OCTETS=str(2 * self._sizes.huge_octets),
        )

    def _load(
        self,
        count: int,
        octets: int,
        connections: int,
        accepted: Sequence[Target] = (),
        delivered: Sequence[Target] = (),
        url: str | None = None,
    ) -> list[Row]:
        def through(port: int | None) -> Work | None:
            return None if port is None else lambda: rates(port)

        def rates(port: int) -> Sequence[float]:
            board = self._sink.board
            took = spool(port, board, count=count, octets=octets, connections=connections, seconds=SECONDS)
            return [count / seconds for seconds in took]

        with self._proxy(url) as running:
            in_, out = compare(
                command.note,
                lambda: rates(running.smtp_port),
                rival=through(self._rival),
                limit=lambda: [disk.durable(count=count, octets=octets, writers=connections)],
                rounds=self._sizes.rounds,
                figures=2,
            )
        size = f"{octets // 1000} kB" if octets < 1_000_000 else f"{octets // 1_000_000} MB"
        name = f"{count} × {size} over {connections} connections{_store(url)}"
        return [
            Row(f"{name}, durable 250s", "msg/s", in_, accepted),
            Row(f"{name}, delivered", "msg/s", out, delivered),
        ]

    def _of(self, work: Callable[[str], list[Row]]) -> list[Row]:
        return [] if self._postgres is None else work(self._postgres.new_database())

    def small(self) -> list[Row]:
        targets = [Target("≥", 3, "rival")], [Target("≥", 3.5, "rival")]
        return self._load(self._sizes.small, self._sizes.small_octets, 20, *targets)

    def large(self) -> list[Row]:
        targets = [Target("≥", 1.5, "rival")], [Target("≥", 1.5, "rival")]
        return self._load(self._sizes.large, self._sizes.large_octets, 4, *targets)

    def postgres_small(self) -> list[Row]:
        targets = [Target("≥", 2.5, "rival")], [Target("≥", 2.5, "rival")]
        return self._of(lambda url: self._load(self._sizes.small, self._sizes.small_octets, 20, *targets, url=url))

    def postgres_large(self) -> list[Row]:
        targets = [Target("≥", 1.2, "rival")], [Target("≥", 1.2, "rival")]
        return self._of(lambda url: self._load(self._sizes.large, self._sizes.large_octets, 4, *targets, url=url))

    def latency(self) -> list[Row]:
        return self._latency([Target("≤", 1, "rival")])

    def postgres_latency(self) -> list[Row]:
        return self._of(lambda url: self._latency(url=url))

    def _latency(self, targets: Sequence[Target] = (), url: str | None = None) -> list[Row]:
        """How long one device, alone, waits from its final dot to the 250, the envelope included."""
        (content,) = mail.messages(1, self._sizes.small_octets)

        def median(port: int) -> Sequence[float]:
            took = []
            with Device(port) as device:
                for _ in range(self._sizes.latency):
                    begun = time.perf_counter()
                    device.send(content, pipelining=True)
                    took.append((time.perf_counter() - begun) * 1000)
            return [statistics.median(took)]

        def synced() -> Sequence[float]:
            with short_folder("bench-disk-") as folder:
                took = disk.waits(folder, count=self._sizes.latency, octets=self._sizes.small_octets, writers=1)
            return [statistics.median(took) * 1000]

        rival = self._rival
        with self._proxy(url) as running:
            (figures,) = compare(
                command.note,
                lambda: median(running.smtp_port),
                rival=None if rival is None else lambda: median(rival),
                limit=synced,
                rounds=self._sizes.rounds,
            )
        return [Row(f"one device, median of a message{_store(url)}", "ms", figures, targets)]

    def memory(self) -> list[Row]:
        return self._memory()

    def postgres_memory(self) -> list[Row]:
        return self._of(lambda url: self._memory(url))

    def _memory(self, url: str | None = None) -> list[Row]:
        """What one very large message adds to the proxy's memory, on its way in and on its way out."""
        octets, board = self._sizes.huge_octets, self._sink.board
        with self._proxy(url) as running:
            spool(running.smtp_port, board, count=20, octets=2000, connections=1, seconds=SECONDS)
            with Peak(resident(running.pid)) as memory:
                spool(running.smtp_port, board, count=1, octets=octets, connections=1, seconds=SECONDS)
        name = f"one message of {octets // 1_000_000} MB in and out, memory grows by{_store(url)}"
        return [Row(name, "MiB", Figures(memory.growth / MIB), [Target("≤", 5)])]


def _store(url: str | None) -> str:
    return "" if url is None else ", in PostgreSQL"


def main() -> int:
    def start(stack: ExitStack, quick: bool) -> Mapping[str, command.Scenario]:
        work = Spools(stack, QUICK if quick else Sizes())
        return {name: getattr(work, name) for name in WORK}

    return command.main("Spool", WORK, start)
