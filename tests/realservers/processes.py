"""Server processes: what must be there to start one, free ports, the wait until it answers, a stop that leaves nothing.

Every wait polls a condition and has a deadline. A signal goes only to a process that was started here, by its id.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Self

import pytest

START_SECONDS = 50.0
STOP_SECONDS = 50.0
ASK_SECONDS = 30.0
PORT_TRIES = 5
TAIL_LINES = 30
# Debian keeps servers in sbin, which an ordinary user's PATH lacks.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class DidNotStart(Exception):
    """The server ended, or did not answer in time; the text ends with what it logged."""


def unavailable(reason: str) -> NoReturn:
    """Skip the test that asks, or fail it in CI: there a missing program is a mistake in the set-up."""
    if os.environ.get("NOTHING_MAY_BE_MISSING"):
        pytest.fail(f"{reason} (in CI that is a failure)", pytrace=False)
    pytest.skip(reason)


def require(program: str, reason: str) -> str:
    """The program's path; where it is missing, the test is skipped (in CI: fails), saying what it was needed for.

    The reason completes "… is not installed: it …", as in `require("curl", "reads POP3 as a real client")`.
    """
    path = shutil.which(program, path=SEARCH_PATH)
    if path is None:
        unavailable(f"{program} is not installed: it {reason}")
    return path


def ask(*command: str, seconds: float = ASK_SECONDS) -> str:
    """What a program that ends by itself prints; RuntimeError, with what it complained of, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}{tail(done.stdout + done.stderr)}")
    return done.stdout.strip()


def tail(text: str) -> str:
    """Its last lines, to stand below a one-line message."""
    return "".join("\n  | " + line for line in text.splitlines()[-TAIL_LINES:])


@contextmanager
def short_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder with a path that leaves room for unix sockets (107 octets), which a server's users can enter.

    pytest's own `tmp_path` is neither: it is long, and closed to everyone but the user who runs the tests.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nobody listens on at the moment; another program may still be quicker."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def answers(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Return as soon as the condition holds; TimeoutError, naming what was waited for, if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"after {seconds:g} s still waiting until {what}")
        time.sleep(0.01)


class Daemon:
    """A server in the foreground, in a session of its own, with all its output in one file."""

    def __init__(self, process: subprocess.Popen[bytes], guard: subprocess.Popen[bytes], log_file: Path) -> None:
        self._process = process
        self._guard = guard
        self._log_file = log_file

    @classmethod
    def start(cls, command: Sequence[str], *, log_file: Path, started: str, ports: Sequence[int]) -> Self:
        """Start it, and return when its log says `started` and its ports answer.

        The log decides whose ports they are: a server that logs this only after it has bound them all can not be
        mistaken for another program that was quicker to take one.
        """
        with log_file.open("wb"):
            pass
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        daemon = cls(process, _guard(process.pid), log_file)

        def settled() -> bool:
            return process.poll() is not None or (started in daemon.log and all(map(answers, ports)))

        with ExitStack() as undo:
            undo.callback(daemon.stop)
            try:
                wait_until(settled, f"{command[0]} answers", START_SECONDS)
            except TimeoutError as error:
                raise DidNotStart(f"{error}{tail(daemon.log)}") from None
            if process.poll() is not None:
                raise DidNotStart(f"{command[0]} ended with status {process.returncode}{tail(daemon.log)}")
            undo.pop_all()
        return daemon

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def members(self) -> list[int]:
        """The ids of the processes that are left of it."""
        return members(self.pid)

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    def stop(self) -> None:
        """Ask all its processes to end and wait until nothing of it is left; what does not end in time is killed.

        All of them, because Dovecot's master leaves those behind that have a client, and waits a second for the others.
        """
        try:
            self._signal(signal.SIGTERM)
            self._process.wait(STOP_SECONDS)
            self._signal(signal.SIGTERM)  # those which it had started meanwhile
            wait_until(lambda: not self.members, "its processes have ended", STOP_SECONDS)
        except (subprocess.TimeoutExpired, TimeoutError):
            self._signal(signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
            wait_until(lambda: not self.members, "its killed processes are gone", STOP_SECONDS)
        finally:
            self._guard.communicate(b"stopped\n", timeout=STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.members:
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(pid, number)


def members(session: int) -> list[int]:
    """The ids of the processes of a session that still run: the server that leads it, and what it has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _parent, _group, its_session = (entry / "stat").read_text().rpartition(") ")[2].split()[:4]
        except OSError:  # it ended while we looked
            continue
        if int(its_session) == session and state not in "ZX":
            found.append(int(entry.name))
    return found


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """A shell that ends the server if the tests end without stopping it: no teardown runs when pytest itself is killed.

    Its input is a pipe that closes with us. A line on it means that the server was stopped and there is nothing to do.
    """
    script = 'read -r line || kill -TERM "$0"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def on_free_ports(count: int, start: Callable[[list[int]], Daemon]) -> Daemon:
    """Start a server on that many free ports, with other ones if somebody took one between our look and its bind.

    Whether that is why it ended, the ports tell: Postfix would complain to the machine's log only, never to us.
    """
    for remaining in reversed(range(PORT_TRIES)):
        ports = free_ports(count)
        try:
            return start(ports)
        except DidNotStart:
            if not remaining or all(map(_is_free, ports)):
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
