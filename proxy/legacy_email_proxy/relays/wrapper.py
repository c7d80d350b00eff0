"""The base class of what stands in front of a relay: it forwards every call that a subclass does not answer itself.

Recipients that came together are forwarded together, so that a device that pipelines waits once for all of them and not
once for each.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from .. import log
from ..contracts import (
    Client,
    Credentials,
    Failure,
    Figure,
    Finding,
    Maildrop,
    Parameters,
    Recipient,
    Refused,
    Relay,
    RelayCapabilities,
    Transaction,
)

__all__ = ("FIGURES_SECONDS", "RelayWrapper", "all_verdicts", "figures", "start")


FIGURES_SECONDS = 5.0
"""How long a plugin may take to tell its figures: a disk or a database may hang."""

_told_of: set[str] = set()
"""Plugins of which was logged that their figures are left out."""

_log = logging.getLogger("legacy_email_proxy.plugins")


def all_verdicts(checked: Sequence[Recipient | Refused], verdicts: Sequence[Refused | None]) -> list[Refused | None]:
    """One verdict for each of ``checked``, in order; ``verdicts`` are for those that are not refused there."""
    rest = iter(verdicts)
    return [each if isinstance(each, Refused) else next(rest) for each in checked]


async def start(plugin: Relay | Credentials) -> None:
    """Start a plugin that has a ``start``. Raises :class:`SettingsMistake`."""
    begin: Callable[[], Awaitable[None]] | None = getattr(plugin, "start", None)
    if begin is not None:
        await begin()


async def figures(plugin: Maildrop | Relay | Credentials) -> Sequence[Figure]:
    """What a plugin tells, if it tells figures. Raises :class:`Failure` or ``TimeoutError`` where it can not.

    What a site's plugin tells may be anything. It must not stop what others tell, so it is looked at here. A mistake of
    the plugin is logged once: it is asked every few seconds.
    """
    told: Callable[[], Awaitable[Sequence[Figure]]] | None = getattr(plugin, "figures", None)
    if told is None:
        return ()
    try:
        # Not wait_for(): in Python 3.11 it may swallow a cancellation, and the service would never stop.
        async with asyncio.timeout(FIGURES_SECONDS):
            found = list(await told())
        for each in found:
            if not _is_figure(each):
                raise TypeError(f"{each!r:.100} is no figure")
        return found
    except (Failure, TimeoutError):
        raise
    except Exception as error:
        name = f"{type(plugin).__module__}.{type(plugin).__qualname__}"
        cause = f"{type(error).__name__}: {error}"
        if name not in _told_of:
            _told_of.add(name)
            log.event(_log, logging.WARNING, "figures left out", plugin=name, cause=cause)
        raise Failure(f"the plugin's figures can not be used: {cause}") from error


def _is_figure(told: object) -> bool:
    if not isinstance(told, Figure):
        return False
    facts: tuple[Any, ...] = (told.name, told.value, told.labels)
    name, value, labels = facts
    texts = [name, *labels.keys(), *labels.values()] if isinstance(labels, Mapping) else [None]
    return isinstance(value, (int, float)) and math.isfinite(value) and all(isinstance(text, str) for text in texts)


class RelayWrapper:
    """See :class:`~legacy_email_proxy.contracts.StartingRelay`."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AbstractAsyncContextManager[Transaction]:
        """The relay's."""
        return self._relay.transaction(client, reverse_path, parameters)

    def capabilities(self) -> RelayCapabilities:
        """The relay's."""
        return self._relay.capabilities()

    async def probe(self) -> Sequence[Finding]:
        """What the relay finds."""
        return await self._relay.probe()

    async def figures(self) -> Sequence[Figure]:
        """What the relay tells."""
        return await figures(self._relay)

    async def start(self) -> None:
        """Start the relay."""
        await start(self._relay)

    async def aclose(self) -> None:
        """Close the relay."""
        await self._relay.aclose()
