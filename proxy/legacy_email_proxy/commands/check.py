"""Check the settings, the plugins and both backends, and say in plain words what was found and what to do."""

from __future__ import annotations

import argparse
import logging
import os

import anyio

from ..composition import compose
from ..contracts import Credentials, Filter, Finding, Level, Maildrop, Relay
from ..settings import unknown_variables

__all__ = ("add_arguments", "run")

_PROBE_SECONDS = 90.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: all works. 1: something failed. 2: the settings can not work (the lines say which)."""
    # What a plugin would log, its findings say; both on one screen would read as two problems.
    logging.getLogger("legacy_email_proxy").setLevel(logging.CRITICAL)
    return anyio.run(_check, backend="asyncio")


async def _check() -> int:
    composition = compose()
    print(f"{Level.GOOD.value:<8} settings: no mistake found")
    for variable, meant in unknown_variables(os.environ, composition.settings.declared):
        _print("settings", Finding(Level.WARNING, f"{variable} is not a setting", f"did you mean {meant}?"))
    bad = False
    settings = composition.settings
    plugins: list[tuple[str, Maildrop | Relay | Filter | None]] = [
        (f"maildrop {settings['MAILDROP_PLUGIN']}", composition.maildrop),
        (f"relay {settings['RELAY_PLUGIN']}", composition.relay),
        *((f"filter {name}", one) for name, one in composition.filters.items()),
    ]
    for label, plugin in plugins:
        if plugin is None:
            _print(label, Finding(Level.GOOD, "this leg is closed"))
            continue
        # What has nothing to say is listed all the same: a filter that isn't is one that was forgotten.
        for finding in await _findings(plugin) or [Finding(Level.GOOD, "loaded")]:
            _print(label, finding)
            bad |= finding.level is Level.BAD
    for name, credentials in composition.credentials.items():
        for finding in await _findings(credentials):
            _print(f"credentials {name}", finding)
            bad |= finding.level is Level.BAD
    return int(bad)


async def _findings(plugin: Maildrop | Relay | Filter | Credentials) -> list[Finding]:
    found: list[Finding] = []
    with anyio.move_on_after(_PROBE_SECONDS) as scope:
        try:
            found = [*await plugin.probe()]
            await plugin.aclose()
        except Exception as error:
            found.append(Finding(Level.BAD, f"the plugin's own probe failed: {type(error).__name__}: {error}"))
    if scope.cancelled_caught:
        found.append(Finding(Level.BAD, f"no answer within {_PROBE_SECONDS:g} seconds", "is the host the right one?"))
    return found


def _print(label: str, finding: Finding) -> None:
    advice = f" -> {finding.advice}" if finding.advice else ""
    print(f"{finding.level.value:<8} {label}: {finding.text}{advice}", flush=True)
