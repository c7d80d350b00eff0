"""The table ``state`` in the schema of the spool, and one connection for it that is made when it is needed.

The spool's own connections are not used: a login must not wait until a message of 50 MB is stored.
"""

from __future__ import annotations

from collections.abc import Callable

from legacy_email_proxy.contracts import Failure

from ..spool.migrations import SCHEMA, migrate
from ..spool.postgres_connection import PostgresConnection, conninfo
from ..spool.store import TooNewError

__all__ = ("StateTable",)

_TAKE = """
INSERT INTO state (kind, key, holder, held_until) VALUES (?, ?, ?, clock_timestamp() + ?::float8 * interval '1 second')
ON CONFLICT (kind, key) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE state.holder IS NULL OR state.holder = excluded.holder OR state.held_until < clock_timestamp()
"""
# The row is locked from here to the end of the transaction, whether it was there before or not.
_OPEN = """
INSERT INTO state (kind, key) VALUES (?, ?) ON CONFLICT (kind, key) DO UPDATE SET changed = now() RETURNING value
"""


class StateTable:
    """For one thread at a time. Raises what :class:`PostgresConnection` raises."""

    def __init__(self, url: str, look_at: str) -> None:
        self._look_at = look_at
        self._connection = PostgresConnection(conninfo(url), self._prepare, look_at)

    def _prepare(self, connection: PostgresConnection) -> None:
        connection.execute(
            "SELECT set_config('search_path', ?, false), set_config('synchronous_commit', 'on', false)", (SCHEMA,)
        )
        try:
            migrate(connection)
        except TooNewError as error:
            raise Failure(str(error), look_at=self._look_at) from None
        # Whoever stops in the middle of a change must not hold up the others.
        connection.execute("SET lock_timeout = '2s'")
        connection.execute("SET idle_in_transaction_session_timeout = '10s'")

    def read(self, kind: str, key: str) -> bytes | None:
        """See :meth:`SharedState.read`."""
        row = self._connection.execute("SELECT value FROM state WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if row is None or row[0] is None else bytes(row[0])

    def change(self, kind: str, key: str, edit: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """See :meth:`SharedState.change`."""
        execute = self._connection.execute
        execute("BEGIN")
        try:
            (found,) = execute(_OPEN, (kind, key)).fetchone()  # type: ignore[misc]
            value = edit(None if found is None else bytes(found))
            execute("UPDATE state SET value = ? WHERE kind = ? AND key = ?", (value, kind, key))
            self._remove_unused(kind, key)
            execute("COMMIT")
        except BaseException:
            # The next call connects again, and the server ends the transaction.
            self._connection.close()
            raise
        return value

    def take(self, kind: str, key: str, holder: str, seconds: float) -> bool:
        """See :meth:`SharedState.take`."""
        return self._connection.execute(_TAKE, (kind, key, holder, seconds)).rowcount > 0

    def leave(self, kind: str, key: str, holder: str) -> None:
        """See :meth:`SharedState.leave`."""
        self._connection.execute(
            "UPDATE state SET holder = NULL, held_until = NULL WHERE kind = ? AND key = ? AND holder = ?",
            (kind, key, holder),
        )
        self._remove_unused(kind, key)

    def _remove_unused(self, kind: str, key: str) -> None:
        self._connection.execute(
            "DELETE FROM state WHERE kind = ? AND key = ? AND value IS NULL AND holder IS NULL", (kind, key)
        )

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()
