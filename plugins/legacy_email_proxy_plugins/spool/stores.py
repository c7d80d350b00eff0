"""Which store ``SPOOL_URL`` names. The driver of PostgreSQL is only looked for where it is needed."""

from __future__ import annotations

from pathlib import Path

from legacy_email_proxy.contracts import Context, SettingsMistake

from .relational import LOOK_AT
from .sqlite import SQLiteStore
from .store import Store

__all__ = ("store_of",)

_SQLITE = "sqlite:///"
_POSTGRESQL = ("postgresql://", "postgres://")


def store_of(context: Context) -> Store:
    """The store, not open yet. Raises :class:`SettingsMistake`."""
    secret = context.settings[LOOK_AT]
    folder: Path = context.settings["STATE_DIR"]
    if secret is None:
        return SQLiteStore(folder / "spool.db", context.logger)
    url: str = secret.reveal()
    if url.startswith(_POSTGRESQL):
        try:
            from .postgres import PostgresStore
        except ImportError as error:
            raise SettingsMistake(
                f"{LOOK_AT}: PostgreSQL needs a driver; pip install 'legacy-email-proxy[postgres]' ({error})"
            ) from None
        try:
            return PostgresStore(url, folder, context.logger)
        except ValueError as error:
            raise SettingsMistake(f"{LOOK_AT}: {error}; write postgresql://user:password@host/database") from None
    path = url.removeprefix(_SQLITE).lstrip("/")
    if not url.startswith(_SQLITE) or not path:
        raise SettingsMistake(
            f"{LOOK_AT}: write {_SQLITE} and the path of a file, like {_SQLITE}srv/mail/spool.db,"
            " or postgresql://user:password@host/database"
        )
    # Never relative to wherever the service was started from: it would lose sight of its mail.
    return SQLiteStore(Path("/") / path, context.logger)
