"""What the graphs of the operator's page need besides the events: how much waits in the spool, how long backends take.

Once a minute it is told to the log as ``figures``, below ``info``, and the history keeps it by the hour.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import chain

from .. import log
from ..build import Account, Composition
from ..contracts import TIMINGS, Figure
from ..relays.wrapper import figures

__all__ = ("Measuring",)

MINUTE = 60.0
_STEPS = {("smtp", "content"): "smtp_seconds", ("pop3", "fetch"): "pop3_seconds"}
"""What is noted: from the end of a message to the verdict on it, and until the first octets of one have come."""

_log = logging.getLogger("legacy_email_proxy.admin")


class Measuring:
    """Measures from :meth:`start` to :meth:`aclose`."""

    def __init__(self, composition: Callable[[], Composition]) -> None:
        self._composition = composition
        self._took: dict[str, tuple[int, float, float]] = {}
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell each minute from now on."""
        TIMINGS.append(self._timing)
        self._running = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Measure no more."""
        if self._running is not None:
            TIMINGS.remove(self._timing)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def tell(self) -> None:
        """Tell what was measured since the last time."""
        took, self._took = self._took, {}
        told = await asyncio.gather(*map(_waiting, self._composition().accounts))
        counts = [one.value for one in chain.from_iterable(told) if one.name == "spool_messages"]
        depth = {"spool": (1, sum(counts), sum(counts))} if counts else {}
        if depth or took:
            log.event(_log, log.FIGURES, "figures", **depth, **took)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(MINUTE)
            try:
                await self.tell()
            except Exception as error:
                log.failure(_log, "figures not told", error)

    def _timing(self, leg: str, step: str, seconds: float) -> None:
        # From any thread. One that is lost between two threads makes no difference to a graph.
        name = _STEPS.get((leg, step))
        if name is not None:
            times, total, highest = self._took.get(name, (0, 0.0, 0.0))
            self._took[name] = times + 1, total + seconds, max(highest, seconds)


async def _waiting(account: Account) -> list[Figure]:
    """The figures of an account's spool; none where it has none, or can not tell them now."""
    if account.queue is None or account.relay is None:
        return []
    try:
        return list(await figures(account.relay))
    except Exception:
        return []
