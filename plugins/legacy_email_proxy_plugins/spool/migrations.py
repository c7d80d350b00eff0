"""The spool's tables in PostgreSQL, in a schema of their own. The first proxy that connects creates or updates them."""

from __future__ import annotations

from .postgres_connection import PostgresConnection
from .store import TooNewError

__all__ = ("MIGRATIONS", "SCHEMA", "migrate")

SCHEMA = "legacy_email_proxy"

_LOCK = 0x6C65_7073  # an advisory lock of the database; the number is arbitrary

# Rows are inserted and deleted all the time. `fillfactor` leaves space in each page, so that a lease can be updated in
# the same page. Vacuum runs after a fixed number of dead rows, because a fraction of a large table would be too many.
_BUSY = "autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0"

_FIRST = f"""
CREATE TABLE message (
    number bigint PRIMARY KEY,
    account text NOT NULL,
    state text NOT NULL,
    received double precision NOT NULL,
    since double precision NOT NULL,
    due double precision NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    unfinished integer NOT NULL DEFAULT 0,
    warned integer NOT NULL DEFAULT 0,
    notice integer NOT NULL DEFAULT 0,
    reason text NOT NULL DEFAULT '',
    client text NOT NULL,
    reverse_path text NOT NULL,
    parameters text NOT NULL,
    octets bigint NOT NULL,
    body text,
    body_is_whole boolean NOT NULL CONSTRAINT body_is_whole CHECK (body_is_whole),
    owner text,
    leased_until timestamptz
) WITH (fillfactor = 70, {_BUSY});
CREATE INDEX message_due ON message (account, due, number) WHERE state = 'queued';
CREATE INDEX message_body ON message (body) WHERE body IS NOT NULL;
CREATE SEQUENCE message_number;
CREATE TABLE recipient (
    message bigint NOT NULL,
    number integer NOT NULL,
    forward_path text NOT NULL,
    parameters text NOT NULL,
    fate text NOT NULL DEFAULT 'waiting',
    verdict text,
    notice bigint,
    PRIMARY KEY (message, number)
) WITH (fillfactor = 90, {_BUSY});
CREATE INDEX recipient_notice ON recipient (notice) WHERE notice IS NOT NULL;
CREATE TABLE content (message bigint PRIMARY KEY, octets bytea NOT NULL) WITH ({_BUSY});
CREATE TABLE piece (
    body text NOT NULL,
    number integer NOT NULL,
    octets bytea NOT NULL,
    owner text NOT NULL,
    written timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (body, number)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 200);
CREATE INDEX piece_written ON piece (written) WHERE number = 0;
ALTER TABLE content ALTER COLUMN octets SET STORAGE EXTERNAL;
ALTER TABLE piece ALTER COLUMN octets SET STORAGE EXTERNAL;
"""

_SHARED_STATE = f"""
CREATE TABLE state (
    kind text NOT NULL,
    key text NOT NULL,
    value bytea,
    holder text,
    held_until timestamptz,
    changed timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, key)
) WITH (fillfactor = 70, {_BUSY});
"""

MIGRATIONS = (_FIRST, _SHARED_STATE)
"""The first script creates version 1, the next one makes version 2 of it, and so on. Released ones never change."""


def migrate(connection: PostgresConnection) -> None:
    """Create or update the tables. Of several proxies one does it and the others wait.

    Raises :class:`TooNewError` for tables of a later version of this program, and what ``postgres_connection`` raises.
    """
    if _version(connection) == len(MIGRATIONS):
        return
    with connection.unlimited():
        # Before the transaction: inside, the server might not see tables that were created while this waited.
        connection.execute("SELECT pg_advisory_lock(?)", (_LOCK,))
        try:
            _bring_up_to_date(connection)
        except BaseException:
            connection.close()
            raise
        connection.execute("SELECT pg_advisory_unlock(?)", (_LOCK,))


def _bring_up_to_date(connection: PostgresConnection) -> None:
    connection.execute("BEGIN")
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise TooNewError(f"it has version {version}, and this program knows {len(MIGRATIONS)}")
    if not connection.execute("SELECT to_regnamespace(?)::text", (SCHEMA,)).fetchone()[0]:  # type: ignore[index]
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
    if version == 0:
        connection.execute("CREATE TABLE version (number integer NOT NULL)")
        connection.execute("INSERT INTO version VALUES (0)")
    for script in MIGRATIONS[version:]:
        connection.execute(script)
    connection.execute("UPDATE version SET number = ?", (len(MIGRATIONS),))
    connection.execute("COMMIT")


def _version(connection: PostgresConnection) -> int:
    if not connection.execute("SELECT to_regclass(?)::text", (f"{SCHEMA}.version",)).fetchone()[0]:  # type: ignore[index]
        return 0
    return int(connection.execute(f"SELECT number FROM {SCHEMA}.version").fetchone()[0])  # type: ignore[index] # noqa: S608
