"""Files that must survive a power cut: syncs a directory, writes a file as a whole, and sets a file's owner."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

__all__ = ("leave_to_service", "sync_directory", "write_whole")


def sync_directory(path: Path, *, where_possible: bool = False) -> None:
    """Write what was made, renamed or removed in this directory to disk. Raises ``OSError``.

    Some network file systems can not do that. With ``where_possible`` this is no error, so that messages can be stored
    there nevertheless. A caller that promises that a message is on disk must not use it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not where_possible or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_whole(file: Path, octets: bytes) -> None:
    """Write the file as a whole or, if the power fails, not at all. Raises ``OSError``."""
    new = file.with_suffix(".new")
    try:
        with new.open("wb") as stream:
            stream.write(octets)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(file)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
    sync_directory(file.parent)


def leave_to_service(made: Path | int, folder: Path) -> None:
    """Give a file that root has made in the service's folder to the service, which could not open it otherwise.

    ``made`` is a path or a descriptor. Raises ``OSError``.
    """
    if os.geteuid() == 0:
        owner = folder.stat()
        # Links are not followed: the service's user may have put a link there that points to another user's file.
        os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=isinstance(made, int))
