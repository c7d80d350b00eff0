"""What of a folder POP3 shows: all of it, unless a setting, or what became of a message before, says otherwise.

What is not shown is not counted either. Nothing is asked of the server beyond the listing unless the settings need it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from .connection import Connection
from .deletion import KEYWORD, attributes, can_tag, stays
from .folder_state import Memory, Remembered
from .listing import Index
from .settings import Options
from .unique_ids import DOVECOT

__all__ = ("shown",)

_KEYWORD = KEYWORD.lower().encode()


def shown(
    connection: Connection,
    index: Index,
    options: Options,
    memory: Memory,
    logger: logging.Logger,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Index:
    """The part of ``index``, the listing of the selected folder, that a session is to see; in the worker thread."""
    hidden = _remembered(connection, index, options, memory) | _by_attributes(connection, index, options, logger, clock)
    limit = options.newest_messages
    if not hidden and limit is None and options.unique_ids is DOVECOT:
        return index
    uids = [uid for uid in index.uids if uid not in hidden]
    if limit is not None:
        uids = uids[-limit:]
    return index.only(uids, options.unique_ids)


def _remembered(connection: Connection, index: Index, options: Options, memory: Memory) -> set[int]:
    staying = stays(options.deletion, connection)
    if not staying and options.hide_after is None:
        return set()
    remembered = memory.recall(index.uidvalidity)
    present = set(index.uids)
    if remembered.keep_failures(present):

        def prune(latest: Remembered) -> None:
            latest.keep_failures(present)

        memory.change(index.uidvalidity, prune)
    hidden = remembered.hidden if staying else set()
    if options.hide_after is not None:
        hidden |= {uid for uid, count in remembered.failures.items() if count >= options.hide_after}
    return hidden


def _by_attributes(
    connection: Connection, index: Index, options: Options, logger: logging.Logger, clock: Callable[[], datetime]
) -> set[int]:
    items = []
    if stays(options.deletion, connection) and can_tag(connection):
        items.append("FLAGS")
    since = None
    if options.newest_days is not None:
        since = clock() - timedelta(days=options.newest_days)
        items.append("INTERNALDATE")
    if not items:
        return set()

    def note(fault: str) -> None:
        logger.warning(
            "messages are not shown, because flags or dates can not be read", extra={"facts": {"cause": fault}}
        )

    return {
        uid
        for uid, found in attributes(connection, index.uids, *items, note=note)
        if found is None
        or _KEYWORD in found.flags
        or (since is not None and found.arrived is not None and found.arrived < since)
    }
