"""From variables to plugins: what the service runs and what ``check`` probes, with every mistake found on the way."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import registry
from .certificate import server_context
from .contracts import Credentials, Maildrop, Relay, SettingsMistake
from .plugin_context import PluginContext
from .settings import TABLE, Settings, read, unknown_variables

__all__ = ("NONE", "SPOOL", "Composition", "choose", "compose", "credentials", "relay")

NONE = "none"
"""The name that closes a leg."""

SPOOL = "spool"
"""The relay that hands on to another one, which `SPOOL_RELAY` names."""

_LEGS = (("MAILDROP_PLUGIN", registry.MAILDROP), ("RELAY_PLUGIN", registry.RELAY))
_CREDENTIALS = {"MAILDROP_PLUGIN": "BACKEND_IMAP_CREDENTIALS", "RELAY_PLUGIN": "BACKEND_SMTP_CREDENTIALS"}


@dataclass(frozen=True)
class Composition:
    """Settings, the plugins that they name, and our certificate. A leg that is closed is ``None``.

    ``credentials`` are those that the legs asked for, by name; they are to be closed after the legs.
    """

    settings: Settings
    maildrop: Maildrop | None
    relay: Relay | None
    tls: ssl.SSLContext | None = None
    credentials: Mapping[str, Credentials] = field(default_factory=dict)


def choose(environ: Mapping[str, str]) -> tuple[Settings, dict[str, Any], list[str]]:
    """The settings, those that plugins declare included; the legs' classes by variable; what is wrong there.

    The mistakes in the settings themselves stand in ``Settings.mistakes``.
    """
    settings = read(environ)
    mistakes = []
    classes: dict[str, Any] = {}
    for variable, group in _named(settings):
        try:
            classes[variable] = registry.load(registry.find(group, settings[variable]))
        except registry.PluginError as error:
            mistakes.append(f"{variable}: {error}")
    declared = [setting for plugin in classes.values() for setting in registry.declared_settings(plugin)]
    classes = {variable: plugin for variable, plugin in classes.items() if variable in _CREDENTIALS}
    if declared:
        settings = read(environ, dict.fromkeys((*TABLE, *declared)))
    return settings, classes, mistakes


def _named(settings: Settings) -> list[tuple[str, str]]:
    """The variables that name a plugin which may be used, each with its group."""
    legs = [(variable, group) for variable, group in _LEGS if settings[variable] != NONE]
    credentials = [(_CREDENTIALS[variable], registry.CREDENTIALS) for variable, _ in legs]
    next_relay = [("SPOOL_RELAY", registry.RELAY)] if settings["RELAY_PLUGIN"].rpartition(":")[2] == SPOOL else []
    return legs + next_relay + credentials


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
    shared: dict[str, Credentials] = {}
    for variable, plugin in classes.items():
        kind = variable.removesuffix("_PLUGIN").lower()
        try:
            name = f"{kind}.{settings[variable].replace(':', '.')}"
            plugins[variable] = plugin(PluginContext(name, settings, shared))
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
        mistakes += [f"{name}: no such setting, did you mean {meant}?" for name, meant in unknown]
        # Both legs say what is wrong with credentials that they share.
        raise SettingsMistake(*dict.fromkeys(mistakes))
    return Composition(settings, plugins.get("MAILDROP_PLUGIN"), plugins.get("RELAY_PLUGIN"), tls, shared)


def credentials(environ: Mapping[str, str]) -> Mapping[str, Credentials]:
    """The credentials of both legs by name, constructed without the legs. Raises :class:`SettingsMistake`."""
    settings, _, mistakes = choose(environ)
    mistakes[:0] = settings.mistakes
    context = PluginContext("credentials", settings)
    for variable, group in _named(settings):
        if group == registry.CREDENTIALS:
            try:
                context.credentials(variable)
            except SettingsMistake as mistake:
                mistakes.extend(mistake.lines)
    if mistakes:
        raise SettingsMistake(*dict.fromkeys(mistakes))
    return context.shared


def relay(environ: Mapping[str, str]) -> Relay:
    """The relay alone, constructed and not started. Raises :class:`SettingsMistake`."""
    made = compose({**environ, "MAILDROP_PLUGIN": NONE}).relay
    if made is None:
        raise SettingsMistake("RELAY_PLUGIN: this leg is closed")
    return made
