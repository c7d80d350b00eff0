"""Finds the messages that an operator asks for, in parts: while one is looked through, nobody else can write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from legacy_email_proxy.contracts import QueueFilter

from . import sql_records
from .group_commit import Connection
from .message import SpooledMessage
from .store import Damaged, Unreadable

__all__ = ("read", "search")

_SEARCHED = 2000
"""So many messages are looked through in one transaction."""


def search(connection: Connection, wanted: QueueFilter, after: int) -> tuple[Sequence[int], int | None]:
    """See :meth:`.store.Store.search`."""
    condition, parameters = _condition(wanted)
    rows = connection.execute(
        f"SELECT number, {condition} FROM message WHERE number > ? ORDER BY number LIMIT {_SEARCHED}",  # noqa: S608
        (*parameters, after),
    ).fetchall()
    return [number for number, meant in rows if meant], rows[-1][0] if len(rows) == _SEARCHED else None


def _condition(wanted: QueueFilter) -> tuple[str, Sequence[Any]]:
    """The SQL condition of a filter, and its parameters."""
    conditions: list[str] = ["1 = 1"]
    parameters: list[Any] = []
    if wanted.states:
        conditions.append(f"state IN ({', '.join('?' * len(wanted.states))})")
        parameters += wanted.states
    if wanted.account is not None:
        conditions.append("account = ?")
        parameters.append(wanted.account)
    if wanted.address:
        escaped = re.sub("([!%_])", r"!\1", wanted.address.lower())
        conditions.append(
            "(lower(reverse_path) LIKE ? ESCAPE '!' OR EXISTS (SELECT 1 FROM recipient"
            " WHERE recipient.message = message.number AND lower(forward_path) LIKE ? ESCAPE '!'))"
        )
        parameters += [f"%{escaped}%"] * 2
    return " AND ".join(conditions), parameters


def read(connection: Connection, numbers: Sequence[int]) -> dict[int, SpooledMessage | Unreadable]:
    """Read messages without their contents. Raises :class:`Damaged`; then each has to be read alone."""
    found = sql_records.fetch_all(connection, numbers, with_content=False)
    for each in found.values():
        if isinstance(each, Damaged):
            raise each
    return found
