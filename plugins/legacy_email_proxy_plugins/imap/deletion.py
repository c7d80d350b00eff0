r"""What QUIT does with the messages that were marked: ``BACKEND_IMAP_DELETE``, on servers with and without extensions.

Wherever a message stays in the folder, it is kept out of later listings, so that the ``+OK`` which the client read
stays true: by the keyword ``$Pop3Deleted`` where the folder takes keywords, so that any other proxy knows it too, else
by this one's memory. \Deleted alone doesn't do it: other clients set that for reasons of their own.
"""

from __future__ import annotations

from collections.abc import Collection

from legacy_email_proxy.contracts import Failure

from .actions import DELETED, copy, expunge, find_trash, move, set_flags
from .connection import Connection
from .folder_state import Memory, Remembered
from .settings import Deletion

__all__ = ("KEYWORD", "can_tag", "remove", "stays")

KEYWORD = "$Pop3Deleted"

_VARIABLE = "BACKEND_IMAP_DELETE"


def stays(deletion: Deletion, connection: Connection) -> bool:
    """Whether what is deleted stays in the folder: without UIDPLUS, an EXPUNGE would take other clients' messages."""
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
        # In one STORE, so that none is left that is marked and shown.
        set_flags(connection, uids, *flags, KEYWORD)
        return
    if flags:
        set_flags(connection, uids, *flags)

    def hide(remembered: Remembered) -> None:
        remembered.hidden.update(uids)

    memory.change(uidvalidity, hide)
