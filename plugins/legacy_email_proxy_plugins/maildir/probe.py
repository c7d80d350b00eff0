"""What ``check`` reports about a Maildir: its path and messages, whether it is writable, and the free space."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from legacy_email_proxy.contracts import Failure, Finding, Level

from ..threads import Threads
from .folder import Folder

__all__ = ("probe",)


async def probe(folder: Folder, threads: Threads, *, room_octets: int = 0) -> Sequence[Finding]:
    """Check the folder without a change to it; warn when less than ``room_octets`` of disk space are free."""
    try:
        return [await threads.run(_look, folder, room_octets)]
    except Failure as failure:
        return [Finding(Level.BAD, f"Maildir {folder.path}: {failure}")]


def _look(folder: Folder, room_octets: int) -> Finding:
    wrong = folder.unusable()
    if wrong:
        return Finding(Level.BAD, f"Maildir: {wrong}")
    there = [each for each in (folder.path, *folder.subfolders) if each.is_dir()]
    touched = there or [folder.path.parent]
    free = shutil.disk_usage(touched[0]).free
    locked = [str(each) for each in touched if not os.access(each, os.W_OK | os.X_OK)]
    if locked:
        text = f"Maildir {folder.path}: not writable: {', '.join(locked)}"
        return Finding(Level.BAD, text, "give the user of this process the right to write there")
    said = f"{folder.count()} messages" if there else "does not exist yet and will be made"
    text = f"Maildir {folder.path}: {said}, writable, {free // 2**20} MiB free"
    if free < room_octets:
        return Finding(Level.WARNING, text, "a message of SMTP_MAX_OCTETS does not fit any more: make room")
    return Finding(Level.GOOD, text)
