"""What a container changes: ``localhost`` and the gateway mean something else, a folder may belong to another user, and
a volume without a name is removed with the container.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ("MARKS", "in_container", "in_nameless_volume", "unwritable")

MARKS = ("/run/.containerenv", "/.dockerenv")
"""Files that podman and docker put into each container."""
_MOUNTS = Path("/proc/self/mountinfo")
_NAMELESS = re.compile(r"/volumes/[0-9a-f]{64}/_data(?:/|\Z)")
"""Where podman and docker keep a volume that nobody has named: its name is 64 hexadecimal digits."""


def in_container(marks: tuple[str, ...] = MARKS) -> bool:
    """Whether this process runs in a container of podman's or docker's.

    Podman sets a variable, too, and with ``--read-only`` its file is not there.
    """
    return "container" in os.environ or any(Path(mark).exists() for mark in marks)


def in_nameless_volume(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether ``folder`` is in a volume without a name, which ``podman run --rm`` and ``podman rm -v`` remove."""
    try:
        rows = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return False
    wanted = Path(os.path.realpath(folder))
    # root of the mount within its file system, and the mount point (proc(5)); a blank in a name is \040
    points = [(row[3], Path(row[4].replace(r"\040", " "))) for row in rows if len(row) > 4]
    # Of several mounts on one another the last one is seen.
    found = max((each for each in reversed(points) if wanted.is_relative_to(each[1])), key=_depth, default=None)
    return found is not None and bool(_NAMELESS.search(found[0]))


def _depth(point: tuple[str, Path]) -> int:
    return len(point[1].parts)


def unwritable(folder: Path) -> tuple[str, str] | None:
    """Why this process can make no file in ``folder``, as far as that shows without making one, and what to do.

    A folder that is missing is made, so the first one above it that is there counts. ``None``: nothing is in the way.
    """
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        return f"{there} is no folder", "name another one"
    if os.access(there, os.W_OK | os.X_OK):
        return None
    words = f"{there} is not writable"
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return f"{words}: its file system is read-only", f"in a container {folder} has to be a volume"
    owner, user = there.stat(), os.geteuid()
    if owner.st_uid in (user, 0) and there != folder:
        return words, f"make {folder} and give it to user {user}; in a container it has to be a volume"
    if owner.st_uid == user:
        return words, f"chmod u+rwx {there}"
    advice = f"chown -R {user}:{os.getegid()} {there}; podman does it for a volume with :U (-v NAME:{there}:U)"
    return f"{words}: it belongs to user {owner.st_uid}, and this process is user {user}", advice
