"""Files that must outlive a power cut: a directory's entries on disk, a file written as a whole, and whose it is."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

__all__ = ("leave_to_service", "sync_directory", "write_whole")


def sync_directory(path: Path, *, where_possible: bool = False) -> None:
    """Have what was made, renamed or removed in this directory on disk. Raises ``OSError``.

    Some network file systems can not do that. ``where_possible`` is for those who would refuse every message there; who
    promises that a message is on disk may not take it.
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
    """Write the file as a whole or not at all, whenever the power fails. Raises ``OSError``."""
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
    """Give what root has made in the service's folder to the service, which could not open it otherwise.

    ``made`` is a path or a descriptor. Raises ``OSError``.
    """
    if os.geteuid() == 0:
        owner = folder.stat()
        # Not what a link points to, which that user may have put there.
        os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=isinstance(made, int))
