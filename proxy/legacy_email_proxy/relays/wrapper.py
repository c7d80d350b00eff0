"""The base class of what stands in front of a relay: it forwards every call that a subclass does not answer itself.

Recipients that came together are forwarded together, so that a device that pipelines waits once for all of them and not
once for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from ..contracts import (
    Client,
    Credentials,
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
    """What a plugin tells, if it tells figures. Raises what it raises, and ``TimeoutError`` where it hangs."""
    told: Callable[[], Awaitable[Sequence[Figure]]] | None = getattr(plugin, "figures", None)
    if told is None:
        return ()
    async with asyncio.timeout(FIGURES_SECONDS):
        return await told()


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
