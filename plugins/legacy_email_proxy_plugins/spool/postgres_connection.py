"""A connection to PostgreSQL that connects when it is needed, and again after the connection was lost.

It takes the statements of ``sql_store`` and ``sql_records`` in SQLite's dialect and translates them.

This module also has what concerns other processes at the same database: the instance id of this process, and a second
connection that receives notifications.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from legacy_email_proxy.contracts import Failure, StorageFull

from ..redaction import without_secrets
from . import sql_records
from .sqlite_files import Journal, Locked, SpoolLock
from .store import Interrupted

__all__ = (
    "CHANNEL",
    "DEFAULTS",
    "InstanceId",
    "PostgresConnection",
    "conninfo",
    "end_other_connections",
    "listen",
    "listeners",
    "server_name",
)

DEFAULTS = {
    "application_name": "legacy-email-proxy",
    "client_encoding": "UTF8",
    "connect_timeout": "5",
    # Without these, a server that disappeared is noticed only after two hours; with them within half a minute.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    # After a failover the old primary may still answer, but what it stores is lost.
    "target_session_attrs": "read-write",
}
"""Options of the connection, unless the URL sets them."""

_NAMES = frozenset({"host", "hostaddr", "port", "user", "dbname", *DEFAULTS})
"""Options whose values may be written to the log."""

_ORDINARY = re.compile(r"[0-9]+|[a-z-]+")
"""Values like ``require`` or ``10``. They are not hidden in error texts, or the texts could not be understood."""

_KEYWORD = re.compile(r"\s*[a-z_]+\s*=")
_HOST_AND_PORT = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+(?:%[0-9A-Za-z]+)?\]|(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts to connect. The pause doubles each time."""

_DISK_FULL = "53100"
_READ_ONLY = "25006"
"""After a failover this server is a replica now. A new connection finds the new primary."""

STATEMENT_SECONDS = 20.0
"""How long a statement may take; then the connection is given up, as the server may have stopped without closing it.

A third of a lease: a server that hangs so long that leases end meanwhile has cost every proxy its connection, and who
has a new one takes nothing over for the time of a lease (see ``postgres_store``). A limit of the server's own would not
do: it stops with the server, and cuts short a commit that waits for a replica, which then counts as one that succeeded.
"""

_MISTAKE = re.compile(
    r"(password|peer|ident|certificate) authentication failed|no password supplied|no pg_hba\.conf entry"
    r'|(database|role|user) "[^"]*" does not exist|not permitted to log in|permission denied for database'
    r"|invalid [a-z_]+ value|server does not support SSL",
    re.IGNORECASE,
)

_LINE = 400
"""Characters of an error text of libpq that are shown. It may have a line for each of several servers."""

_LISTED = "= ANY (ARRAY(SELECT value::bigint FROM jsonb_array_elements_text(?::jsonb)))"

# One statement, so that it is a transaction of its own. All its parts see the state before it, with the rows that it
# removes. It fails with `body_is_whole` if rows of a body are missing: they are not synced when they are written, so a
# crash of the server may have lost them.
_APPLY = """
WITH given AS (SELECT ?::jsonb AS messages, ?::jsonb AS recipients, ?::jsonb AS contents, ?::bytea AS octets,
    ARRAY(SELECT value::bigint FROM jsonb_array_elements_text(?::jsonb)) AS removed),
messages AS (
    INSERT INTO message
        (number, account, state, notice, client, reverse_path, parameters, octets, body, received, since, due,
        body_is_whole, owner, leased_until)
    SELECT (value->>0)::bigint, value->>1, value->>2, (value->>3)::int, value->>4, value->>5, value->>6,
        (value->>7)::bigint, value->>8, (value->>9)::float8, (value->>9)::float8, (value->>9)::float8,
        value->>8 IS NULL OR (value->>7)::bigint =
            (SELECT coalesce(sum(octet_length(piece.octets)), 0) FROM piece WHERE piece.body = value->>8),
        CASE WHEN value->>3 = '0' THEN current_setting('spool.owner') END,
        CASE WHEN value->>3 = '0' THEN clock_timestamp() + current_setting('spool.lease')::interval END
    FROM given, jsonb_array_elements(messages)),
recipients AS (
    INSERT INTO recipient (message, number, forward_path, parameters)
    SELECT (value->>0)::bigint, (value->>1)::int, value->>2, value->>3 FROM given, jsonb_array_elements(recipients)),
contents AS (
    INSERT INTO content (message, octets)
    SELECT (value->>0)::bigint, substring(octets FROM (value->>1)::int FOR (value->>2)::int)
    FROM given, jsonb_array_elements(contents)),
no_pieces AS (
    DELETE FROM piece WHERE body = ANY (
        ARRAY(SELECT body FROM message, given WHERE number = ANY (removed) AND body IS NOT NULL))),
no_recipients AS (DELETE FROM recipient USING given WHERE message = ANY (removed)),
no_contents AS (DELETE FROM content USING given WHERE message = ANY (removed))
DELETE FROM message USING given WHERE number = ANY (removed)
"""


@cache
def _translated(statement: str) -> str:
    if statement == sql_records.APPLY:
        statement = _APPLY
    return statement.replace(sql_records.LISTED, _LISTED).replace("?", "%s")


def conninfo(url: str) -> str:
    """The connection string for libpq, from a URL or from libpq's own ``keyword=value …``.

    Raises ``ValueError``. Its text has no part of the URL, because there is a password in that. A URL that libpq would
    misread is refused too: for ``u:p@ss@host`` it takes ``ss@host`` as the host, and a part of the password would be in
    the log and in a question to the name server.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        given = {}
    if not given or "@" in str(given.get("host")) or (not _KEYWORD.match(url) and not _is_what_it_seems(url)):
        raise ValueError("that is no URL of a PostgreSQL database")
    return make_conninfo(url, **{name: value for name, value in DEFAULTS.items() if name not in given})


def _is_what_it_seems(url: str) -> bool:
    rest = url.partition("://")[2]
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    user_and_password, _, hosts = authority.rpartition("@")
    path = rest.removeprefix(authority).partition("?")[0]
    return (
        not any(character in url for character in "#\0")
        and "@" not in user_and_password
        and "@" not in path
        and all(map(_HOST_AND_PORT.fullmatch, hosts.split(",")))
    )


def server_name(info: str) -> str:
    """The database's name for the log, without user and password."""
    given = conninfo_to_dict(info)
    host = given.get("host") or given.get("hostaddr") or "localhost"
    port = f":{given['port']}" if given.get("port") else ""
    return f"postgresql://{host}{port}/{given.get('dbname') or ''}"


def _hidden(info: str) -> list[str]:
    """Secrets of the URL and of ``PGPASSWORD``, to be removed from error texts of libpq and of the server."""
    secret = {option.keyword.decode(): option.val for option in psycopg.pq.Conninfo.get_defaults() if option.dispchar}
    return [
        *(value.decode("utf-8", "surrogateescape") for value in secret.values() if value),
        *(
            str(value)
            for name, value in conninfo_to_dict(info).items()
            if name in secret or not (name in _NAMES or _ORDINARY.fullmatch(str(value)))
        ),
    ]


class _Connection(psycopg.Connection[Any]):
    """Waits for the server no longer than :data:`STATEMENT_SECONDS`."""

    limited = True

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if not self.limited:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, STATEMENT_SECONDS)
        except psycopg.OperationalError:
            if self.info.transaction_status is not psycopg.pq.TransactionStatus.ACTIVE:
                raise
            # The statement is still under way. Its answer must not be taken for that of the next one.
            self.close()
            raise psycopg.OperationalError(f"no answer within {STATEMENT_SECONDS:g} s") from None


class PostgresConnection:
    """A connection for one thread at a time. Errors are raised as :class:`Interrupted`, :class:`StorageFull` or
    :class:`Failure`, or as ``ValueError`` for text that can not be stored.
    """

    def __init__(self, info: str, prepare: Callable[[PostgresConnection], None], look_at: str) -> None:
        """``prepare`` is called after each connect, before any other statement."""
        self._info = info
        self._hidden = _hidden(info)
        self._prepare = prepare
        self._look_at = look_at
        self._connection: _Connection | None = None
        self._not_before = 0.0
        self._pause = _FIRST_PAUSE
        self._reason = ""
        self.needs_somebody = False
        """Whether the last connect failed because of a mistake in the settings, like a wrong password.

        libpq gives the reason only as text. If that is not in English, the mistake is not recognised. Then the service
        starts, devices read 451, and the log has the reason.
        """
        self.since = 0.0
        """When it connected, by the monotonic clock."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and can be rolled back."""
        return (
            self._connection is not None
            and not self._connection.closed
            and self._connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE
        )

    @property
    def connected(self) -> bool:
        """Whether it is connected, as far as known."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect if necessary. Never reconnects in the middle of a transaction."""
        if self._connection is not None and not self.in_transaction and not _alive(self._connection):
            self.close()
        if self._connection is not None:
            return
        now = time.monotonic()
        if now < self._not_before:
            raise Interrupted(self._reason, look_at=self._look_at)
        try:
            self._connection = _Connection.connect(self._info, autocommit=True)
            self.since = time.monotonic()
            self._prepare(self)
        except BaseException as error:
            self.close()
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            # The original text: in `_reason` the password is hidden, and it may be a word like "password".
            self.needs_somebody = _MISTAKE.search(str(error)) is not None
            self._reason = f"no connection to PostgreSQL: {self._said(error)}"
            if isinstance(error, psycopg.Error):
                raise Interrupted(self._reason, look_at=self._look_at) from None
            raise
        self._pause = _FIRST_PAUSE

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """Without the time limit, for statements that may take long, like the creation of an index."""
        connection = self._connection
        assert connection is not None  # noqa: S101 (for the type checker)
        connection.limited = False
        try:
            yield
        finally:
            connection.limited = True

    def execute(self, statement: str, parameters: Sequence[Any] = (), *, binary: bool = False) -> psycopg.Cursor[Any]:
        """Execute one statement. It is a transaction of its own, unless a transaction has begun. ``binary``: the
        results come in PostgreSQL's binary format.
        """
        return self._do(lambda cursor: cursor.execute(_translated(statement), parameters, binary=binary))

    def executemany(self, statement: str, rows_: Iterable[Sequence[Any]]) -> psycopg.Cursor[Any]:
        """Execute the same statement for each row of parameters."""

        def work(cursor: psycopg.Cursor[Any]) -> psycopg.Cursor[Any]:
            cursor.executemany(_translated(statement), rows_)
            return cursor

        return self._do(work)

    def _do(self, work: Callable[[psycopg.Cursor[Any]], psycopg.Cursor[Any]]) -> psycopg.Cursor[Any]:
        self.connect()
        assert self._connection is not None  # noqa: S101 (for the type checker)
        try:
            return work(self._connection.cursor())
        except psycopg.Error as error:
            raise self._failure(error) from None

    def _failure(self, error: psycopg.Error) -> Exception:
        if self._connection is not None and self._connection.closed:
            self.close()
            return Interrupted(f"the connection to PostgreSQL broke: {self._said(error)}", look_at=self._look_at)
        if error.sqlstate == _READ_ONLY:
            self.close()
        kind = StorageFull if error.sqlstate == _DISK_FULL else Failure
        return kind(f"PostgreSQL: {self._said(error)}", look_at=self._look_at)

    def _said(self, error: BaseException) -> str:
        """The error text in one line, without secrets."""
        return " ".join(without_secrets(str(error), self._hidden).split())[:_LINE] or type(error).__name__

    def close(self) -> None:
        """Disconnect, if it is connected."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _alive(connection: psycopg.Connection[Any]) -> bool:
    """Whether the connection is still open. A server that was restarted has closed it."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        try:
            connection.pgconn.consume_input()
        except psycopg.Error:
            return False
    return not connection.closed


# Other processes at the same database.

CHANNEL = "legacy_email_proxy"
_PAUSE_SECONDS = 5.0
"""Between two attempts to listen."""


class InstanceId:
    """``name`` is the id of this process for its leases. ``previous`` is the id of the process that used the same
    ``STATE_DIR`` before, or ``None`` if it is not certain that this process has ended.

    The id is new at each start, so two proxies never have the same one, also if ``STATE_DIR`` was copied. The last id
    is kept in ``STATE_DIR``. What that process had leased is due at once, without waiting for the end of the leases.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = SpoolLock(path)
        self.host = socket.gethostname() or "localhost"
        self.name = f"{self.host}/{secrets.token_hex(16)}"
        self.previous: str | None = None
        self.withdrawn = Journal(path.with_suffix(".withdrawn"))
        """Messages to be removed, because devices were told that they were not stored (as negative numbers)."""
        self.left_withdrawn: Sequence[int] = ()
        """Those of the last process that it could not remove."""

    def take(self) -> None:
        """Read the previous id and write ours. If the folder can not be written, there is no previous id."""
        with suppress(OSError, Locked):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.take()
            with suppress(FileNotFoundError):
                previous = self._path.read_text(errors="replace")
                # An id of another host: the folder was copied from there, and that process may be running.
                if previous.rpartition("/")[0] == self.host:
                    self.previous = previous
            self._path.write_text(self.name)
            self.left_withdrawn = self.withdrawn.open()

    def release(self) -> None:
        """Release the lock, so that the next process knows that this one has ended."""
        self.withdrawn.close()
        self._lock.release()


def end_other_connections(connection: PostgresConnection, name: str) -> None:
    """End the server process of an earlier connection with this instance id, and wait until it has ended.

    Such a process may still be committing a message that this proxy has given up and wants to remove. After this, the
    message is either visible or never will be. Each connection holds an advisory lock until its server process ends.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND (classid::bigint << 32) | objid::bigint = ? AND granted AND pid <> pg_backend_pid()",
        (key,),
    )
    connection.execute("SELECT pg_advisory_lock(?)", (key,))


async def listen(info: str, notified: Callable[[str], None]) -> None:
    """Call ``notified`` with each notification of other proxies and of the ``spool`` command, and with an empty text
    after each connect. Without notifications the same things happen, only later. Never returns.
    """
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(info, autocommit=True) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                notified("")
                async for notification in connection.notifies():
                    notified(notification.payload)
        except (psycopg.Error, OSError):
            # The writer has the same trouble and logs it.
            pass
        await asyncio.sleep(_PAUSE_SECONDS)


def listeners(connection: PostgresConnection) -> list[str]:
    """The addresses of the services that have the database open: each listens to the others."""
    found = connection.execute(
        "SELECT DISTINCT coalesce(host(client_addr), 'this machine') FROM pg_stat_activity"
        " WHERE datname = current_database() AND query = ? ORDER BY 1",
        (f"LISTEN {CHANNEL}",),
    )
    return [address for (address,) in found.fetchall()]
