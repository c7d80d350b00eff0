"""What all that stands in front of a relay has in common: it forwards every call that it doesn't answer itself.

Recipients that came together stay together on the way, so that a device that pipelines waits once for all of them and
not once for each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from ..contracts import (
    Client,
    Credentials,
    Finding,
    Parameters,
    Recipient,
    Refused,
    Relay,
    RelayCapabilities,
    Transaction,
)

__all__ = ("RelayLayer", "in_place", "start")


def in_place(looked: Sequence[Recipient | Refused], verdicts: Sequence[Refused | None]) -> list[Refused | None]:
    """One verdict for each recipient that was looked at: ``verdicts`` are on those not refused there."""
    rest = iter(verdicts)
    return [each if isinstance(each, Refused) else next(rest) for each in looked]


async def start(plugin: Relay | Credentials) -> None:
    """Let one that has something to do by itself begin. Raises :class:`SettingsMistake`."""
    begin: Callable[[], Awaitable[None]] | None = getattr(plugin, "start", None)
    if begin is not None:
        await begin()


class RelayLayer:
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

    async def start(self) -> None:
        """Start the relay."""
        await start(self._relay)

    async def aclose(self) -> None:
        """Close the relay."""
        await self._relay.aclose()
