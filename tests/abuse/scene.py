"""Where an attack takes place: the installed command, its providers, the honest client, and what became of them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from abuse import backend, honest
from abuse.measure import SERVED_SECONDS, Row, Watch
from interop.proxy import clean_environment
from realservers.postgres import Postgres
from realservers.processes import wait_until

HONEST = "127.0.0.2"
USER, PASSWORD = "user0", "right password"
USERS = 200
SESSION_SECONDS = 30.0
SMALL_SESSION_SECONDS = 12.0
START_SECONDS = 30.0
STOP_SECONDS = 20.0
ATTACK_SECONDS = 1.5
"""An attack lasts at least so long."""
SETTLE_SECONDS = 10.0
"""Longer than the name server of an attack is silent."""


@dataclass
class Attack:
    """One attack: what it does, and what has to be set up for it."""

    name: str
    run: Callable[[Scene], None]
    settings: Mapping[str, str] = field(default_factory=dict)
    backend: Mapping[str, Any] = field(default_factory=dict)
    ulimit: str = ""
    """A command of the shell before the proxy is started."""
    honest: Mapping[str, Any] = field(default_factory=dict)
    legs: tuple[str, ...] = ("smtp", "pop3")
    """The honest client's."""
    allowed: float = SERVED_SECONDS
    prepare: Callable[[Scene], None] | None = None
    """What has to be done before the proxy starts: `scene.settings` may be changed."""
    rival: str = ""
    """The leg on which a rival can be attacked in the same way."""
    alone: bool = False
    """The attack starts the proxy itself."""
    stalled_log: bool = False
    """Standard error is a pipe that nobody reads."""


class Scene:
    """`with Scene(attack, small=...) as scene: row = scene.attacked()`."""

    def __init__(self, attack: Attack, *, small: bool) -> None:
        self.attack = attack
        self.small = small
        self.row = Row(attack.name)
        self.ports: dict[str, int] = {}
        self.backend_ports: dict[str, int] = {}
        self.user, self.password = USER, PASSWORD
        self.settings: dict[str, str] = {}
        self.undo = ExitStack()
        self.postgres: Postgres
        self.folder = Path()
        self.process: subprocess.Popen[bytes] | None = None
        self.backend: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.folder = Path(self.undo.enter_context(tempfile.TemporaryDirectory(prefix="abuse-")))
        self._start_backend()
        listeners = {f"{leg}_BIND_{what}": value for leg in ("POP3", "SMTP") for what, value in _BIND.items()}
        assert self.backend is not None
        self.settings = {
            **listeners,
            "BACKEND_IMAP_USER": USER,
            "BACKEND_IMAP_PASS": PASSWORD,
            "STATE_DIR": str(self.folder / "state"),
            **self._backend_settings,
            **self.attack.settings,
        }
        if self.attack.prepare is not None:
            self.attack.prepare(self)
        if not self.attack.alone:
            self.process = self.start()
            self.ports = self.listening()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.process, self.backend):
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
        self.undo.close()

    @property
    def log_file(self) -> Path:
        return self.folder / "log"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def size(self, full: int, small: int) -> int:
        """A number for the run in CI, and the one for the table."""
        return small if self.small else full

    def note(self, text: str) -> None:
        if text not in self.row.notes:
            self.row.notes.append(text)

    def bad(self, text: str) -> None:
        self.row.faults.append(text)

    def _start_backend(self) -> None:
        accounts = [[f"user{number}", PASSWORD] for number in range(USERS)]
        options = json.dumps({"accounts": accounts, **self.attack.backend})
        self.backend = subprocess.Popen(
            [sys.executable, backend.__file__, options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.backend.stdout is not None
        self.backend_ports = ports = json.loads(self.backend.stdout.readline())
        self._backend_settings = {
            "BACKEND_IMAP_HOST": "127.0.0.1",
            "BACKEND_IMAP_PORT": str(ports["imap"]),
            "BACKEND_IMAP_USE_SSL": "false",
            "BACKEND_SMTP_HOST": "127.0.0.1",
            "BACKEND_SMTP_PORT": str(ports["smtp"]),
            "BACKEND_SMTP_USE_SSL": "false",
        }

    def counted(self) -> dict[str, Any]:
        """What the providers have counted."""
        assert self.backend is not None
        assert self.backend.stdin is not None
        assert self.backend.stdout is not None
        self.backend.stdin.write("\n")
        self.backend.stdin.flush()
        counted: dict[str, Any] = json.loads(self.backend.stdout.readline())
        return counted

    def start(self) -> subprocess.Popen[bytes]:
        """The command as a user has it installed; `ulimit` and all."""
        command = f'{self.attack.ulimit or ":"}; exec "$0" serve'
        program = str(Path(sys.executable).with_name("legacy-email-proxy"))
        environment = clean_environment(**self.settings)
        if self.attack.stalled_log:
            return subprocess.Popen(
                ["/bin/sh", "-c", command, program], env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                ["/bin/sh", "-c", command, program], env=environment, stdin=subprocess.DEVNULL, stderr=log
            )

    def listening(self) -> dict[str, int]:
        """The ports of the listeners, once the log names them."""
        process = self.process
        assert process is not None
        if self.attack.stalled_log:
            assert process.stderr is not None
            text = ""
            while " started " not in text:
                text = process.stderr.readline().decode(errors="replace")
                assert text, "the proxy did not start"
        else:
            wait_until(lambda: " started " in self.log or process.poll() is not None, "the proxy starts", START_SECONDS)
            assert process.poll() is None, self.log
            text = next(line for line in self.log.splitlines() if " started " in line)
        return {name: int(port) for name, port in re.findall(r" (pop3s?|smtps?|admin)=[^ ,]*:(\d+)", text)}

    def attacked(self) -> Row:
        """Let the honest client work, attack, and see what is left."""
        if self.attack.alone:
            self.attack.run(self)
            self.row.log(self.log, HONEST)
            return self.row
        assert self.process is not None
        client = Honest(self)
        try:
            client.warm_up()
            with Watch(self.process.pid) as watch:
                began = time.monotonic()
                self.run_attack(began)
                told = client.stop()
                after = self._settled(watch)
        finally:
            client.stop()
        self.row.honest(told, began, self.attack.allowed, client.legs)
        self.row.process(watch, after)
        if self.process.poll() is not None:
            self.bad(f"the process ended with {self.process.returncode}")
        self._terminate()
        self.row.log(self.log, HONEST)
        return self.row

    def run_attack(self, began: float) -> None:
        """Attack, again and again where that is over so soon that the honest client would hardly meet it."""
        self.attack.run(self)
        while time.monotonic() < began + ATTACK_SECONDS:
            self.attack.run(self)

    def _settled(self, watch: Watch) -> tuple[int, int]:
        deadline = time.monotonic() + SETTLE_SECONDS
        while (after := watch.look())[1] > watch.descriptors + 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        return after

    def _terminate(self) -> None:
        process = self.process
        assert process is not None
        if process.poll() is not None:
            return
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.bad(f"SIGTERM was ignored for {STOP_SECONDS:.0f} s")
            return
        if process.returncode:
            self.bad(f"SIGTERM ended it with {process.returncode}")
        if (took := time.monotonic() - began) > 12:
            self.note(f"SIGTERM took {took:.0f} s")


_BIND = {"ADDR": "127.0.0.1", "PORT": "0"}


class Honest:
    """The honest client's process."""

    def __init__(self, scene: Scene) -> None:
        seconds = SMALL_SESSION_SECONDS if scene.small else SESSION_SECONDS
        self.legs = [leg for leg in scene.attack.legs if leg in scene.ports]
        options = {
            "source": HONEST,
            "seconds": seconds,
            "user": scene.user,
            "password": scene.password,
            **{leg: scene.ports[leg] for leg in self.legs},
            **scene.attack.honest,
        }
        self._file = scene.folder / "honest"
        with self._file.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, honest.__file__, json.dumps(options)], stdin=subprocess.PIPE, stdout=out
            )
        self._patience = seconds + 10
        self._stopped = False

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def warm_up(self) -> None:
        """Both legs have to work before they are attacked."""

        def served() -> bool:
            told = self.told
            return all(sum(each["leg"] == leg and not each["said"] for each in told) >= 2 for leg in self.legs)

        try:
            wait_until(served, "the honest client is served before the attack", START_SECONDS)
        except TimeoutError as error:
            raise RuntimeError(f"{error}: {self.told}") from None

    def stop(self) -> list[dict[str, Any]]:
        """Let it finish the session that it is in, and hear what it met."""
        if not self._stopped:
            self._stopped = True
            self._process.communicate(timeout=self._patience)
        return self.told
