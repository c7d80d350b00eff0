"""What a plugin tells about how it is doing, as numbers: for monitoring, and for the question whether the service is
ready.

Counters of messages, logins and failures need nothing of a plugin: they are counted from the log's events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

__all__ = ("TIMINGS", "Figure", "Observed", "timed", "took")

TIMINGS: list[Callable[[str, str, float], None]] = []
"""Who is called by :func:`took`, from any thread: nobody, unless the admin listener is open. No events of the log, as
each of those costs more than the smallest of these steps may.
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number as it is now. ``labels`` tell figures of one name apart, as in ``state: idle``.

    No label may hold an address or anything else of which there is no end: monitoring keeps each value for ever.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class Observed(Protocol):
    """A plugin that tells figures. Optional, for each kind of plugin but filters.

    These names are known; figures with other names are ignored:

    * ``backend_connections`` (label ``state``: ``in_use``, ``idle`` or ``waiting``, for those who wait for one),
    * ``backend_paused_seconds``: how long the backend is left alone after it refused us; it is not probed meanwhile,
    * ``spool_messages`` (label ``state``), ``spool_oldest_seconds``: what waits, of this account,
    * ``spool_room_octets``: how much more mail fits; with 0 or less the service is not ready,
    * ``token_expiry_timestamp_seconds``: when the access token ends, in seconds since 1970,
    * ``credential_expiry_timestamp_seconds``: when what tokens are got with ends: a certificate, a consent,
    * ``clock_offset_seconds``: by how much this machine's clock is ahead of a server's that tells the time.
    """

    async def figures(self) -> Sequence[Figure]:
        """The figures as they are now. It is called every few seconds, so it must be quick; it never asks a backend.

        Raises a :class:`~.failures.Failure` where they can not be told. If there is anything but figures with finite
        values among them, all of this plugin's are left out, and the log says so once.
        """


def took(leg: str, step: str, seconds: float) -> None:
    """Tell how long a step with a backend took; ``leg`` is ``smtp`` or ``pop3``. It costs nothing while no one listens.

    ``step`` is one of a few fixed words: ``connect``, ``tls``, ``hello``, ``login``, ``mail``, ``content``, ``list``,
    ``fetch`` or ``delete``.
    """
    for observer in TIMINGS:
        observer(leg, step, seconds)


class timed:  # noqa: N801 (it is used like a function)
    """Tell with :func:`took` how long the ``with`` block took, if it came to its end without an exception."""

    __slots__ = ("_began", "_leg", "_step")

    def __init__(self, leg: str, step: str) -> None:
        self._leg = leg
        self._step = step
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            took(self._leg, self._step, time.perf_counter() - self._began)
