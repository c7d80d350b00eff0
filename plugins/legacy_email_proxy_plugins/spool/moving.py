"""Moves all messages from one store to another, of the same kind or of the other: from a file to PostgreSQL and back.

Nothing is delivered from both. The messages come into the new store under names of accounts that nobody has, so that
no service tries them there. One transaction gives all of them their real names; only then the old store loses them. A
move that was interrupted before that has changed nothing, and is simply begun again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from functools import partial

from legacy_email_proxy.contracts import Failure

from . import sql_records
from .group_commit import Connection
from .message import SpooledMessage, Submission
from .sql_store import RelationalStore
from .store import Copied, Unreadable

__all__ = ("move",)

_COMING = "(being moved) "
"""Stands before the name of the account. It is no name of an account."""
_BATCH = 500


async def move(source: RelationalStore, target: RelationalStore) -> Copied:
    """Both are open, and nobody else has the source. Messages that can not be read stay where they are: ``missing``.

    Raises :class:`Failure`. If that is not while the source is emptied, the target is as empty as before for whoever
    delivers from it.
    """
    await source.run(source.check_unused)
    await target.run(_forget_interrupted)
    if there := await target.run(_numbers):
        raise Failure(f"there are {len(there)} messages where they are to go; have them delivered or drop them first")
    moved: list[int] = []
    missing: list[int] = []
    bodies: list[str] = []
    for number in await source.run(_numbers):
        try:
            message = await source.get(number)
            if message is None:
                continue
            await _copy(source, target, message)
        except Unreadable:
            missing.append(number)
        else:
            moved.append(number)
            bodies += [] if message.body is None else [message.body]
    await source.run(source.check_unused)
    last = await source.run(source.last_number)
    await target.run(partial(_arrive, target, last))
    for start in range(0, len(moved), _BATCH):
        await source.run(partial(_remove, numbers=moved[start : start + _BATCH]))
    await source.remove_bodies(bodies)
    return Copied(len(moved), missing)


async def _copy(source: RelationalStore, target: RelationalStore, message: SpooledMessage) -> None:
    notices = await source.run(partial(_notices, number=message.number))
    arriving = target.arriving(partial(_put, target, message, notices))
    try:
        async with aclosing(source.content(message)) as pieces:
            async for piece in pieces:
                await arriving.write(piece)
        await arriving.commit(
            Submission(
                f"{_COMING}{message.account}", message.client, message.reverse_path, message.parameters,
                [(each.forward_path, each.parameters) for each in message.recipients], message.received,
            )
        )  # fmt: skip
    except BaseException:
        await arriving.discard()
        raise


async def _put(
    target: RelationalStore,
    message: SpooledMessage,
    notices: Mapping[int, int],
    submission: Submission,
    content: bytes | None,
    body: str | None,
    octets: int,
) -> SpooledMessage:
    """Write its record as it was, under its old number."""
    row = sql_records.Row(message.number, submission, octets, content, body, notice=message.notice)

    def work(connection: Connection) -> None:
        sql_records.apply(connection, [row], ())
        connection.execute(
            "UPDATE message SET state = ?, since = ?, due = ?, tries = ?, unfinished = ?, warned = ?, reason = ?"
            " WHERE number = ?",
            (
                message.state.value, message.since, message.due, message.tries, message.unfinished,
                int(message.warned), message.reason, message.number,
            ),
        )  # fmt: skip
        sql_records.update_recipients(connection, message.number, message.recipients)
        connection.executemany(
            "UPDATE recipient SET notice = ? WHERE message = ? AND number = ?",
            [(notice, message.number, place) for place, notice in notices.items()],
        )

    await target.run(work)
    return message


def _numbers(connection: Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM message ORDER BY number").fetchall()]


def _notices(connection: Connection, number: int) -> dict[int, int]:
    """Position of a recipient → the notification of its failure that is on its way."""
    found = connection.execute(
        "SELECT number, notice FROM recipient WHERE message = ? AND notice IS NOT NULL", (number,)
    )
    return {place: int(notice) for place, notice in found.fetchall()}


def _forget_interrupted(connection: Connection) -> None:
    found = connection.execute(
        "SELECT number FROM message WHERE substr(account, 1, ?) = ?", (len(_COMING), _COMING)
    ).fetchall()
    _remove(connection, [number for (number,) in found])


def _remove(connection: Connection, numbers: list[int]) -> None:
    sql_records.apply(connection, (), numbers)


def _arrive(target: RelationalStore, last: int, connection: Connection) -> None:
    connection.execute(
        "UPDATE message SET account = substr(account, ?) WHERE substr(account, 1, ?) = ?",
        (len(_COMING) + 1, len(_COMING), _COMING),
    )
    target.continue_from(connection, last)
