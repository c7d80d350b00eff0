"""From variables to plugins: what the service runs and what ``check`` probes, with every mistake found on the way."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import registry
from .accounts.file import AccountsFile, AccountTable, read_accounts
from .accounts.guard import guarded
from .accounts.maildrop import RoutedMaildrop
from .accounts.overlay import inherited, overlay
from .accounts.pace import paced
from .accounts.reach import effective
from .accounts.recent import RecentLogins
from .accounts.relay import RoutedRelay
from .accounts.rules import Leg, Rule
from .accounts.users import Users
from .certificate import server_context
from .contracts import Maildrop, Relay, Setting, SettingsMistake
from .plugin_context import PluginContext
from .settings import TABLE, Settings, read, unknown_variables

__all__ = ("NONE", "Account", "Choice", "Composition", "choose", "compose")

NONE = "none"
"""The name that closes a leg."""

_LEGS = (("MAILDROP_PLUGIN", registry.MAILDROP, Leg.POP3), ("RELAY_PLUGIN", registry.RELAY, Leg.SMTP))


@dataclass(frozen=True)
class Account:
    """An account's settings and its own plugins. A leg that it does not have is ``None``."""

    name: str
    settings: Settings
    maildrop: Maildrop | None
    relay: Relay | None


@dataclass(frozen=True)
class Composition:
    """What is served: a leg that is closed is ``None``. Without an accounts file the one account has no name."""

    settings: Settings
    maildrop: Maildrop | None
    relay: Relay | None
    tls: ssl.SSLContext | None = None
    accounts: tuple[Account, ...] = ()
    rules: tuple[Rule, ...] = ()
    users: Users | None = None
    recent: RecentLogins = field(default_factory=RecentLogins)


@dataclass(frozen=True)
class _Chosen:
    """One account before its plugins are made: their classes by variable. ``table`` is its part of the file."""

    settings: Settings
    classes: Mapping[str, Any]
    table: AccountTable | None = None

    @property
    def name(self) -> str:
        return self.table.name if self.table else ""

    @property
    def legs(self) -> frozenset[Leg]:
        return frozenset(leg for variable, _, leg in _LEGS if self.settings[variable] != NONE)

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
    """The process's settings, what each account is to be made of, and what is wrong so far."""

    settings: Settings
    accounts: tuple[_Chosen, ...]
    file: AccountsFile | None
    mistakes: tuple[str, ...]


def choose(environ: Mapping[str, str]) -> Choice:
    """Read the settings, those that plugins declare included, and load the named plugins' classes."""
    settings = read(environ)
    if settings["ACCOUNTS_FILE"] is None:
        chosen, mistakes = _chosen(environ)
        return Choice(chosen.settings, (chosen,), None, tuple(mistakes))
    try:
        file = read_accounts(settings["ACCOUNTS_FILE"])
    except SettingsMistake as mistake:
        return Choice(settings, (), None, (*settings.mistakes, *mistake.lines))
    pairs = [_chosen(environ, table) for table in file.accounts.values()]
    accounts = tuple(chosen for chosen, _ in pairs)
    settings = read(environ, dict.fromkeys(setting for chosen in accounts for setting in chosen.settings.declared))
    # What is wrong in the environment is inherited by every account.
    ours = [chosen.located(line for line in lines if line not in settings.mistakes) for chosen, lines in pairs]
    return Choice(settings, accounts, file, (*settings.mistakes, *(line for lines in ours for line in lines)))


def _chosen(environ: Mapping[str, str], table: AccountTable | None = None) -> tuple[_Chosen, list[str]]:
    """The settings of one account and the classes of its plugins, and what is wrong there."""
    settings, _ = _settings(environ, table, TABLE)
    classes: dict[str, Any] = {}
    unfound = []
    for variable, group, _ in _LEGS:
        if settings[variable] == NONE:
            continue
        try:
            classes[variable] = registry.load(registry.find(group, settings[variable]))
        except registry.PluginError as error:
            unfound.append(f"{variable}: {error}")
    declared = [setting for plugin in classes.values() for setting in registry.declared_settings(plugin)]
    settings, mistakes = _settings(environ, table, dict.fromkeys((*TABLE, *declared)))
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
    if all(settings[variable] == NONE for variable, _, _ in _LEGS):
        mistakes.append("MAILDROP_PLUGIN: both legs are closed with `none`; open at least one")
    # A password whose file can't be read isn't also "not set".
    named = {line.partition(":")[0].removesuffix("_FILE") for line in settings.mistakes}
    accounts = []
    for chosen in choice.accounts:
        account, lines = _made(chosen)
        accounts.append(account)
        said = named | {line.partition(":")[0].removesuffix("_FILE") for line in chosen.settings.mistakes}
        mistakes += chosen.located(line for line in lines if line.partition(":")[0] not in said)
    rules: tuple[Rule, ...] = ()
    if choice.file is not None:
        legs = {chosen.name: chosen.legs for chosen in choice.accounts}
        places = {name: table.place for name, table in choice.file.accounts.items()}
        rules, lines = effective(choice.file.rules, legs, places, settings["POP3_LOGIN"])
        mistakes += [*lines, *_closed_legs(settings, choice.accounts)]
    if settings["POP3_LOGIN"] == "accounts" and settings["ACCOUNTS_FILE"] is None:
        mistakes.append("POP3_LOGIN: `accounts` needs users; name a file that has them in ACCOUNTS_FILE")
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
    return _composition(settings, tuple(accounts), choice.file, rules, recent or RecentLogins(), tls)


def _made(chosen: _Chosen) -> tuple[Account, list[str]]:
    """The account with its plugins, each an instance of its own, and what they have to say against its settings."""
    settings = chosen.settings
    mistakes: list[str] = []
    plugins: dict[str, Any] = {}
    for variable, plugin in chosen.classes.items():
        kind = variable.removesuffix("_PLUGIN").lower()
        name = ".".join(filter(None, (kind, settings[variable].replace(":", "."), chosen.name)))
        try:
            plugins[variable] = plugin(PluginContext(name, settings))
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            mistakes.append(f"{variable}: plugin {settings[variable]!r} can not be set up: {reason}")
    relay = plugins.get("RELAY_PLUGIN")
    if relay is not None:
        try:
            # What the guard refuses must not wait, nor count.
            relay = guarded(paced(relay, settings), settings)
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
    return Account(chosen.name, settings, plugins.get("MAILDROP_PLUGIN"), relay), mistakes


def _closed_legs(settings: Settings, accounts: Iterable[_Chosen]) -> list[str]:
    """The environment opens and closes the listeners, an account only its part of what is behind them."""
    mistakes: list[str] = []
    for variable, _, leg in _LEGS:
        having = [chosen for chosen in accounts if leg in chosen.legs]
        if settings[variable] == NONE:
            words = f"{variable}: the {leg} listener is closed: {variable} is `none` in the environment"
            mistakes += [line for chosen in having for line in chosen.located([words])]
        elif not having:
            mistakes.append(f"{variable}: no account has this leg; set it to `none` in the environment too")
    return mistakes


def _composition(
    settings: Settings,
    accounts: tuple[Account, ...],
    file: AccountsFile | None,
    rules: tuple[Rule, ...],
    recent: RecentLogins,
    tls: ssl.SSLContext | None,
) -> Composition:
    if file is None:
        [account] = accounts
        return Composition(settings, account.maildrop, account.relay, tls, accounts)
    users = Users(file.users)
    maildrops = {account.name: account.maildrop for account in accounts if account.maildrop is not None}
    relays = {account.name: account.relay for account in accounts if account.relay is not None}
    judge = users if settings["POP3_LOGIN"] == "accounts" else None
    return Composition(
        settings,
        RoutedMaildrop(maildrops, rules, recent, judge) if maildrops else None,
        RoutedRelay(relays, rules, recent) if relays else None,
        tls, accounts, rules, users, recent,
    )  # fmt: skip
