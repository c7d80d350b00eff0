"""Measures a start and an idle process: `python tests/bench/idle.py [--only NAME] [--quick]`.

Both legs with their default plugins, and the history, which is on by default. Greetings are asked for until both ports
have given one; Pss is memory without what others share with it. The limit is `smallest.py`, a program that loads the
same libraries and does nothing.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import psutil

from bench import command, smallest
from bench.command import Scenario
from bench.measure import compare
from bench.table import Row, Target
from interop.proxy import clean_environment
from interop.proxy import command as proxy_command
from realservers.processes import DidNotStart, free_ports, short_folder

NAMES = ("start", "accounts")
_LEGS = ("IMAP", "SMTP")
_SECONDS = 60.0
_PAUSE = 0.002
_SETTLED_SECONDS = 1.0
"""Until the service has done what it does at a start, such as reading what alerts remember."""


def started(program: Sequence[str], ports: Sequence[int], variables: Mapping[str, str]) -> Sequence[float]:
    """Start it; seconds until both ports have greeted, CPU seconds until then, and MiB of Rss and Pss when idle."""
    began = time.perf_counter()
    with subprocess.Popen(program, env=variables, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for port in ports:
                _greeting(process, port, began + _SECONDS)
            took = time.perf_counter() - began
            used = psutil.Process(process.pid).cpu_times()
            time.sleep(_SETTLED_SECONDS)
            held = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        finally:
            process.terminate()
    rss, pss = (int(re.findall(rf"^{kind}: +(\d+)", held, re.MULTILINE)[0]) / 1024 for kind in ("Rss", "Pss"))
    return [took, used.user + used.system, rss, pss]


def _greeting(process: subprocess.Popen[bytes], port: int, until: float) -> None:
    while time.perf_counter() < until and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), _SECONDS) as device:
                if device.recv(1):
                    return
        except OSError:
            time.sleep(_PAUSE)
    raise DidNotStart(f"no greeting on port {port}")


def _proxy(folder: Path, **more: str) -> Sequence[float]:
    pop3, smtp = ports = free_ports(2)
    logins = {f"BACKEND_{leg}_{what}": "127.0.0.1" for leg in _LEGS for what in ("HOST", "USER", "PASS")}
    listeners = {"POP3_BIND_ADDR": "127.0.0.1", "SMTP_BIND_ADDR": "127.0.0.1"}
    listeners |= {"POP3_BIND_PORT": str(pop3), "SMTP_BIND_PORT": str(smtp), "STATE_DIR": str(folder / "state")}
    return started(proxy_command("serve"), ports, clean_environment(**logins, **listeners, **more))


def _smallest(folder: Path) -> Sequence[float]:
    ports = free_ports(2)
    program = [sys.executable, smallest.__file__, *map(str, ports), str(folder / "database")]
    return started(program, ports, clean_environment())


def start(stack: ExitStack, quick: bool) -> Mapping[str, Scenario]:
    folder = stack.enter_context(short_folder("bench-idle-"))
    rounds = 1 if quick else 5
    for once in (_proxy, _smallest):
        once(folder)  # the first start may have to compile

    def nothing_to_do() -> list[Row]:
        took, used, rss, pss = compare(
            command.note, lambda: _proxy(folder), limit=lambda: _smallest(folder), rounds=rounds, figures=4
        )
        return [
            Row("start until both legs greet", "s", took, [Target("≤", 0.4)]),
            Row("CPU of a start", "s", used, []),
            Row("idle process, Rss", "MiB", rss, [Target("≤", 32)]),
            Row("idle process, Pss", "MiB", pss, []),
        ]

    def many_accounts() -> list[Row]:
        count = 100 if quick else 1000
        file = folder / "accounts.toml"
        login = "BACKEND_IMAP_USER = 'u'\nBACKEND_IMAP_PASS = 'p'\n"
        tables = [f"[accounts.a{number}]\n{login}" for number in range(count)]
        rules = [f"[[rules]]\naccount = 'a{number}'\nsender = 'a{number}@firm.example'\n" for number in range(count)]
        file.write_text("".join([*tables, *rules, "[[rules]]\naccount = 'a0'\n"]))
        took, used, rss, _ = compare(
            command.note, lambda: _proxy(folder, ACCOUNTS_FILE=str(file)), rounds=rounds, figures=4
        )
        return [
            Row(f"start with {count} accounts", "s", took, [Target("≤", 2)]),
            Row(f"CPU of a start with {count} accounts", "s", used, []),
            Row(f"idle process with {count} accounts, Rss", "MiB", rss, []),
        ]

    return {"start": nothing_to_do, "accounts": many_accounts}


if __name__ == "__main__":
    sys.exit(command.main("a start and an idle process", NAMES, start))
