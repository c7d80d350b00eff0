"""The work of the SMTP leg, one method for each piece of it, with its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from bench import command, mail, python_relay, python_splice
from bench.measure import KIB, MIB, Peak, Work, compare, resident
from bench.rivals import postfix_relay
from bench.servers import Proxy, in_python, optional, proxy, smtps_sink, tls_splice
from bench.smtp_devices import Device, idle, send
from bench.table import Figures, Row, Target
from realservers.certificates import Certificates
from realservers.processes import short_folder

WORK = ("twenty", "python", "one", "large", "far", "memory", "idle", "watched")
BACKEND_CONNECTIONS = 27
"""Of these one address gets three quarters: twenty, which is what Postfix opens to one destination (by default)."""
SECONDS = 120.0
"""For one piece of work, once."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rounds: int = 5
    small: int = 3000
    small_octets: int = 2000
    large: int = 40
    large_octets: int = 5_000_000
    far: int = 50
    far_seconds: float = 0.005
    huge_octets: int = 100_000_000
    idle: int = 1000


QUICK = Sizes(rounds=1, small=600, large=8, far=20, idle=200)


class Leg:
    """The sink, and before it in turns the splice, the rival and this project."""

    def __init__(self, stack: ExitStack, sizes: Sizes) -> None:
        self._sizes = sizes
        certificates = Certificates.write(stack.enter_context(short_folder("bench-certificates-")))
        self._sink = stack.enter_context(smtps_sink(certificates.good))
        self._splice = optional(stack, command.note, lambda: tls_splice(self._sink.port))
        self._rival = optional(stack, command.note, lambda: postfix_relay(certificates.good, self._sink.port))

    def _proxy(self, **variables: str) -> AbstractContextManager[Proxy]:
        return proxy(
            **variables,
            MAILDROP_PLUGIN="none",
            BACKEND_SMTP_HOST="localhost",
            BACKEND_SMTP_PORT=str(self._sink.port),
            BACKEND_SMTP_USER="user",
            BACKEND_SMTP_PASS="password",
            BACKEND_SMTP_CA_FILE=str(self._sink.ca_file),
            BACKEND_SMTP_MAX_CONNECTIONS=str(BACKEND_CONNECTIONS),
            SMTP_MAX_OCTETS=str(2 * self._sizes.huge_octets),
        )

    def _load(self, count: int, octets: int, connections: int, beside_splice: float, beside_rival: float) -> list[Row]:
        """Messages of one size until the sink has them all."""

        def through(port: int | None) -> Work | None:
            return None if port is None else lambda: sent(port)

        def sent(port: int) -> Sequence[float]:
            board = self._sink.board
            took = send(port, board, count=count, octets=octets, connections=connections, seconds=SECONDS)
            return [count / took]

        with self._proxy() as running:
            (rate,) = compare(
                command.note,
                lambda: sent(running.smtp_port),
                rival=through(self._rival),
                limit=through(self._splice),
                rounds=self._sizes.rounds,
            )
        size = f"{octets // 1000} kB" if octets < 1_000_000 else f"{octets // 1_000_000} MB"
        name = f"{count} × {size} over {connections} connection{'s' if connections > 1 else ''}"
        name += f", {min(connections, 20)} to the backend" if connections > 1 else ""
        return [Row(name, "msg/s", rate, [Target("≥", beside_splice, "limit"), Target("≥", beside_rival, "rival")])]

    def twenty(self) -> list[Row]:
        return self._load(self._sizes.small, self._sizes.small_octets, 20, 0.80, 4)

    def python(self) -> list[Row]:
        """The work of `twenty`, beside the smallest relays in Python: no target, but what can be had in it."""
        count, octets, board = self._sizes.small, self._sizes.small_octets, self._sink.board

        def through(port: int) -> Work:
            def sent() -> Sequence[float]:
                return [count / send(port, board, count=count, octets=octets, connections=20, seconds=SECONDS)]

            return sent

        with (
            self._proxy() as running,
            in_python(python_relay, self._sink.port) as relay,
            in_python(python_relay, self._sink.port, "parsing") as parsing,
            in_python(python_splice, self._sink.port) as splice,
        ):
            beside = (("the dialogues alone", relay), ("the dialogues with the proxy's parsers", parsing))
            return [
                Row(
                    f"{count} over 20 connections; rival: {name} in Python, limit: a splice in Python",
                    "msg/s",
                    compare(
                        command.note,
                        through(running.smtp_port),
                        rival=through(rival),
                        limit=through(splice),
                        rounds=self._sizes.rounds,
                    )[0],
                    [],
                )
                for name, rival in beside
            ]

    def one(self) -> list[Row]:
        return self._load(self._sizes.small, self._sizes.small_octets, 1, 0.70, 4)

    def large(self) -> list[Row]:
        return self._load(self._sizes.large, self._sizes.large_octets, 4, 0.90, 2)

    def far(self) -> list[Row]:
        """How often a message waits for a backend that is some milliseconds away."""
        return [
            self._round_trips("device pipelines", 2, pipelining=True, chunking=False),
            self._round_trips("backend with CHUNKING", 2, pipelining=False, chunking=True),
            self._round_trips("neither", 3, pipelining=False, chunking=False),
        ]

    def _round_trips(self, case: str, most: float, *, pipelining: bool, chunking: bool) -> Row:
        """The time in which replies of the sink were on their way, in units of what one reply was."""
        board, count = self._sink.board, self._sizes.far
        (content,) = mail.messages(1, self._sizes.small_octets)
        board.chunking = int(chunking)
        with self._proxy() as running, Device(running.smtp_port) as device:
            device.send(content, pipelining=pipelining)  # opens the connection to the backend, which is used again
            board.waited_ns = board.waits = board.waiting_ns = 0
            board.delay_ns = int(self._sizes.far_seconds * 1e9)
            try:
                for _ in range(count):
                    device.send(content, pipelining=pipelining)
            finally:
                board.delay_ns = board.chunking = 0
        trips = board.waiting_ns / (board.waited_ns / board.waits) / count
        name = f"backend {self._sizes.far_seconds * 1000:g} ms away, {case}"
        return Row(name, "round trips", Figures(round(trips, 1)), [Target("≤", most)])

    def memory(self) -> list[Row]:
        """What one very large message adds to the proxy's memory."""
        octets, board = self._sizes.huge_octets, self._sink.board
        with self._proxy() as running:
            send(running.smtp_port, board, count=20, octets=2000, connections=1, seconds=SECONDS)
            with Peak(resident(running.pid)) as memory:
                send(running.smtp_port, board, count=1, octets=octets, connections=1, seconds=SECONDS)
        name = f"one message of {octets // 1_000_000} MB, memory grows by"
        return [Row(name, "MiB", Figures(memory.growth / MIB), [Target("≤", 4)])]

    def idle(self) -> list[Row]:
        """Many devices that have said EHLO and nothing more."""
        count = self._sizes.idle
        with self._proxy() as running:
            with idle(running.smtp_port, 20, SECONDS):
                pass  # what is loaded at the first use is not what a connection costs
            with Peak(resident(running.pid)) as memory, idle(running.smtp_port, count, SECONDS):
                each = (memory.read() - memory.before) / count
        return [Row(f"{count} idle connections, memory of each", "KiB", Figures(each / KIB), [Target("≤", 20)])]

    def watched(self) -> list[Row]:
        """What history, figures and alerts cost: the limit is the same proxy without them. Both log as by default."""
        count, octets, board = self._sizes.small, self._sizes.small_octets, self._sink.board
        without, everything = {"LOG_LEVEL": "info", "HISTORY_DAYS": "0"}, {
            "LOG_LEVEL": "info", "HISTORY_DAYS": "14", "ADMIN_BIND_PORT": "0", "ALERT_COMMAND": "true",
        }  # fmt: skip

        def through(running: Proxy) -> Work:
            def sent() -> Sequence[float]:
                took = send(running.smtp_port, board, count=count, octets=octets, connections=20, seconds=SECONDS)
                return [count / took]

            return sent

        with self._proxy(**without) as bare, self._proxy(**everything) as all_of_it:
            (rate,) = compare(command.note, through(all_of_it), limit=through(bare), rounds=3 * self._sizes.rounds)
        name = f"{count} over 20 connections with history, figures and alerts, beside without"
        return [Row(name, "msg/s", rate, [Target("≥", 0.97, "limit")])]


def main() -> int:
    def start(stack: ExitStack, quick: bool) -> Mapping[str, command.Scenario]:
        leg = Leg(stack, QUICK if quick else Sizes())
        return {name: getattr(leg, name) for name in WORK}

    return command.main("SMTP", WORK, start)
