"""PostgreSQL: the database of a spool that several proxies share. Every test gets a database of its own.

It does not run as root: when the tests do, it runs as the user that its package has made.
"""

from __future__ import annotations

import itertools
import os
import pwd
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psycopg

from realservers.processes import (
    STOP_SECONDS,
    Daemon,
    ask,
    on_free_ports,
    require,
    short_folder,
    unavailable,
    wait_until,
)  # fmt: skip
from realservers.server import Server

USERS = ("postgres", "nobody")
REASON = "comes with PostgreSQL, which keeps a shared spool"


def require_programs() -> Path:
    """The folder of PostgreSQL's programs. Debian keeps it out of the PATH, one for each version."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return versions[-1].parent if versions else Path(require("initdb", REASON)).parent


class Postgres(Server):
    """One cluster on a free port of 127.0.0.1; everybody may do everything."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._command: list[str] = []
        self._names = map("spool{}".format, itertools.count(1))
        self.port = 0

    @classmethod
    def start(cls, settings: Mapping[str, str] | None = None) -> Self:
        """Start it. It syncs nothing unless `settings` say so: no test of ours cuts the power."""
        programs = require_programs()
        with ExitStack() as stack:
            folder = stack.enter_context(short_folder("postgres-"))
            self = cls(folder)
            user = _as_user(folder)
            self._command = [*user, str(programs / "postgres"), "-D", str(folder / "data")]
            initdb = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-A", "trust"]
            ask(*user, *initdb, "-E", "UTF8", "--locale=C", "--no-sync")
            with (folder / "data" / "postgresql.conf").open("a") as file:
                ours = {"fsync": "off", "max_connections": "200", "unix_socket_directories": f"'{folder}'"}
                file.writelines(f"{name} = {value}\n" for name, value in (ours | dict(settings or {})).items())

            def start_on(ports: list[int]) -> Daemon:
                self.port = ports[0]
                return self._run()

            self._started(on_free_ports(1, start_on), stack)
        return self

    def _run(self, *settings: str) -> Daemon:
        given = [f"-c{each}" for each in ("listen_addresses=127.0.0.1", *settings)]
        return Daemon.start(
            [*self._command, "-p", str(self.port), *given],
            log_file=self._folder / "log",
            started="ready to accept ",
            ports=[self.port],
        )

    def _end(self) -> None:
        """Its processes are each in a session of their own; only its own way of stopping reaches them all."""
        if self._running:
            os.kill(self._daemon.pid, signal.SIGINT)
            wait_until(lambda: not self._daemon.members, "PostgreSQL has ended", STOP_SECONDS)
            self._ended()

    def start_again(self, *settings: str, standby: bool = False) -> None:
        """On the same port, with what is on the disk; as a standby that reads only, until it is promoted."""
        (self._folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        if standby:
            (self._folder / "data" / "standby.signal").touch()
        self._daemon, self._running = self._run(*settings), True

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self, options: str = "") -> str:
        """The URL of an empty database."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def execute(self, statement: str, url: str = "") -> list[tuple[object, ...]]:
        """One statement, and the rows that it gives."""
        with psycopg.connect(url or self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def _as_user(folder: Path) -> list[str]:
    """What to put before a command so that it does not run as root, and owns the folder."""
    if os.geteuid() != 0:
        return []
    user = next((each for each in pwd.getpwall() if each.pw_name in USERS), None)
    if user is None:
        unavailable("there is no user that PostgreSQL could run as")
    os.chown(folder, user.pw_uid, user.pw_gid)
    setpriv = require("setpriv", "runs PostgreSQL as another user than root")
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
