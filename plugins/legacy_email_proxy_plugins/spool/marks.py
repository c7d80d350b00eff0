"""Which messages are being tried right now, in a form that outlives the process: so a crash can be laid at some door.

A few octets of a file in shared memory; marking one costs no system call. The kernel keeps them when the process dies.
A power cut may lose them, and is no message's fault.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path

__all__ = ("Marks",)

_SLOTS = 512
_SLOT = struct.Struct("<q")


class Marks:
    """Numbers of messages. When there are more than it has room for, the others go unmarked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map: mmap.mmap | None = None
        self._slots: dict[int, int] = {}
        self._free = list(range(_SLOTS))

    def open(self) -> Sequence[int]:
        """The numbers that were marked when the last process ended, however it did; they stay until :meth:`wipe`."""
        octets = _SLOTS * _SLOT.size
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # With its blocks allocated: on a full disk, a write into a hole of a mapped file kills the process.
            os.posix_fallocate(descriptor, 0, octets)
            self._map = mmap.mmap(descriptor, octets)
        finally:
            os.close(descriptor)
        return [number for (number,) in _SLOT.iter_unpack(self._map[:octets]) if number]

    def wipe(self) -> None:
        """Forget those."""
        if self._map is not None:
            self._map[:] = bytes(len(self._map))

    def set(self, number: int) -> None:
        """Note that this one is being tried."""
        if self._map is not None and self._free and number not in self._slots:
            slot = self._slots[number] = self._free.pop()
            _SLOT.pack_into(self._map, slot * _SLOT.size, number)

    def clear(self, number: int) -> None:
        """It no longer is, and that is on disk."""
        slot = self._slots.pop(number, None)
        if self._map is not None and slot is not None:
            _SLOT.pack_into(self._map, slot * _SLOT.size, 0)
            self._free.append(slot)

    def close(self) -> None:
        """Let go of the file."""
        if self._map is not None:
            self._map.close()
            self._map = None
