"""The proxy as its user runs it: the command, in a process of its own, configured by variables."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import wait_until

START_SECONDS = 50.0
STOP_SECONDS = 50.0


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's variables without any of the proxy's, and the given ones."""
    ours = re.compile(
        r"PROVIDER|(POP3S?|SMTPS?|ADMIN|TLS|BACKEND|MAILDROP|RELAY|LOG|ALERT|MAX|ALLOWED|DRAIN|STATE|OAUTH2|GRAPH|SPOOL"
        r"|ACME|ACCOUNTS|HISTORY|PROXY_PROTOCOL|CREDENTIALS|NOTIFY|WATCHDOG|LISTEN)_"
    )
    return {name: value for name, value in os.environ.items() if not ours.match(name)} | variables


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "legacy_email_proxy", *arguments]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the proxy that ends by itself."""
    return subprocess.run(
        command(*arguments),
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@dataclass
class Proxy:
    """A running proxy."""

    process: subprocess.Popen[bytes]
    log_file: Path
    signalled: bool = False

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def lines(self, words: str) -> list[str]:
        return [line for line in self.log.splitlines() if words in line]

    def wait_for(self, words: str, count: int = 1) -> list[str]:
        wait_until(lambda: len(self.lines(words)) >= count, f"the log says {words!r}", START_SECONDS)
        return self.lines(words)

    def place(self, leg: str) -> tuple[str, int]:
        """Where it listens; a leg is called as in the log."""
        found = re.search(rf" {leg}=([^ ,]+):(\d+)", self.lines(" started ")[0])
        assert found, self.log
        return found[1], int(found[2])

    @property
    def pop3(self) -> tuple[str, int]:
        return self.place("pop3")

    @property
    def smtp(self) -> tuple[str, int]:
        return self.place("smtp")

    def send(self, number: signal.Signals) -> None:
        """Ask it to stop, once: a second signal means that there is no time to drain."""
        if not self.signalled:
            self.signalled = True
            self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit status."""
        self.send(number)
        return self.process.wait(STOP_SECONDS)


def backends(dovecot: Dovecot, postfix: Postfix, account: Account) -> dict[str, str]:
    """The variables for one account on the real servers."""
    return {
        "BACKEND_IMAP_HOST": "localhost",
        "BACKEND_IMAP_PORT": str(dovecot.imaps_port),
        "BACKEND_IMAP_USER": account.name,
        "BACKEND_IMAP_PASS": account.password,
        "BACKEND_IMAP_CA_FILE": str(dovecot.ca_file),
        "BACKEND_SMTP_HOST": "localhost",
        "BACKEND_SMTP_PORT": str(postfix.smtps_port),
        "BACKEND_SMTP_USER": account.name,
        "BACKEND_SMTP_PASS": account.password,
        "BACKEND_SMTP_CA_FILE": str(dovecot.ca_file),
    }


def maildirs(folder: Path) -> dict[str, str]:
    """The variables for a Maildir behind each leg, ``in`` to read and ``out`` for what is sent; it makes both."""
    for leg in ("in", "out"):
        for name in ("cur", "new", "tmp"):
            (folder / leg / name).mkdir(parents=True)
    return {
        "MAILDROP_PLUGIN": "maildir",
        "MAILDROP_MAILDIR_PATH": str(folder / "in"),
        "RELAY_PLUGIN": "maildir",
        "RELAY_MAILDIR_PATH": str(folder / "out"),
    }


@contextmanager
def running(variables: Mapping[str, str], program: Sequence[str] = ()) -> Iterator[Proxy]:
    """A proxy on free ports of 127.0.0.1, stopped at the end; it must end well, and leave no traceback in its log.

    ``program`` is what runs it, if that is not the command itself.
    """
    listeners = {f"{leg}_BIND_ADDR": "127.0.0.1" for leg in ("POP3", "SMTP")}
    listeners |= {f"{leg}_BIND_PORT": "0" for leg in ("POP3", "SMTP")}
    with tempfile.TemporaryDirectory() as folder:
        log_file = Path(folder) / "log"
        # Not the user's own folder: one service there has the socket for commands.
        listeners["STATE_DIR"] = f"{folder}/state"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                program or command(),
                env=clean_environment(**{**listeners, **variables}),
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        proxy = Proxy(process, log_file)
        try:
            wait_until(
                lambda: bool(proxy.lines(" started ")) or process.poll() is not None, "the proxy starts", START_SECONDS
            )
            assert process.poll() is None, proxy.log
            yield proxy
            status = proxy.stop()
            assert status == 0, proxy.log
            assert "Traceback" not in proxy.log, proxy.log
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
