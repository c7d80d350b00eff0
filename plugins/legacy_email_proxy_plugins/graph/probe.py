"""What ``check`` says of Microsoft Graph."""

from __future__ import annotations

from collections.abc import Sequence

from legacy_email_proxy.contracts import Finding

from .client import Graph
from .listing import Listing

__all__ = ("probe_maildrop", "probe_relay")


async def probe_relay(graph: Graph, sender: str | None) -> Sequence[Finding]:
    return ()


async def probe_maildrop(graph: Graph, listing: Listing) -> Sequence[Finding]:
    return ()
