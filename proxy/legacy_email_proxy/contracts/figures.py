"""What a plugin tells about how it is doing, as numbers: for monitoring, and for the question whether the service is
ready.

Counters of messages, logins and failures need nothing of a plugin: they are counted from the log's events.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ("TIMINGS", "Figure", "Observed", "timed", "took")

TIMINGS = logging.getLogger("legacy_email_proxy_timings")
"""The logger of :func:`took`. It is disabled until somebody observes it; what it gets is never written to the log."""
TIMINGS.setLevel(logging.INFO)
TIMINGS.propagate = False
TIMINGS.disabled = True


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
    * ``credential_expiry_timestamp_seconds``: when what tokens are got with ends, such as a certificate,
    * ``clock_offset_seconds``: by how much this machine's clock is ahead of a server's that tells the time.
    """

    async def figures(self) -> Sequence[Figure]:
        """The figures as they are now. It is called every few seconds, so it must be quick; it never asks a backend.

        Raises a :class:`~.failures.Failure` where they can not be told.
        """


def took(leg: str, step: str, seconds: float) -> None:
    """Tell how long a step with a backend took; ``leg`` is ``smtp`` or ``pop3``. It costs nothing while no one listens.

    ``step`` is one of a few fixed words: ``connect``, ``tls``, ``hello``, ``login``, ``mail``, ``content``, ``list``,
    ``fetch`` or ``delete``.
    """
    if TIMINGS.isEnabledFor(logging.INFO):
        TIMINGS.info(step, extra={"facts": {"leg": leg, "step": step, "seconds": seconds}})


@contextmanager
def timed(leg: str, step: str) -> Iterator[None]:
    """Tell with :func:`took` how long the ``with`` block took, if it came to its end without an exception."""
    began = time.perf_counter()
    yield
    took(leg, step, time.perf_counter() - began)
