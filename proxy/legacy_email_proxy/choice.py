"""From variables to plugins' classes, for the process and for each account, with what is wrong so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import plugins
from .accounts.file import AccountsFile, AccountTable, read_accounts
from .accounts.rules import Leg
from .accounts.settings import inherited, overlay
from .contracts import Setting, SettingsMistake
from .settings import TABLE, Settings, read

__all__ = ("ASKED_FOR", "CREDENTIALS", "FILTERS", "GROUPS", "LEGS", "NONE", "Choice", "Chosen", "Named", "choose")

NONE = "none"
"""The name that closes a leg."""

LEGS = {"MAILDROP_PLUGIN": Leg.POP3, "RELAY_PLUGIN": Leg.SMTP}
FILTERS = "SMTP_FILTERS"
CREDENTIALS = {"MAILDROP_PLUGIN": "BACKEND_IMAP_CREDENTIALS", "RELAY_PLUGIN": "BACKEND_SMTP_CREDENTIALS"}
"""Leg → the variable that names what its backend plugin logs in with."""
NEXT_RELAY = {"spool": "SPOOL_RELAY"}
"""Relay that hands on to another one → the variable that names that one."""
ASKED_FOR = frozenset({*CREDENTIALS.values(), *NEXT_RELAY.values()})
"""What names plugins that are made when another plugin asks its context for them."""
GROUPS = {
    "MAILDROP_PLUGIN": plugins.MAILDROP,
    "RELAY_PLUGIN": plugins.RELAY,
    FILTERS: plugins.FILTER,
    **dict.fromkeys(CREDENTIALS.values(), plugins.CREDENTIALS),
    **dict.fromkeys(NEXT_RELAY.values(), plugins.RELAY),
}
_SWITCHED_ON_BY = {"SMTP_SENDER": "sender"}
"""Setting → the built-in filter that it switches on, behind all that are named: it then has the last word."""

Named = tuple[str, str]
"""A variable and one plugin that it names."""


@dataclass(frozen=True)
class Chosen:
    """What is to be made: plugins' classes by name. ``table`` is an account's part of the file."""

    settings: Settings
    classes: Mapping[Named, Any]
    table: AccountTable | None = None

    @property
    def name(self) -> str:
        return self.table.name if self.table else ""

    @property
    def legs(self) -> frozenset[Leg]:
        return frozenset(leg for variable, leg in LEGS.items() if self.settings[variable] != NONE)

    def located(self, lines: Iterable[str]) -> list[str]:
        """Mistakes as they are said to the user: those of an account with where it stands in the file."""
        if self.table is None:
            return list(lines)
        places = self.table.places
        return [
            f"{places[name]}: {line}" if (name := line.partition(":")[0]) in places
            else f"{self.table.place}: accounts.{self.name}: {line}"
            for line in lines
        ]  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The process's settings, what it and each account is to be made of, and what is wrong so far.

    Without a file ``accounts`` is empty, and ``process`` has everything.
    """

    process: Chosen
    accounts: tuple[Chosen, ...]
    file: AccountsFile | None
    mistakes: tuple[str, ...]

    @property
    def settings(self) -> Settings:
        """The process's settings, with those that any plugin declares."""
        return self.process.settings


def choose(environ: Mapping[str, str]) -> Choice:
    """Read the settings, those that plugins declare included, and load the named plugins' classes."""
    settings = read(environ)
    if settings["ACCOUNTS_FILE"] is None:
        process, mistakes = _chosen(environ, [*_legs(settings), *_filters(settings), *_asked_for(settings)])
        return Choice(process, (), None, tuple(mistakes))
    try:
        file = read_accounts(settings["ACCOUNTS_FILE"])
    except SettingsMistake as mistake:
        return Choice(Chosen(settings, {}), (), None, (*settings.mistakes, *mistake.lines))
    # A filter that a setting of the account switches on is the account's own, also where it is named.
    listed = [one for one in _listed(settings) if one[1] not in _SWITCHED_ON_BY.values()]
    pairs = []
    for table in file.accounts.values():
        own, _ = _settings(environ, table, TABLE)
        filters = [one for one in _filters(own) if one not in listed]
        pairs.append(_chosen(environ, [*_legs(own), *filters, *_asked_for(own)], table))
    accounts = tuple(chosen for chosen, _ in pairs)
    declared = [setting for chosen in accounts for setting in chosen.settings.declared]
    process, mistakes = _chosen(environ, listed, declared=declared)
    # What is wrong in the environment is inherited by every account.
    ours = [chosen.located(line for line in lines if line not in mistakes) for chosen, lines in pairs]
    return Choice(process, accounts, file, (*mistakes, *file.mistakes, *(line for lines in ours for line in lines)))


def _legs(settings: Settings) -> list[Named]:
    return [(variable, settings[variable]) for variable in LEGS if settings[variable] != NONE]


def _listed(settings: Settings) -> list[Named]:
    """The filters that are named, in their order."""
    named = settings[FILTERS] or () if settings["RELAY_PLUGIN"] != NONE else ()
    return [(FILTERS, name) for name in dict.fromkeys(named)]


def _filters(settings: Settings) -> list[Named]:
    """Those and the ones that other settings switch on."""
    switched_on = [name for variable, name in _SWITCHED_ON_BY.items() if settings[variable] is not None]
    named = [*_listed(settings), *((FILTERS, name) for name in switched_on)]
    return list(dict.fromkeys(named)) if settings["RELAY_PLUGIN"] != NONE else []


def _asked_for(settings: Settings) -> list[Named]:
    variables = [CREDENTIALS[leg] for leg, _ in _legs(settings)]
    following = NEXT_RELAY.get(settings["RELAY_PLUGIN"].rpartition(":")[2])
    return [(variable, settings[variable]) for variable in (*variables, *([following] if following else []))]


def _chosen(
    environ: Mapping[str, str],
    named: Iterable[Named],
    table: AccountTable | None = None,
    declared: Iterable[Setting] = (),
) -> tuple[Chosen, list[str]]:
    """The named plugins' classes and the settings, those that they declare included; and what is wrong there."""
    classes: dict[Named, Any] = {}
    unfound = []
    for variable, name in named:
        try:
            classes[variable, name] = plugins.load(plugins.find(GROUPS[variable], name))
        except plugins.PluginError as error:
            unfound.append(f"{variable}: {error}")
    theirs = [setting for plugin in classes.values() for setting in plugins.declared_settings(plugin)]
    settings, mistakes = _settings(environ, table, dict.fromkeys((*TABLE, *declared, *theirs)))
    return Chosen(settings, classes, table), [*mistakes, *settings.mistakes, *unfound]


def _settings(
    environ: Mapping[str, str], table: AccountTable | None, declared: Iterable[Setting]
) -> tuple[Settings, list[str]]:
    if table is None:
        return read(environ, declared), []
    layer, mistakes = overlay(table, declared)
    return read(inherited(environ, table), declared, layer), mistakes
