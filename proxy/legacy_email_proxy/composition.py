"""From variables to plugins: what the service runs and what ``check`` probes, with every mistake found on the way."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import registry
from .certificate import server_context
from .contracts import Maildrop, Relay, SettingsMistake
from .plugin_context import PluginContext
from .settings import TABLE, Settings, read, unknown_variables

__all__ = ("NONE", "Composition", "choose", "compose")

NONE = "none"
"""The name that closes a leg."""

_LEGS = (("MAILDROP_PLUGIN", registry.MAILDROP), ("RELAY_PLUGIN", registry.RELAY))


@dataclass(frozen=True)
class Composition:
    """Settings, the plugins that they name, and our certificate. A leg that is closed is ``None``."""

    settings: Settings
    maildrop: Maildrop | None
    relay: Relay | None
    tls: ssl.SSLContext | None = None


def choose(environ: Mapping[str, str]) -> tuple[Settings, dict[str, Any], list[str]]:
    """The settings, those that plugins declare included; the named plugins' classes by variable; what is wrong there.

    The mistakes in the settings themselves stand in ``Settings.mistakes``.
    """
    settings = read(environ)
    mistakes = []
    classes: dict[str, Any] = {}
    for variable, group in _LEGS:
        if settings[variable] == NONE:
            continue
        try:
            classes[variable] = registry.load(registry.find(group, settings[variable]))
        except registry.PluginError as error:
            mistakes.append(f"{variable}: {error}")
    declared = [setting for plugin in classes.values() for setting in registry.declared_settings(plugin)]
    if declared:
        settings = read(environ, dict.fromkeys((*TABLE, *declared)))
    return settings, classes, mistakes


def compose(environ: Mapping[str, str] | None = None) -> Composition:
    """Read the settings, load the named plugins and construct them; nothing is connected.

    Raises :class:`SettingsMistake` with all mistakes of all of them.
    """
    environ = os.environ if environ is None else environ
    settings, classes, mistakes = choose(environ)
    mistakes[:0] = settings.mistakes
    if all(settings[variable] == NONE for variable, _ in _LEGS):
        mistakes.append("MAILDROP_PLUGIN: both legs are closed with `none`; open at least one")
    named = {line.partition(":")[0].removesuffix("_FILE") for line in settings.mistakes}
    plugins: dict[str, Any] = {}
    for variable, plugin in classes.items():
        kind = variable.removesuffix("_PLUGIN").lower()
        try:
            plugins[variable] = plugin(PluginContext(f"{kind}.{settings[variable].replace(':', '.')}", settings))
        except SettingsMistake as mistake:
            # A password whose file can't be read isn't also "not set".
            mistakes.extend(line for line in mistake.lines if line.partition(":")[0] not in named)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            mistakes.append(f"{variable}: plugin {settings[variable]!r} can not be set up: {reason}")
    tls = None
    try:
        tls = server_context(settings)
    except SettingsMistake as mistake:
        mistakes.extend(line for line in mistake.lines if line.partition(":")[0] not in named)
    if mistakes:
        # Only a warning where all else is well; but here it may be why something else is "not set".
        unknown = unknown_variables(environ, settings.declared)
        raise SettingsMistake(
            *mistakes, *(f"{name}: no such setting, did you mean {meant}?" for name, meant in unknown)
        )
    return Composition(settings, plugins.get("MAILDROP_PLUGIN"), plugins.get("RELAY_PLUGIN"), tls)
