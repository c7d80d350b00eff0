"""Starts, probes and closes the plugins of all accounts; one that fails does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio

from .. import log
from ..contracts import Finding, Level, Maildrop, Relay, SettingsMistake
from ..relays.wrapper import start

__all__ = ("close_all", "probe_all", "start_all")

_log = logging.getLogger("legacy_email_proxy.accounts")


async def probe_all(plugins: Mapping[str, Maildrop] | Mapping[str, Relay]) -> Sequence[Finding]:
    """What each finds, with its account in front, in the order given."""
    found: dict[str, Sequence[Finding]] = {}

    async def probe(account: str, plugin: Maildrop | Relay) -> None:
        try:
            found[account] = await plugin.probe()
        except Exception as error:
            found[account] = [Finding(Level.BAD, f"the plugin's own probe failed: {type(error).__name__}: {error}")]

    async with anyio.create_task_group() as group:
        for account, plugin in plugins.items():
            group.start_soon(probe, account, plugin)
    return [replace(finding, text=f"{account}: {finding.text}") for account in plugins for finding in found[account]]


async def start_all(relays: Mapping[str, Relay]) -> None:
    """Start each, one after the other. Raises :class:`SettingsMistake` with the mistakes of all of them."""
    mistakes: list[str] = []
    for relay in relays.values():
        try:
            await start(relay)
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
    if mistakes:
        # Several may report the same mistake of a setting that they share.
        raise SettingsMistake(*dict.fromkeys(mistakes))


async def close_all(plugins: Mapping[str, Maildrop] | Mapping[str, Relay]) -> None:
    """Close each; one that fails does not keep the others open."""

    async def close(account: str, plugin: Maildrop | Relay) -> None:
        try:
            await plugin.aclose()
        except Exception as error:
            log.failure(_log, "plugin not closed cleanly", error, account=account)

    async with anyio.create_task_group() as group:
        for account, plugin in plugins.items():
            group.start_soon(close, account, plugin)
