"""From variables to plugins: what the service runs and what ``check`` probes, with every mistake found on the way."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import registry
from .certificate import server_context
from .contracts import Credentials, Filter, Maildrop, Relay, SettingsMistake
from .plugin_context import PluginContext
from .settings import TABLE, Settings, read, unknown_variables

__all__ = ("NONE", "Composition", "choose", "compose", "credentials")

NONE = "none"
"""The name that closes a leg."""

_LEGS = ("MAILDROP_PLUGIN", "RELAY_PLUGIN")
_FILTERS = "SMTP_FILTERS"
_CREDENTIALS = {"MAILDROP_PLUGIN": "BACKEND_IMAP_CREDENTIALS", "RELAY_PLUGIN": "BACKEND_SMTP_CREDENTIALS"}
_GROUPS = {
    "MAILDROP_PLUGIN": registry.MAILDROP,
    "RELAY_PLUGIN": registry.RELAY,
    _FILTERS: registry.FILTER,
    **dict.fromkeys(_CREDENTIALS.values(), registry.CREDENTIALS),
}
_SWITCHED_ON_BY = {"SMTP_SENDER": "sender"}
"""Setting → the built-in filter that it switches on, behind all that are named: it then has the last word."""


@dataclass(frozen=True)
class Composition:
    """Settings, the plugins that they name, and our certificate. A leg that is closed is ``None``.

    ``credentials`` are those that the legs asked for, by name; they are to be closed after the legs.
    """

    settings: Settings
    maildrop: Maildrop | None
    relay: Relay | None
    tls: ssl.SSLContext | None = None
    filters: dict[str, Filter] = field(default_factory=dict)
    credentials: Mapping[str, Credentials] = field(default_factory=dict)


Named = tuple[str, str]
"""A variable and one plugin that it names."""


def _named(settings: Settings) -> list[Named]:
    """The plugins to load, the filters in their order."""
    named = [(leg, settings[leg]) for leg in _LEGS if settings[leg] != NONE]
    if settings["RELAY_PLUGIN"] != NONE:
        switched_on = [name for variable, name in _SWITCHED_ON_BY.items() if settings[variable] is not None]
        named += [(_FILTERS, name) for name in dict.fromkeys((*(settings[_FILTERS] or ()), *switched_on))]
    return named + [(_CREDENTIALS[leg], settings[_CREDENTIALS[leg]]) for leg in _LEGS if settings[leg] != NONE]


def choose(environ: Mapping[str, str]) -> tuple[Settings, dict[Named, Any], list[str]]:
    """The settings, those that plugins declare included; the named plugins' classes; what is wrong there.

    The mistakes in the settings themselves stand in ``Settings.mistakes``.
    """
    settings = read(environ)
    mistakes = []
    classes: dict[Named, Any] = {}
    for variable, name in _named(settings):
        try:
            classes[variable, name] = registry.load(registry.find(_GROUPS[variable], name))
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
    if all(settings[leg] == NONE for leg in _LEGS):
        mistakes.append("MAILDROP_PLUGIN: both legs are closed with `none`; open at least one")
    named = {line.partition(":")[0].removesuffix("_FILE") for line in settings.mistakes}
    plugins: dict[Named, Any] = {}
    shared: dict[str, Credentials] = {}
    for (variable, name), plugin in classes.items():
        if variable in _CREDENTIALS.values():
            # Made when a leg asks for them.
            continue
        kind = _GROUPS[variable].rpartition(".")[2]
        try:
            context = PluginContext(f"{kind}.{name.replace(':', '.')}", settings, shared)
            plugins[variable, name] = plugin(context)
        except SettingsMistake as mistake:
            # A password whose file can't be read isn't also "not set".
            mistakes.extend(line for line in mistake.lines if line.partition(":")[0] not in named)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            mistakes.append(f"{variable}: plugin {name!r} can not be set up: {reason}")
    tls = None
    try:
        tls = server_context(settings)
    except SettingsMistake as mistake:
        mistakes.extend(line for line in mistake.lines if line.partition(":")[0] not in named)
    if mistakes:
        # Only a warning where all else is well; but here it may be why something else is "not set".
        unknown = unknown_variables(environ, settings.declared)
        mistakes += [f"{name}: no such setting, did you mean {meant}?" for name, meant in unknown]
        # Both legs say what is wrong with credentials that they share.
        raise SettingsMistake(*dict.fromkeys(mistakes))
    maildrop, relay = (plugins.get((leg, settings[leg])) for leg in _LEGS)
    filters = {name: plugin for (variable, name), plugin in plugins.items() if variable == _FILTERS}
    return Composition(settings, maildrop, relay, tls, filters, shared)


def credentials(environ: Mapping[str, str]) -> Mapping[str, Credentials]:
    """The credentials of both legs by name, constructed without the legs. Raises :class:`SettingsMistake`."""
    settings, _, mistakes = choose(environ)
    mistakes[:0] = settings.mistakes
    context = PluginContext("credentials", settings)
    for variable, _ in _named(settings):
        if variable in _CREDENTIALS.values():
            try:
                context.credentials(variable)
            except SettingsMistake as mistake:
                mistakes.extend(mistake.lines)
    if mistakes:
        raise SettingsMistake(*dict.fromkeys(mistakes))
    return context.shared
