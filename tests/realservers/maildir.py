"""A Maildir filled from outside: the quickest way to put ten thousand messages before a server."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# The names begin with a time. A fixed one, long past, keeps them in the order in which they were written.
TIME = 1_600_000_000


class Maildir:
    """The Maildir of one user, whom it belongs to by uid and gid."""

    def __init__(self, folder: Path, uid: int, gid: int) -> None:
        self._folder = folder
        self._count = 0
        for each in (folder.parent, folder, folder / "cur", folder / "new", folder / "tmp"):
            each.mkdir(mode=0o700, exist_ok=True)
            os.chown(each, uid, gid)

    def add(self, messages: Iterable[bytes]) -> None:
        """Deliver the messages, octet for octet, in this order.

        Each file is written beside and then moved in, as Maildir asks: the server may look at any moment.
        """
        for octets in messages:
            self._count += 1
            name = f"{TIME}.M{self._count:09}.realservers"
            beside = self._folder / "tmp" / name
            beside.write_bytes(octets)
            beside.chmod(0o644)  # the server's user reads it; to move or delete it, owning the folder is enough
            beside.rename(self._folder / "new" / name)
