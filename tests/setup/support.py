"""The command `setup` as a script runs it, and as a person meets it: with a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from interop.proxy import clean_environment, command
from legacy_email_proxy.setup.files import read_env
from realservers.processes import tail, wait_until

SECONDS = 50.0


def set_up(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in this folder, without a terminal."""
    return subprocess.run(
        command("setup", *arguments),
        cwd=folder,
        env=clean_environment(STATE_DIR=str(folder / "state")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def settings_of(env_file: Path) -> dict[str, str]:
    """What the env file says, with the contents of the secrets' files in their place."""
    found = {}
    for name, text in read_env(env_file).items():
        if name.endswith("_FILE") and not name.endswith("_CA_FILE"):
            name, text = name.removesuffix("_FILE"), Path(text).read_text().rstrip("\n")
        found[name] = text
    return found


def left_over(folder: Path) -> set[str]:
    """The names of what a run made, without the state folder of the service."""
    return {path.name for path in folder.iterdir()} - {"state"}


class Terminal:
    """A person at a terminal: reads what is asked, and answers."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self.shown = ""
        self._read_until = 0

    def expect(self, words: str) -> str:
        """Wait for these words behind those that were read already; returns what stands before them."""
        while (found := self.shown.find(words, self._read_until)) < 0:
            assert self._more(), f"it ended without {words!r}{tail(self.shown)}"
        before = self.shown[self._read_until : found]
        self._read_until = found + len(words)
        return before

    def line(self) -> str:
        """The rest of the line."""
        return self.expect("\r\n")

    def answer(self, question: str, text: str = "") -> None:
        self.expect(question)
        os.write(self._descriptor, f"{text}\n".encode())

    def end(self) -> int:
        """Read all, and return the exit status."""
        while self._more():
            pass
        return self.process.wait(SECONDS)

    def interrupt(self) -> None:
        """Ctrl-C, when it waits: Python notices one that comes just before it begins to read only at the next key."""
        state = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "S", "it waits", SECONDS)
        self.process.send_signal(signal.SIGINT)

    def _more(self) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], SECONDS)
        assert ready, f"nothing more is said{tail(self.shown)}"
        try:
            octets = os.read(self._descriptor, 65536)
        except OSError:  # the other end is closed
            return False
        self.shown += octets.decode()
        return bool(octets)


@contextmanager
def at_terminal(folder: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    environ = clean_environment(STATE_DIR=str(folder / "state"), **(variables or {}))
    process = subprocess.Popen(
        command("setup", *arguments), cwd=folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
