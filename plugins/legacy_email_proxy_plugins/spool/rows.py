"""The statements: what is written for a message and its recipients, and how rows become a message again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from legacy_email_proxy.contracts import Client

from .message import Fate, Recipient, SpooledMessage, State, Submission, Verdict
from .store import Unreadable

__all__ = ("COLUMNS", "delete", "fetch", "insert", "message_of", "settle", "update_recipients")

COLUMNS = (
    "number, state, received, since, due, tries, unfinished, warned, notice, reason, client, reverse_path, parameters,"
    " octets, body"
)


def insert(
    connection: sqlite3.Connection,
    submission: Submission,
    octets: int,
    *,
    content: bytes | None = None,
    body: str | None = None,
    notice: bool = False,
) -> int:
    """A new message, due when it was received; its content in the row beside it, or in the file that ``body`` names."""
    client = submission.client
    cursor = connection.execute(
        "INSERT INTO message (state, received, since, due, notice, client, reverse_path, parameters, octets, body)"
        " VALUES ('queued', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            submission.received,
            submission.received,
            submission.received,
            notice,
            json.dumps([client.address, client.session, client.helo]),
            submission.reverse_path,
            json.dumps(dict(submission.parameters)),
            octets,
            body,
        ),
    )
    number = int(cursor.lastrowid or 0)
    connection.executemany(
        "INSERT INTO recipient (message, number, forward_path, parameters) VALUES (?, ?, ?, ?)",
        [
            (number, place, forward_path, json.dumps(dict(parameters)))
            for place, (forward_path, parameters) in enumerate(submission.recipients)
        ],
    )
    if content is not None:
        connection.execute("INSERT INTO content (message, octets) VALUES (?, ?)", (number, content))
    return number


def delete(connection: sqlite3.Connection, number: int) -> tuple[int, str | None] | None:
    """Remove a message; returns its octets and its body's name, ``None`` when there is no such message."""
    row: tuple[int, str | None] | None = connection.execute(
        "SELECT octets, body FROM message WHERE number = ?", (number,)
    ).fetchone()
    for table, column in (("message", "number"), ("recipient", "message"), ("content", "message")):
        connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (number,))  # noqa: S608
    return row


def update_recipients(connection: sqlite3.Connection, message: int, changed: Iterable[Recipient]) -> None:
    """Write down fates and verdicts."""
    connection.executemany(
        "UPDATE recipient SET fate = ?, verdict = ? WHERE message = ? AND number = ?",
        [(each.fate.value, _verdict_text(each.verdict), message, each.number) for each in changed],
    )


def settle(connection: sqlite3.Connection, number: int, now: float) -> tuple[int, str | None] | None:
    """See whether a message is done with, now that some recipients' fates have changed.

    Nobody waits and nobody has to be told any more: it is removed, and this returns what :func:`delete` does; unless
    somebody could not be told: then it is dead, and stays.
    """
    fates = {fate for (fate,) in connection.execute("SELECT fate FROM recipient WHERE message = ?", (number,))}
    if Fate.WAITING.value in fates or Fate.FAILED.value in fates:
        return None
    if Fate.DEAD.value in fates:
        connection.execute("UPDATE message SET state = 'dead', due = ?, unfinished = 0 WHERE number = ?", (now, number))
        return None
    return delete(connection, number)


def fetch(connection: sqlite3.Connection, number: int, *, with_content: bool = False) -> SpooledMessage | None:
    """One message. Raises :class:`Unreadable`."""
    row = connection.execute(f"SELECT {COLUMNS} FROM message WHERE number = ?", (number,)).fetchone()  # noqa: S608
    if row is None:
        return None
    recipients = connection.execute(
        "SELECT number, forward_path, parameters, fate, verdict FROM recipient WHERE message = ? ORDER BY number",
        (number,),
    ).fetchall()
    message = message_of(row, recipients)
    if with_content and message.body is None:
        found = connection.execute("SELECT octets FROM content WHERE message = ?", (number,)).fetchone()
        message.content = _whole(found, message.octets)
    return message


def _whole(found: tuple[Any] | None, octets: int) -> bytes:
    if found is None or not isinstance(found[0], bytes):
        raise Unreadable("its content is missing")
    if len(found[0]) != octets:
        raise Unreadable(f"its content has {len(found[0])} octets instead of {octets}")
    return found[0]


def message_of(row: tuple[Any, ...], recipients: Iterable[tuple[Any, ...]]) -> SpooledMessage:
    """From a row of :data:`COLUMNS` and those of its recipients. Raises :class:`Unreadable`."""
    try:
        number, state, received, since, due, tries, unfinished, warned, notice, reason, *rest = row
        client, reverse_path, parameters, octets, body = rest
        message = SpooledMessage(
            number=int(number),
            state=State(state),
            received=float(received),
            since=float(since),
            due=float(due),
            tries=int(tries),
            unfinished=int(unfinished),
            warned=bool(warned),
            notice=bool(notice),
            reason=_text(reason),
            client=Client(*map(_text, _three(json.loads(client)))),
            reverse_path=_text(reverse_path),
            parameters=_parameters(parameters),
            octets=int(octets),
            body=None if body is None else _text(body),
            recipients=[
                Recipient(int(place), _text(path), _parameters(given), Fate(fate), _verdict(verdict))
                for place, path, given, fate, verdict in recipients
            ],
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unreadable(f"its record makes no sense: {error}") from None
    if not message.recipients:
        raise Unreadable("it has no recipients")
    return message


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text should be")
    return value


def _three(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) != 3:
        raise TypeError("no client")
    return value


def _parameters(text: Any) -> dict[str, str | None]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError("no parameters")
    return {_text(keyword): None if given is None else _text(given) for keyword, given in value.items()}


def _verdict_text(verdict: Verdict | None) -> str | None:
    return None if verdict is None else json.dumps([verdict.code, verdict.enhanced, verdict.text, verdict.time])


def _verdict(text: Any) -> Verdict | None:
    if text is None:
        return None
    code, enhanced, said, time = json.loads(text)
    return Verdict(int(code), _text(enhanced), _text(said), float(time))
