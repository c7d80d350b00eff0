"""The shared state as several proxies have it, each with a connection of its own."""

from __future__ import annotations

from legacy_email_proxy.contracts import SharedState
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.settings import TABLE, read
from legacy_email_proxy_plugins.state import PostgresState


def proxies(url: str, count: int) -> list[SharedState]:
    settings = read({"STATE_URL": url}, TABLE)
    assert not settings.mistakes
    return [PostgresState(PluginContext("state.postgresql", settings)) for _ in range(count)]
