r"""What QUIT does with the messages that were marked: ``BACKEND_IMAP_DELETE``, on servers with and without extensions.

The functions here run in the worker thread. They act on several messages of the selected folder at once, by UID.

Where a deleted message stays in the folder, later listings leave it out: the client has read ``+OK`` for its QUIT and
must not see the message again. If the folder takes keywords, the message gets the keyword ``$Pop3Deleted``, which
another proxy sees too. Otherwise its UID is kept in a file (:mod:`.folder_state`). The flag \Deleted alone is not
enough, because other clients set it for reasons of their own.

Commands name UIDs in lines of limited length, because some servers hang up on a long line. A UID that is gone already
is no error to any of these commands. Attributes are asked for with FETCH, which is answered with one line per message.
Servers differ in the SEARCH keys that they know, and answer a SEARCH with a single line of any length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from legacy_email_proxy.contracts import Failure

from .connection import Connection
from .folder_state import Memory, Remembered
from .listing import uid_sets
from .responses import Value, number
from .settings import Deletion

__all__ = (
    "DELETED",
    "KEYWORD",
    "Attributes",
    "attributes",
    "can_tag",
    "copy",
    "expunge",
    "find_trash",
    "move",
    "remove",
    "set_flags",
    "stays",
)

KEYWORD = "$Pop3Deleted"
DELETED = r"\Deleted"

_VARIABLE = "BACKEND_IMAP_DELETE"
_BATCH = 5000
_ROW_OCTETS = 1024
_ANSWER_OCTETS = 262_144

_DATE = re.compile(rb" ?([ \d]?\d)-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_MONTHS = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")


def stays(deletion: Deletion, connection: Connection) -> bool:
    """Whether deleted messages stay there. Without UIDPLUS, EXPUNGE would remove other clients' messages as well."""
    match deletion:
        case Deletion.EXPUNGE:
            return "UIDPLUS" not in connection.capabilities
        case Deletion.TRASH:
            return not {"MOVE", "UIDPLUS"} & connection.capabilities
        case Deletion.FLAG | Deletion.KEEP:
            return True


def can_tag(connection: Connection) -> bool:
    """Whether the selected folder keeps our keyword."""
    flags = {flag.lower() for flag in connection.permanent_flags}
    return bool(flags & {rb"\*", KEYWORD.lower().encode()})


def remove(connection: Connection, uidvalidity: int, uids: Collection[int], deletion: Deletion, memory: Memory) -> None:
    """Delete exactly these messages of the folder, which has just been selected. Doing it again is safe."""
    writable = connection.mailbox is not None and not connection.mailbox.read_only
    if not writable and deletion is not Deletion.KEEP:
        raise Failure("the folder is read-only, so nothing can be deleted", look_at="BACKEND_IMAP_FOLDER")
    if not connection.deletable and deletion is not Deletion.KEEP:
        # Such a server says OK to STORE and EXPUNGE all the same, and everything stays where it is.
        raise Failure("this login may not delete from the folder (PERMANENTFLAGS)", look_at="BACKEND_IMAP_FOLDER")
    trash = _trash(connection) if deletion is Deletion.TRASH else None
    if trash is not None:
        if "MOVE" in connection.capabilities:
            move(connection, uids, trash)
            return
        copy(connection, uids, trash)
    if stays(deletion, connection):
        _hide(connection, uidvalidity, uids, memory, () if deletion is Deletion.KEEP else (DELETED,))
    else:
        set_flags(connection, uids, DELETED)
        expunge(connection, uids)


def _trash(connection: Connection) -> bytes:
    trash = find_trash(connection)
    if trash is None:
        raise Failure(r"the server names no folder for trash (\Trash), so nothing was deleted", look_at=_VARIABLE)
    if connection.is_selected(trash):
        raise Failure("the folder that POP3 shows is the trash itself, so nothing was deleted", look_at=_VARIABLE)
    return trash


def _hide(
    connection: Connection, uidvalidity: int, uids: Collection[int], memory: Memory, flags: tuple[str, ...]
) -> None:
    if can_tag(connection):
        # In one STORE: with two, a connection that breaks in between would leave messages marked but still shown.
        set_flags(connection, uids, *flags, KEYWORD)
        return
    if flags:
        set_flags(connection, uids, *flags)

    def hide(remembered: Remembered) -> None:
        remembered.hidden.update(uids)

    memory.change(uidvalidity, hide)


def set_flags(connection: Connection, uids: Collection[int], *flags: str) -> None:
    """Add ``flags`` to these messages, all of them in one step."""
    for uid_set in uid_sets(uids):
        connection.change("mark messages", "STORE", uid_set, "+FLAGS.SILENT", f"({' '.join(flags)})")


def expunge(connection: Connection, uids: Collection[int]) -> None:
    r"""Remove those of these messages that are marked \Deleted (RFC 4315 §2.1); needs UIDPLUS."""
    for uid_set in uid_sets(uids):
        connection.change("expunge messages", "EXPUNGE", uid_set)


def move(connection: Connection, uids: Collection[int], folder: bytes) -> None:
    """Move these messages (RFC 6851); needs MOVE. ``folder`` is one that :func:`find_trash` gave."""
    for uid_set in uid_sets(uids):
        connection.change("move messages", "MOVE", uid_set, folder=folder)


def copy(connection: Connection, uids: Collection[int], folder: bytes) -> None:
    """Copy these messages. Each command copies all of its messages or none (RFC 9051 §6.4.7)."""
    for uid_set in uid_sets(uids):
        connection.change("copy messages", "COPY", uid_set, folder=folder)


def find_trash(connection: Connection) -> bytes | None:
    r"""The name of the folder with the attribute \Trash (RFC 6154), as the server writes it. A folder that is only
    named "Trash" does not count.
    """
    if "SPECIAL-USE" in connection.capabilities and "LIST-EXTENDED" in connection.capabilities:
        listed = connection.folders("LIST", "RETURN (SPECIAL-USE)")
    elif "SPECIAL-USE" not in connection.capabilities and "XLIST" in connection.capabilities:
        listed = connection.folders("XLIST")
    else:
        listed = connection.folders("LIST")
    for flags, name in listed:
        if rb"\trash" in flags and not flags & {rb"\noselect", rb"\nonexistent"}:
            return name
    return None


@dataclass(frozen=True, slots=True)
class Attributes:
    """Flags and date of one message. ``arrived`` is its INTERNALDATE, ``None`` if the server gave no date."""

    flags: frozenset[bytes]
    arrived: datetime | None


def attributes(
    connection: Connection, uids: Sequence[int], *items: str, note: Callable[[str], None]
) -> Iterator[tuple[int, Attributes | None]]:
    """Flags (in lower case) and date of these messages. ``uids`` must ascend; other messages may be yielded too.

    ``items`` are the FETCH items to ask for: ``FLAGS``, ``INTERNALDATE``. If the server did not give all of them,
    ``note`` is called with the reason, and each message without one of the items is yielded with ``None``.
    """
    for start in range(0, len(uids), _BATCH):
        batch = uids[start : start + _BATCH]
        octets = _ANSWER_OCTETS + _ROW_OCTETS * len(batch)
        uid_set, doing = f"{batch[0]}:{batch[-1]}", "look at the messages"
        fetched = connection.attributes(doing, uid_set, f"(UID {' '.join(items)})", octets)
        told: set[tuple[int, str]] = set()
        for row in fetched.rows:
            if (uid := number(row.get("UID"))) is not None:
                told.update((uid, item) for item in row)
                yield uid, Attributes(_lowered(row.get("FLAGS")), _arrived(row.get("INTERNALDATE")))
        if fetched.fault:
            note(fetched.fault)
            yield from ((uid, None) for uid in batch for item in items if (uid, item) not in told)


def _lowered(flags: Value) -> frozenset[bytes]:
    names = flags if isinstance(flags, tuple) else ()
    # InterMail puts some flags into quotes.
    octets = (flag.encode("latin-1") if isinstance(flag, str) else flag for flag in names)
    return frozenset(flag.lower() for flag in octets if isinstance(flag, bytes))


def _arrived(date: Value) -> datetime | None:
    match = _DATE.fullmatch(date) if isinstance(date, bytes) else None
    if match is None:
        return None
    day, month, year, hour, minute, second, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == b"-" else 1)
    try:
        month_number = _MONTHS.index(month.lower()) + 1
        return datetime(
            int(year), month_number, int(day), int(hour), int(minute), min(int(second), 59), tzinfo=timezone(offset)
        )
    except ValueError:
        return None
