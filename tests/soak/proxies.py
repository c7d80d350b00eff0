"""The proxies: the real command, one with the direct relay and one with each kind of spool."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

from abuse.scene import PASSWORD
from interop.proxy import START_SECONDS, STOP_SECONDS, backends, clean_environment, command
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.postgres import Postgres
from realservers.processes import free_ports, wait_until
from soak.ledger import Ledger, Mailbox
from soak.senders import Road

MAILBOXES = 3
RETRY_SECONDS = "1,2,4"
"""An hour of a real queue's waiting in seconds: the run has to see every message arrive."""


class Proxy:
    """One command, on ports that it keeps when it is killed and started again."""

    def __init__(self, name: str, folder: Path, dovecot: Dovecot, postfix: Postfix, settings: dict[str, str]) -> None:
        self.name = name
        self.keeps = bool(settings)
        self.ledger = Ledger(name, keeps=self.keeps)
        self.sink = dovecot.add_account(f"{name}-sink")
        self.mailboxes = [Mailbox(f"{name}-box{number}", PASSWORD) for number in range(MAILBOXES)]
        for mailbox in self.mailboxes:
            dovecot.add_account(mailbox.user, mailbox.password)
        self.log_file = folder / f"{name}.log"
        smtp, pop3 = free_ports(2)
        self.road = Road(smtp, pop3, self.sink.address, self.ledger, threading.Event())
        self._settings = {
            **{f"{leg}_BIND_ADDR": "127.0.0.1" for leg in ("POP3", "SMTP")},
            "SMTP_BIND_PORT": str(smtp),
            "POP3_BIND_PORT": str(pop3),
            **backends(dovecot, postfix, self.sink),
            "POP3_LOGIN": "backend",
            "STATE_DIR": str(folder / f"{name}-state"),
            "SPOOL_RETRY_SECONDS": RETRY_SECONDS,
            **settings,
        }
        self._process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self) -> None:
        before = self.log.count(" started ")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command("serve"), env=clean_environment(**self._settings), stdin=subprocess.DEVNULL, stderr=log
            )
        wait_until(
            lambda: self.log.count(" started ") > before or self._process.poll() is not None,
            f"the proxy {self.name} starts",
            START_SECONDS,
        )
        self.look()

    def look(self) -> None:
        """Note it if the process has ended by itself."""
        if self._process.poll() is not None:
            self.ledger.fault(f"{self.name}: the proxy ended with {self._process.returncode}")

    def reload(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def kill(self) -> None:
        """SIGKILL, as the machine's memory killer does it."""
        self.look()
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM; it must end well, and its log must hold no traceback."""
        self.look()
        self._process.terminate()
        try:
            if status := self._process.wait(STOP_SECONDS):
                self.ledger.fault(f"{self.name}: SIGTERM ended it with {status}")
        except subprocess.TimeoutExpired:
            self.ledger.fault(f"{self.name}: SIGTERM was ignored")
            self.kill()
        if tracebacks := self.log.count("Traceback (most recent call last)"):
            self.ledger.fault(f"{self.name}: {tracebacks} tracebacks in {self.log_file}")

    def discard(self) -> None:
        """Whatever happens, nothing is left running."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def three(folder: Path, dovecot: Dovecot, postfix: Postfix, postgres: Postgres) -> list[Proxy]:
    spools: dict[str, dict[str, str]] = {
        "direct": {},
        "sqlite": {"RELAY_PLUGIN": "spool"},
        "postgres": {"RELAY_PLUGIN": "spool", "SPOOL_URL": postgres.new_database()},
    }
    return [Proxy(name, folder, dovecot, postfix, settings) for name, settings in spools.items()]
