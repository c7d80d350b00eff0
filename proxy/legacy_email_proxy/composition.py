"""From variables to plugins: what the service runs and what ``check`` probes, with every mistake found on the way."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import registry
from .accounts.file import AccountsFile, AccountTable, read_accounts
from .accounts.filtered import FilteredRelay
from .accounts.guard import GuardFilter
from .accounts.maildrop import RoutedMaildrop
from .accounts.overlay import inherited, overlay
from .accounts.pace import paced
from .accounts.reach import effective
from .accounts.recent import RecentLogins
from .accounts.relay import RoutedRelay
from .accounts.rules import Leg, Rule
from .accounts.users import Users
from .certificate import server_context
from .contracts import Filter, Maildrop, Relay, Setting, SettingsMistake
from .plugin_context import PluginContext
from .settings import TABLE, Settings, read, unknown_variables

__all__ = ("NONE", "Account", "Choice", "Composition", "choose", "compose")

NONE = "none"
"""The name that closes a leg."""

_LEGS = {"MAILDROP_PLUGIN": Leg.POP3, "RELAY_PLUGIN": Leg.SMTP}
_FILTERS = "SMTP_FILTERS"
_GROUPS = {"MAILDROP_PLUGIN": registry.MAILDROP, "RELAY_PLUGIN": registry.RELAY, _FILTERS: registry.FILTER}
_SWITCHED_ON_BY = {"SMTP_SENDER": "sender"}
"""Setting → the built-in filter that it switches on, behind all that are named: it then has the last word."""

_GUARDED_BY = ("SMTP_ALLOWED_SENDERS", "SMTP_ALLOWED_RECIPIENTS")
_GUARD = "allowed"
"""The name under which the log and ``check`` know the guard, which stands before all other filters."""

Named = tuple[str, str]
"""A variable and one plugin that it names."""


@dataclass(frozen=True)
class Account:
    """An account's settings and its own plugins. A leg that it does not have is ``None``."""

    name: str
    settings: Settings
    maildrop: Maildrop | None
    relay: Relay | None


@dataclass(frozen=True)
class Composition:
    """What is served: a leg that is closed is ``None``. Without an accounts file the one account has no name.

    ``filters`` are those of the whole process, in their order; an account's own stand in front of its relay.
    """

    settings: Settings
    maildrop: Maildrop | None
    relay: Relay | None
    tls: ssl.SSLContext | None = None
    filters: dict[str, Filter] = field(default_factory=dict)
    accounts: tuple[Account, ...] = ()
    rules: tuple[Rule, ...] = ()
    users: Users | None = None
    recent: RecentLogins = field(default_factory=RecentLogins)


@dataclass(frozen=True)
class _Chosen:
    """What is to be made: plugins' classes by name. ``table`` is an account's part of the file."""

    settings: Settings
    classes: Mapping[Named, Any]
    table: AccountTable | None = None

    @property
    def name(self) -> str:
        return self.table.name if self.table else ""

    @property
    def legs(self) -> frozenset[Leg]:
        return frozenset(leg for variable, leg in _LEGS.items() if self.settings[variable] != NONE)

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

    process: _Chosen
    accounts: tuple[_Chosen, ...]
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
        process, mistakes = _chosen(environ, [*_legs(settings), *_filters(settings)])
        return Choice(process, (), None, tuple(mistakes))
    try:
        file = read_accounts(settings["ACCOUNTS_FILE"])
    except SettingsMistake as mistake:
        return Choice(_Chosen(settings, {}), (), None, (*settings.mistakes, *mistake.lines))
    listed = _listed(settings)
    pairs = []
    for table in file.accounts.values():
        own, _ = _settings(environ, table, TABLE)
        pairs.append(_chosen(environ, [*_legs(own), *(one for one in _filters(own) if one not in listed)], table))
    accounts = tuple(chosen for chosen, _ in pairs)
    declared = [setting for chosen in accounts for setting in chosen.settings.declared]
    process, mistakes = _chosen(environ, listed, declared=declared)
    # What is wrong in the environment is inherited by every account.
    ours = [chosen.located(line for line in lines if line not in mistakes) for chosen, lines in pairs]
    return Choice(process, accounts, file, (*mistakes, *(line for lines in ours for line in lines)))


def _legs(settings: Settings) -> list[Named]:
    return [(variable, settings[variable]) for variable in _LEGS if settings[variable] != NONE]


def _listed(settings: Settings) -> list[Named]:
    """The filters that are named, in their order."""
    named = settings[_FILTERS] or () if settings["RELAY_PLUGIN"] != NONE else ()
    return [(_FILTERS, name) for name in dict.fromkeys(named)]


def _filters(settings: Settings) -> list[Named]:
    """Those and the ones that other settings switch on."""
    switched_on = [name for variable, name in _SWITCHED_ON_BY.items() if settings[variable] is not None]
    named = [*_listed(settings), *((_FILTERS, name) for name in switched_on)]
    return list(dict.fromkeys(named)) if settings["RELAY_PLUGIN"] != NONE else []


def _chosen(
    environ: Mapping[str, str],
    named: Iterable[Named],
    table: AccountTable | None = None,
    declared: Iterable[Setting] = (),
) -> tuple[_Chosen, list[str]]:
    """The named plugins' classes and the settings, those that they declare included; and what is wrong there."""
    classes: dict[Named, Any] = {}
    unfound = []
    for variable, name in named:
        try:
            classes[variable, name] = registry.load(registry.find(_GROUPS[variable], name))
        except registry.PluginError as error:
            unfound.append(f"{variable}: {error}")
    theirs = [setting for plugin in classes.values() for setting in registry.declared_settings(plugin)]
    settings, mistakes = _settings(environ, table, dict.fromkeys((*TABLE, *declared, *theirs)))
    return _Chosen(settings, classes, table), [*mistakes, *settings.mistakes, *unfound]


def _settings(
    environ: Mapping[str, str], table: AccountTable | None, declared: Iterable[Setting]
) -> tuple[Settings, list[str]]:
    if table is None:
        return read(environ, declared), []
    layer, mistakes = overlay(table, declared)
    return read(inherited(environ, table), declared, layer), mistakes


def compose(environ: Mapping[str, str] | None = None, recent: RecentLogins | None = None) -> Composition:
    """Read the settings, load the named plugins and construct them; nothing is connected.

    ``recent`` are the POP3 logins that an earlier composition has seen. Raises :class:`SettingsMistake` with all
    mistakes of all of them.
    """
    environ = os.environ if environ is None else environ
    choice = choose(environ)
    settings, mistakes = choice.settings, list(choice.mistakes)
    if all(settings[variable] == NONE for variable in _LEGS):
        mistakes.append("MAILDROP_PLUGIN: both legs are closed with `none`; open at least one")
    process, lines = _made(choice.process)
    mistakes += lines
    accounts = []
    for chosen in choice.accounts:
        made, lines = _made(chosen)
        accounts.append(made.account(chosen))
        mistakes += chosen.located(lines)
    rules: tuple[Rule, ...] = ()
    if choice.file is not None:
        legs = {chosen.name: chosen.legs for chosen in choice.accounts}
        places = {name: table.place for name, table in choice.file.accounts.items()}
        rules, lines = effective(choice.file.rules, legs, places, settings["POP3_LOGIN"])
        mistakes += [*lines, *_closed_legs(settings, choice.accounts)]
    userless = settings["ACCOUNTS_FILE"] is None or (choice.file is not None and not choice.file.users)
    if settings["POP3_LOGIN"] == "accounts" and userless:
        mistakes.append("POP3_LOGIN: `accounts` needs users; name them in ACCOUNTS_FILE, under [users]")
    tls = None
    try:
        tls = server_context(settings)
    except SettingsMistake as mistake:
        mistakes.extend(_not_said(mistake.lines, settings))
    if mistakes:
        # Only a warning where all else is well; but here it may be why something else is "not set".
        unknown = unknown_variables(environ, settings.declared)
        raise SettingsMistake(
            *mistakes, *(f"{name}: no such setting, did you mean {meant}?" for name, meant in unknown)
        )
    if choice.file is None:
        account = Account("", settings, process.maildrop, process.paced(settings))
        return Composition(settings, account.maildrop, account.relay, tls, process.filters, (account,))
    return _routed(Composition(settings, None, None, tls, process.filters, tuple(accounts), rules), choice.file, recent)


def _not_said(lines: Iterable[str], settings: Settings) -> list[str]:
    """Without what is about a variable that could not be read: a password whose file can't be isn't also "not set"."""
    said = {line.partition(":")[0].removesuffix("_FILE") for line in settings.mistakes}
    return [line for line in lines if line.partition(":")[0] not in said]


@dataclass(frozen=True)
class _Made:
    """Plugins, each an instance of its own."""

    maildrop: Maildrop | None
    relay: Relay | None
    filters: dict[str, Filter]

    def paced(self, settings: Settings) -> Relay | None:
        """The relay, slowed down where that is asked for."""
        return None if self.relay is None else paced(self.relay, settings)

    def account(self, chosen: _Chosen) -> Account:
        """Them as an account: the filters stand before the pace, for what they refuse need not wait."""
        relay = self.paced(chosen.settings)
        if relay is not None and self.filters:
            relay = FilteredRelay(relay, self.filters)
        return Account(chosen.name, chosen.settings, self.maildrop, relay)


def _made(chosen: _Chosen) -> tuple[_Made, list[str]]:
    """What was chosen, constructed, and what it has to say against its settings."""
    settings = chosen.settings
    mistakes: list[str] = []
    plugins: dict[Named, Any] = {}
    guarded = any(settings[variable] is not None for variable in _GUARDED_BY)
    sends = ("RELAY_PLUGIN", settings["RELAY_PLUGIN"]) in chosen.classes
    guard = {(_FILTERS, _GUARD): GuardFilter} if guarded and sends else {}
    for (variable, name), plugin in {**guard, **chosen.classes}.items():
        kind = _GROUPS[variable].rpartition(".")[2]
        context = PluginContext(f"{kind}.{name.replace(':', '.')}", settings, chosen.name)
        try:
            plugins[variable, name] = plugin(context)
        except SettingsMistake as mistake:
            mistakes.extend(_not_said(mistake.lines, settings))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            mistakes.append(f"{variable}: plugin {name!r} can not be set up: {reason}")
    maildrop, relay = (plugins.get((variable, settings[variable])) for variable in _LEGS)
    filters = {name: plugin for (variable, name), plugin in plugins.items() if variable == _FILTERS}
    return _Made(maildrop, relay, filters), mistakes


def _closed_legs(settings: Settings, accounts: Iterable[_Chosen]) -> list[str]:
    """The environment opens and closes the listeners, an account only its part of what is behind them."""
    mistakes: list[str] = []
    for variable, leg in _LEGS.items():
        having = [chosen for chosen in accounts if leg in chosen.legs]
        if settings[variable] == NONE:
            words = f"{variable}: the {leg} listener is closed: {variable} is `none` in the environment"
            mistakes += [line for chosen in having for line in chosen.located([words])]
        elif not having:
            mistakes.append(f"{variable}: no account has this leg; set it to `none` in the environment too")
    return mistakes


def _routed(composition: Composition, file: AccountsFile, recent: RecentLogins | None) -> Composition:
    """The same with routers before the accounts' plugins."""
    users, recent = Users(file.users), recent or RecentLogins()
    maildrops = {account.name: account.maildrop for account in composition.accounts if account.maildrop is not None}
    relays = {account.name: account.relay for account in composition.accounts if account.relay is not None}
    judge = users if composition.settings["POP3_LOGIN"] == "accounts" else None
    return replace(
        composition,
        maildrop=RoutedMaildrop(maildrops, composition.rules, recent, judge) if maildrops else None,
        relay=RoutedRelay(relays, composition.rules, recent) if relays else None,
        users=users,
        recent=recent,
    )
