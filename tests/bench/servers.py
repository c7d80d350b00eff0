"""What a benchmark starts: the proxy as its user does, and the rivals; each is stopped when its block is left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from bench import sink
from bench.measure import MISSING
from bench.sink import Board
from interop.proxy import clean_environment, command
from realservers.certificates import Certificate
from realservers.processes import Daemon, on_free_ports, require, short_folder

_LOG_LINES = 20

T = TypeVar("T")


def optional(stack: ExitStack, note: Callable[[str], None], start: Callable[[], AbstractContextManager[T]]) -> T | None:
    """Start a server that the table can do without: where its program is missing, its column stays empty."""
    try:
        return stack.enter_context(start())
    except MISSING as reason:
        note(f"without its column: {reason}")
        return None


@dataclass(frozen=True)
class Proxy:
    """This project's command, running: the ports of both legs (one of them closed) and its process."""

    pop3_port: int
    smtp_port: int
    pid: int


@contextmanager
def proxy(**variables: str) -> Iterator[Proxy]:
    """Start it with these variables; one client may open as many connections as the machine bears."""
    with short_folder("bench-proxy-") as folder:
        defaults = {
            "POP3_BIND_ADDR": "127.0.0.1",
            "SMTP_BIND_ADDR": "127.0.0.1",
            "MAX_CONNECTIONS": "5000",
            "MAX_CONNECTIONS_PER_ADDRESS": "5000",
            "STATE_DIR": str(folder / "state"),
            "LOG_LEVEL": "warning",
        }
        pop3, smtp = (variables.get(plugin) != "none" for plugin in ("MAILDROP_PLUGIN", "RELAY_PLUGIN"))

        taken: list[int] = []

        def start_on(ports: list[int]) -> Daemon:
            taken[:] = ports
            named = {"POP3_BIND_PORT": str(ports[0]), "SMTP_BIND_PORT": str(ports[1])}
            environment = clean_environment(**{**defaults, **named, **variables})
            return Daemon.start(
                ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command("serve")],
                log_file=folder / "log",
                started="",
                ports=[port for port, open_ in zip(ports, (pop3, smtp), strict=True) if open_],
            )

        daemon = on_free_ports(2, start_on)
        try:
            yield Proxy(taken[0], taken[1], daemon.pid)
        finally:
            for line in daemon.log.splitlines()[-_LOG_LINES:]:
                print("  the proxy:", line, file=sys.stderr)
            daemon.stop()


@dataclass(frozen=True)
class Sink:
    """The SMTPS backend, running: its port, its CA, and the board on which it counts."""

    port: int
    ca_file: Path
    board: Board


@contextmanager
def _listening(command_on: Callable[[int], Sequence[str]], folder: Path, *, shown: bool = False) -> Iterator[int]:
    """Run the command that listens on the port that it is given; yields that port. ``shown``: its log, at the end."""
    taken: list[int] = []

    def start_on(ports: list[int]) -> Daemon:
        taken[:] = ports
        return Daemon.start(list(command_on(ports[0])), log_file=folder / "log", started="", ports=ports)

    daemon = on_free_ports(1, start_on)
    try:
        yield taken[0]
    finally:
        if shown:
            print(daemon.log, end="", file=sys.stderr)
        daemon.stop()


@contextmanager
def smtps_sink(certificate: Certificate) -> Iterator[Sink]:
    with short_folder("bench-sink-") as folder:
        board_file = folder / "board"
        board = Board.create(board_file)
        files = (board_file, certificate.certificate_file, certificate.key_file)

        def command_on(port: int) -> list[str]:
            return [sys.executable, "-P", sink.__file__, str(port), *map(str, files)]

        with _listening(command_on, folder, shown=True) as port:
            yield Sink(port, certificate.ca_file, board)


SPLICE = """\
foreground = yes
pid =
debug = notice
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[splice]
client = yes
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{backend}
"""


@contextmanager
def tls_splice(backend: int) -> Iterator[int]:
    """The physical limit of a relay: plain in, TLS out, and not an octet looked at. Yields its port."""
    program = require("stunnel4", "is the TLS splice that nothing can outrun")
    with short_folder("bench-splice-") as folder:
        configuration = folder / "splice.conf"

        def command_on(port: int) -> list[str]:
            configuration.write_text(SPLICE.format(port=port, backend=backend))
            return [program, str(configuration)]

        with _listening(command_on, folder) as port:
            yield port


@contextmanager
def in_python(program: ModuleType, backend: int, *words: str) -> Iterator[int]:
    """:mod:`.python_splice` or :mod:`.python_relay` before the backend. Yields its port."""

    def command_on(port: int) -> list[str]:
        return [sys.executable, "-P", str(program.__file__), str(port), str(backend), *words]

    with short_folder("bench-splice-") as folder, _listening(command_on, folder, shown=True) as port:
        yield port
