"""The stores that the tests run on, and how a test looks into one, and harms it, behind the spool's back."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import psycopg

SCHEMA = "legacy_email_proxy"


class TestedStore(Protocol):
    """One store, empty at first."""

    variables: Mapping[str, str]
    message_columns: tuple[str, str]
    """Further columns of a message that must have a value, and one."""

    def bodies(self, state_dir: Path) -> Sequence[Any]:
        """The large bodies that are kept, one item each."""

    def execute(self, state_dir: Path, statement: str, *rows: Sequence[Any]) -> None:
        """One statement, or the same for each of ``rows``, as SQLite writes it."""


class SQLite:
    """A file in the state folder, as it is without any setting."""

    variables: Mapping[str, str] = MappingProxyType({})
    message_columns = ("", "")

    def bodies(self, state_dir: Path) -> Sequence[Path]:
        return sorted((state_dir / "spool.db.bodies").glob("[!.]*"))

    def execute(self, state_dir: Path, statement: str, *rows: Sequence[Any]) -> None:
        with sqlite3.connect(state_dir / "spool.db") as database:
            database.executemany(statement, rows or [()])
        database.close()


class PostgreSQL:
    """A database of its own."""

    message_columns = (", body_is_whole", ", true")

    def __init__(self, url: str) -> None:
        self.url = url
        self.variables: Mapping[str, str] = {"SPOOL_URL": url}

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, options=f"-c search_path={SCHEMA}", autocommit=True)

    def bodies(self, state_dir: Path) -> Sequence[str]:
        with self.connect() as connection:
            return [name for (name,) in connection.execute("SELECT DISTINCT body FROM piece ORDER BY body")]

    def execute(self, state_dir: Path, statement: str, *rows: Sequence[Any]) -> None:
        with self.connect() as connection, connection.transaction():
            statement = re.sub(r"\bx'([0-9a-f]+)'", r"'\\x\1'", statement.replace("?", "%s"))
            connection.cursor().executemany(statement, rows or [()])
