"""The SQL statements of both stores: how a message becomes rows, and rows become a message."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from legacy_email_proxy.contracts import Client, Parameters

from .group_commit import Connection
from .message import Fate, Recipient, SpooledMessage, State, Submission, Verdict
from .store import Damaged, Unreadable

__all__ = (
    "APPLY",
    "BATCH",
    "COLUMNS",
    "LISTED",
    "Row",
    "Usage",
    "abandon_notice",
    "apply",
    "delete",
    "existing",
    "fetch",
    "fetch_all",
    "lost_notices",
    "message_of",
    "originals",
    "settle",
    "settle_notice",
    "spooled",
    "total_usage",
    "update_recipients",
    "usage",
)

COLUMNS = (
    "message.number, account, state, received, since, due, tries, unfinished, warned, notice, reason, client,"
    " reverse_path, parameters, message.octets, body"
)


def _places(count: int) -> str:
    """The columns of a row that is given as a JSON array."""
    return ", ".join(f"json_extract(value, '$[{place}]')" for place in range(count))


_RECEIVED = "json_extract(value, '$[9]')"
"""A new message is also due then, and its delivery begins."""

# One statement that stores and removes many messages. Each parameter is a JSON array of rows. Only the contents are
# different: they are joined to one blob, and each row has the position and length of its content in it.
BATCH = f"""
CREATE TEMP VIEW batch AS SELECT '' AS messages, '' AS recipients, '' AS contents, x'' AS octets, '' AS removed;
CREATE TEMP TRIGGER apply INSTEAD OF INSERT ON batch BEGIN
    INSERT INTO message
        (number, account, state, notice, client, reverse_path, parameters, octets, body, received, since, due)
        SELECT {_places(10)}, {_RECEIVED}, {_RECEIVED} FROM json_each(NEW.messages);
    INSERT INTO recipient (message, number, forward_path, parameters)
        SELECT {_places(4)} FROM json_each(NEW.recipients);
    INSERT INTO content (message, octets)
        SELECT json_extract(value, '$[0]'),
            coalesce(substr(NEW.octets, json_extract(value, '$[1]'), json_extract(value, '$[2]')), x'')
        FROM json_each(NEW.contents);
    DELETE FROM message WHERE number IN (SELECT value FROM json_each(NEW.removed));
    DELETE FROM recipient WHERE message IN (SELECT value FROM json_each(NEW.removed));
    DELETE FROM content WHERE message IN (SELECT value FROM json_each(NEW.removed));
END;
"""  # noqa: S608
APPLY = "INSERT INTO batch VALUES (?, ?, ?, ?, ?)"

LISTED = "IN (SELECT value FROM json_each(?))"

_SELECT_RECORDS = f"SELECT {COLUMNS}, NULL FROM message WHERE number {LISTED}"  # noqa: S608
_SELECT_MESSAGES = (
    f"SELECT {COLUMNS}, inline.octets FROM message LEFT JOIN content AS inline"  # noqa: S608
    f" ON inline.message = message.number WHERE number {LISTED}"
)
_SELECT_RECIPIENTS = (
    "SELECT message, number, forward_path, parameters, fate, verdict FROM recipient"  # noqa: S608
    f" WHERE message {LISTED} ORDER BY message, number"
)


_USAGE = (
    "SELECT count(*), CAST(coalesce(sum(octets), 0) AS bigint) FROM message WHERE state NOT IN ('dead', 'set aside')"
)


@dataclass(frozen=True, slots=True)
class Usage:
    """How many messages are stored, and their octets. Those that are dead or set aside are not counted."""

    messages: int = 0
    octets: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.messages + other.messages, self.octets + other.octets)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.messages - other.messages, self.octets - other.octets)


@dataclass(frozen=True, slots=True)
class Row:
    """A new message, due at once. It has a ``content``, or the name of a ``body``."""

    number: int
    submission: Submission
    octets: int
    content: bytes | None
    body: str | None
    notice: bool = False


def apply(connection: Connection, added: Sequence[Row], removed: Sequence[int]) -> None:
    """Store messages, and remove others with their recipients and contents, in one statement.

    Raises ``ValueError`` for text that can not be encoded as UTF-8.
    """
    messages, recipients, contents = [], [], []
    start = 0
    for row in added:
        given = row.submission
        messages.append([
            row.number, given.account, State.QUEUED.value, int(row.notice), _client_text(given.client),
            _utf8(given.reverse_path), _parameters_text(given.parameters), row.octets, row.body, given.received,
        ])  # fmt: skip
        recipients += [
            [row.number, place, _utf8(path), _parameters_text(its)]
            for place, (path, its) in enumerate(given.recipients)
        ]
        if row.content is not None:
            contents.append([row.number, start + 1, len(row.content)])
            start += len(row.content)
    octets = b"".join([row.content for row in added if row.content is not None])
    given_rows = (json.dumps(messages), json.dumps(recipients), json.dumps(contents), octets, json.dumps(removed))
    connection.execute(APPLY, given_rows)


def spooled(row: Row) -> SpooledMessage:
    """The message that :func:`fetch` would return for a new row."""
    given = row.submission
    return SpooledMessage(
        number=row.number, account=given.account, state=State.QUEUED,
        received=given.received, since=given.received, due=given.received,
        tries=0, unfinished=0, warned=False, notice=row.notice, reason="", client=given.client,
        reverse_path=given.reverse_path, parameters=given.parameters, octets=row.octets, body=row.body,
        recipients=[Recipient(place, path, its) for place, (path, its) in enumerate(given.recipients)],
        content=row.content,
    )  # fmt: skip


def usage(connection: Connection, numbers: Iterable[int]) -> Usage:
    """Usage of these messages."""
    listed = json.dumps(list(numbers))
    return Usage(*connection.execute(f"{_USAGE} AND number {LISTED}", (listed,)).fetchone())


def total_usage(connection: Connection) -> Usage:
    """Usage of all messages."""
    return Usage(*connection.execute(_USAGE).fetchone())


def existing(connection: Connection, numbers: Iterable[int]) -> set[int]:
    """Those numbers that are stored messages."""
    listed = json.dumps(list(numbers))
    found = connection.execute(f"SELECT number FROM message WHERE number {LISTED}", (listed,))  # noqa: S608
    return {number for (number,) in found}


def originals(connection: Connection, number: int) -> list[int]:
    """The messages that this notification is about; none if it is no notification."""
    about = connection.execute("SELECT DISTINCT message FROM recipient WHERE notice = ?", (number,)).fetchall()
    return [original for (original,) in about]


def lost_notices(connection: Connection, account: str) -> list[int]:
    """The numbers of notifications that were removed without being delivered."""
    found = connection.execute(
        "SELECT DISTINCT recipient.notice FROM recipient JOIN message ON message.number = recipient.message"
        " WHERE recipient.notice IS NOT NULL AND message.account = ?"
        " AND NOT EXISTS (SELECT 1 FROM message AS other WHERE other.number = recipient.notice)",
        (account,),
    )
    return [notice for (notice,) in found]


def delete(connection: Connection, number: int) -> tuple[int, str | None] | None:
    """Remove a message. Returns its octets and its body's name, or ``None`` when there is no such message."""
    row: tuple[int, str | None] | None = connection.execute(
        "SELECT octets, body FROM message WHERE number = ?", (number,)
    ).fetchone()
    apply(connection, (), [number])
    return row


def update_recipients(connection: Connection, message: int, changed: Iterable[Recipient]) -> None:
    """Store fates and verdicts."""
    connection.executemany(
        "UPDATE recipient SET fate = ?, verdict = ? WHERE message = ? AND number = ?",
        [(each.fate.value, _verdict_text(each.verdict), message, each.number) for each in changed],
    )


def settle(connection: Connection, number: int, now: float) -> tuple[int, str | None] | None:
    """Remove a message if it is finished, and return what :func:`delete` does.

    It is finished when no recipient waits and no notification is missing. If the failure of a recipient could not be
    notified, the message becomes dead and stays.
    """
    fates = {fate for (fate,) in connection.execute("SELECT fate FROM recipient WHERE message = ?", (number,))}
    if Fate.WAITING.value in fates or Fate.FAILED.value in fates:
        return None
    if Fate.DEAD.value in fates:
        connection.execute("UPDATE message SET state = 'dead', due = ?, unfinished = 0 WHERE number = ?", (now, number))
        return None
    return delete(connection, number)


def settle_notice(connection: Connection, number: int, now: float) -> list[tuple[int, str | None]]:
    """If this is a notification: the recipients that it is about become notified or, if nobody got it, dead."""
    fates = {fate for (fate,) in connection.execute("SELECT fate FROM recipient WHERE message = ?", (number,))}
    if Fate.DELIVERED.value in fates:
        return _settle_about(connection, number, Fate.NOTIFIED, now)
    return [] if Fate.WAITING.value in fates else abandon_notice(connection, number, now)


def abandon_notice(connection: Connection, number: int, now: float) -> list[tuple[int, str | None]]:
    """If this is a notification that nobody will get: the recipients that it is about become dead."""
    return _settle_about(connection, number, Fate.DEAD, now)


def _settle_about(connection: Connection, number: int, fate: Fate, now: float) -> list[tuple[int, str | None]]:
    about = originals(connection, number)
    connection.execute(
        "UPDATE recipient SET fate = ?, notice = NULL WHERE notice = ? AND fate = 'failed'", (fate.value, number)
    )
    return [gone for original in about if (gone := settle(connection, original, now))]


def fetch(connection: Connection, number: int, *, with_content: bool = False) -> SpooledMessage | None:
    """Read one message. Raises :class:`Unreadable`."""
    found = _fetched(connection, [number], with_content=with_content).get(number)
    if isinstance(found, Unreadable):
        raise found
    return found


def fetch_all(
    connection: Connection, numbers: Sequence[int], *, with_content: bool = True
) -> dict[int, SpooledMessage | Unreadable]:
    """Read messages, with their small contents if asked. The value for one that can not be read is the error."""
    found = _fetched(connection, numbers, with_content=with_content)
    if len(found) < len(numbers):
        # Invalid text or a broken page makes the whole query fail. So the messages are read one by one.
        for number in numbers:
            found |= _fetched(connection, [number], with_content=with_content)
    return found


def _fetched(
    connection: Connection, numbers: Sequence[int], *, with_content: bool
) -> dict[int, SpooledMessage | Unreadable]:
    listed = json.dumps(numbers)
    try:
        rows = connection.execute(_SELECT_MESSAGES if with_content else _SELECT_RECORDS, (listed,)).fetchall()
        recipients = connection.execute(_SELECT_RECIPIENTS, (listed,)).fetchall()
    except sqlite3.DatabaseError as error:
        # Invalid text gives an error without a code.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        if len(numbers) > 1:
            return {}
        if hasattr(error, "sqlite_errorcode"):
            return {numbers[0]: Damaged(numbers[0], f"it lies in a broken part of the file: {error}")}
        return {numbers[0]: Unreadable(f"its record makes no sense: {error}")}
    theirs: dict[int, list[tuple[Any, ...]]] = {}
    for message, *recipient in recipients:
        theirs.setdefault(message, []).append(tuple(recipient))
    found: dict[int, SpooledMessage | Unreadable] = {}
    for *row, octets in rows:
        try:
            message = message_of(tuple(row), theirs.get(row[0], ()))
            if with_content and message.body is None:
                message.content = _whole(octets, message.octets)
            found[row[0]] = message
        except Unreadable as error:
            found[row[0]] = error
    return found


def _whole(found: Any, octets: int) -> bytes:
    if not isinstance(found, bytes):
        raise Unreadable("its content is missing")
    if len(found) != octets:
        raise Unreadable(f"its content has {len(found)} octets instead of {octets}")
    return found


def message_of(row: tuple[Any, ...], recipients: Iterable[tuple[Any, ...]]) -> SpooledMessage:
    """Make a message from a row of :data:`COLUMNS` and the rows of its recipients. Raises :class:`Unreadable`."""
    try:
        number, account, state, received, since, due, tries, unfinished, warned, notice, reason, *rest = row
        client, reverse_path, parameters, octets, body = rest
        message = SpooledMessage(
            number=int(number),
            account=_text(account),
            state=State(state),
            received=float(received),
            since=float(since),
            due=float(due),
            tries=int(tries),
            unfinished=int(unfinished),
            warned=bool(warned),
            notice=bool(notice),
            reason=_text(reason),
            client=_client(json.loads(client)),
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


def _utf8(text: str) -> str:
    # JSON would bring an unpaired surrogate into the database, and the row could never be read again.
    text.encode("utf-8")
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text should be")
    return _utf8(value)


@lru_cache(maxsize=256)
def _client_text(client: Client) -> str:
    """Devices send many messages in a session."""
    return json.dumps([client.address, client.session, client.helo, client.login, client.port])


def _client(value: Any) -> Client:
    if not isinstance(value, list) or len(value) != 5:
        raise TypeError("no client")
    *texts, port = value
    address, session, helo, login = map(_text, texts)
    return Client(address, session, helo, login, int(port))


def _parameters_text(parameters: Parameters) -> str:
    return json.dumps(dict(parameters)) if parameters else "{}"


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
