"""From chosen classes to plugins: what the service runs and ``check`` probes, with every mistake found on the way."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from .accounts.file import AccountsFile
from .accounts.maildrop import RoutedMaildrop
from .accounts.pop_before_smtp import RecentLogins
from .accounts.relay import RoutedRelay
from .accounts.rules import Rule, effective
from .accounts.users import Users
from .choice import ASKED_FOR, CREDENTIALS, FILTERS, GROUPS, LEGS, NONE, Chosen, Named, choose
from .contracts import Credentials, Filter, Maildrop, Queue, Relay, SettingsMistake
from .plugin_context import PluginContext
from .relays.allow_list import GuardFilter
from .relays.filtered import FilteredRelay
from .relays.rate_limit import Turns
from .settings import Settings, unknown_variables
from .tls import server_context

__all__ = ("Account", "Composition", "compose", "credentials", "relays")

_GUARDED_BY = ("SMTP_ALLOWED_SENDERS", "SMTP_ALLOWED_RECIPIENTS")
_GUARD = "allowed"
"""The name under which the log and ``check`` know the guard, which stands before all other filters."""


@dataclass(frozen=True)
class Account:
    """An account's settings and its own plugins. A leg that it does not have is ``None``.

    ``credentials`` are those that its legs asked for, by name; they are to be closed after the legs. ``queue`` is what
    its relay keeps, if it does that.
    """

    name: str
    settings: Settings
    maildrop: Maildrop | None
    relay: Relay | None
    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    queue: Queue | None = None


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
    turns: dict[str, Turns] = field(default_factory=dict)
    """Account → when its last messages went out, where their rate is limited."""

    @property
    def credentials(self) -> tuple[Credentials, ...]:
        """Those of all accounts."""
        return tuple(one for account in self.accounts for one in account.credentials.values())


def compose(environ: Mapping[str, str] | None = None, former: Composition | None = None) -> Composition:
    """Read the settings, load the named plugins and construct them; nothing is connected.

    What ``former``, which this one will replace, knows of POP3 logins and of messages of the last minute lives on.
    Raises :class:`SettingsMistake` with all mistakes of all of them.
    """
    environ = os.environ if environ is None else environ
    choice = choose(environ)
    settings, mistakes = choice.settings, list(choice.mistakes)
    if all(settings[variable] == NONE for variable in LEGS):
        mistakes.append("MAILDROP_PLUGIN: both legs are closed with `none`; open at least one")
    turns = dict(former.turns) if former else {}
    process, lines = _made(choice.process, turns)
    mistakes += lines
    accounts = []
    for chosen in choice.accounts:
        made, lines = _made(chosen, turns)
        accounts.append(made.account(chosen))
        mistakes += chosen.located(lines)
    rules: tuple[Rule, ...] = ()
    # The rules of a file that is wrong may lead nowhere.
    file = None if choice.file is None or choice.file.mistakes else choice.file
    if file is not None:
        legs = {chosen.name: chosen.legs for chosen in choice.accounts}
        places = {name: table.place for name, table in file.accounts.items()}
        rules, lines = effective(file.rules, legs, places, settings["POP3_LOGIN"], settings["SMTP_AUTH"])
        mistakes += [*lines, *_closed_legs(settings, choice.accounts)]
    userless = settings["ACCOUNTS_FILE"] is None or (file is not None and not file.users)
    for variable in ("POP3_LOGIN", "SMTP_AUTH"):
        if settings[variable] == "accounts" and userless:
            mistakes.append(f"{variable}: `accounts` needs users; name them in ACCOUNTS_FILE, under [users]")
    tls = None
    try:
        tls = server_context(settings)
    except SettingsMistake as mistake:
        mistakes.extend(_not_said(mistake.lines, settings))
    if mistakes:
        # Only a warning where all else is well; but here it may be why something else is "not set".
        unknown = unknown_variables(environ, settings.declared)
        mistakes += [f"{name}: no such setting, did you mean {meant}?" for name, meant in unknown]
        # Both legs say what is wrong with credentials that they share.
        raise SettingsMistake(*sorted(dict.fromkeys(mistakes), key=partial(_line_in, settings["ACCOUNTS_FILE"])))
    if choice.file is None:
        account = Account("", settings, process.maildrop, process.relay, process.credentials, process.queue)
        return Composition(settings, account.maildrop, account.relay, tls, process.filters, (account,), turns=turns)
    composition = Composition(settings, None, None, tls, process.filters, tuple(accounts), rules, turns=turns)
    return _routed(composition, choice.file, former.recent if former else RecentLogins())


def _line_in(file: Path | None, mistake: str) -> int:
    """The line of the accounts file that it is about; 0 for what is about the environment, which comes first."""
    found = re.match(rf"{re.escape(str(file))}:(\d+): ", mistake)
    return int(found[1]) if found else 0


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
    credentials: Mapping[str, Credentials]
    queue: Queue | None

    def account(self, chosen: Chosen) -> Account:
        """Them as an account: the filters stand before the pace, for what they refuse need not wait."""
        relay = self.relay
        add_missing: bool = chosen.table is not None and chosen.settings["SMTP_ADD_MISSING"]
        if relay is not None and (self.filters or add_missing):
            relay = FilteredRelay(relay, self.filters, add_missing=add_missing)
        return Account(chosen.name, chosen.settings, self.maildrop, relay, self.credentials, self.queue)


def _made(chosen: Chosen, turns: dict[str, Turns] | None = None, but: Collection[str] = ()) -> tuple[_Made, list[str]]:
    """What was chosen, constructed, and what it has to say against its settings; nothing that ``but`` names."""
    settings = chosen.settings
    mistakes: list[str] = []
    plugins: dict[Named, Any] = {}
    common = PluginContext("", settings, chosen.name, turns={} if turns is None else turns)
    queue = None
    guarded = any(settings[variable] is not None for variable in _GUARDED_BY)
    sends = ("RELAY_PLUGIN", settings["RELAY_PLUGIN"]) in chosen.classes
    guard = _GUARD
    while (FILTERS, guard) in chosen.classes:
        # A site's filter may have any name, and must not take the guard's place with it.
        guard = f"built-in {guard}"
    guards = {(FILTERS, guard): GuardFilter} if guarded and sends else {}
    for (variable, name), plugin in {**guards, **chosen.classes}.items():
        if variable in ASKED_FOR or variable in but:
            continue
        context = common.of(GROUPS[variable], name)
        try:
            made = context.construct(plugin, variable, name)
        except SettingsMistake as mistake:
            mistakes.extend(_not_said(mistake.lines, settings))
            continue
        if variable == "RELAY_PLUGIN":
            queue = made if hasattr(made, "administer") else None
            # It is the backend that can take no more in a minute. What hands on to it takes as much as is sent.
            made = made if context.next_relays else context.paced(made)
        plugins[variable, name] = made
    maildrop, relay = (plugins.get((variable, settings[variable])) for variable in LEGS)
    filters = {name: plugin for (variable, name), plugin in plugins.items() if variable == FILTERS}
    return _Made(maildrop, relay, filters, common.shared, queue), mistakes


def _closed_legs(settings: Settings, accounts: Iterable[Chosen]) -> list[str]:
    """The environment opens and closes the listeners, an account only its part of what is behind them."""
    mistakes: list[str] = []
    for variable, leg in LEGS.items():
        having = [chosen for chosen in accounts if leg in chosen.legs]
        if settings[variable] == NONE:
            words = f"{variable}: the {leg} listener is closed: {variable} is `none` in the environment"
            mistakes += [line for chosen in having for line in chosen.located([words])]
        elif not having:
            mistakes.append(f"{variable}: no account has this leg; set it to `none` in the environment too")
    return mistakes


def _routed(composition: Composition, file: AccountsFile, recent: RecentLogins) -> Composition:
    """The same with routers before the accounts' plugins."""
    users = Users(file.users)
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


def credentials(environ: Mapping[str, str]) -> dict[str, Mapping[str, Credentials]]:
    """Account → its credentials by name, constructed without the legs; ``""`` without an accounts file.

    Raises :class:`SettingsMistake`.
    """
    choice = choose(environ)
    mistakes = list(choice.mistakes)
    found: dict[str, Mapping[str, Credentials]] = {}
    for chosen in choice.accounts if choice.file is not None else (choice.process,):
        context = PluginContext("credentials", chosen.settings, chosen.name)
        for variable, _ in chosen.classes:
            if variable in CREDENTIALS.values():
                try:
                    context.credentials(variable)
                except SettingsMistake as mistake:
                    mistakes.extend(chosen.located(_not_said(mistake.lines, chosen.settings)))
        found[chosen.name] = context.shared
    if mistakes:
        raise SettingsMistake(*dict.fromkeys(mistakes))
    return found


def relays(environ: Mapping[str, str]) -> list[Account]:
    """The accounts with nothing but their relays, constructed and not started; one without a name where there is no
    accounts file.

    Raises :class:`SettingsMistake`.
    """
    choice = choose(environ)
    mistakes = list(choice.mistakes)
    accounts = []
    for chosen in choice.accounts if choice.file is not None else (choice.process,):
        made, lines = _made(chosen, but=("MAILDROP_PLUGIN", FILTERS))
        mistakes += chosen.located(lines)
        accounts.append(made.account(chosen))
    if mistakes:
        raise SettingsMistake(*dict.fromkeys(mistakes))
    return accounts
