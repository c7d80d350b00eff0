"""Builds what the service runs and ``check`` probes, and collects every mistake on the way.

:func:`choose` reads the settings and loads the plugins' classes, for the process and for each account. :func:`compose`
constructs the plugins.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from . import plugins
from .access import is_loopback
from .accounts.file import AccountsFile, AccountTable, line_in, read_accounts
from .accounts.maildrop import RoutedMaildrop
from .accounts.pop_before_smtp import RecentLogins
from .accounts.relay import RoutedRelay
from .accounts.rules import Leg, Rule, effective
from .accounts.settings import inherited, overlay
from .accounts.users import Users
from .contracts import Credentials, Filter, Maildrop, Queue, Relay, Setting, SettingsMistake, SharedState
from .event_loop import event_loop_mistakes
from .guessing import LimitedMaildrop, LoginLimit
from .plugins import Common, PluginContext
from .relays.allow_list import AllowListFilter
from .relays.filtered import FilteredRelay
from .relays.rate_limit import Turns
from .settings import TABLE, Settings, read, unknown_variables
from .settings.alerts import alert_mistakes
from .tls import server_context

__all__ = (
    "ASKED_FOR",
    "CREDENTIALS",
    "FILTERS",
    "GROUPS",
    "LEGS",
    "NEXT_RELAY",
    "NONE",
    "Account",
    "Choice",
    "Chosen",
    "Composition",
    "Named",
    "choose",
    "compose",
    "credentials",
    "relays",
)

NONE = "none"
"""The plugin name that closes a leg."""

LEGS = {"MAILDROP_PLUGIN": Leg.POP3, "RELAY_PLUGIN": Leg.SMTP}
FILTERS = "SMTP_FILTERS"
CREDENTIALS = {"MAILDROP_PLUGIN": "BACKEND_IMAP_CREDENTIALS", "RELAY_PLUGIN": "BACKEND_SMTP_CREDENTIALS"}
"""Leg → the variable that names the credentials plugin of its backend."""
CREDENTIALS_OF_PLUGIN = {"graph": "GRAPH_CREDENTIALS"}
"""Plugin whose backend is neither IMAP nor SMTP → the variable that names its credentials plugin."""
NEXT_RELAY = {"spool": "SPOOL_RELAY"}
"""Relay that hands on to another one → the variable that names that one."""
_CREDENTIALS = {*CREDENTIALS.values(), *CREDENTIALS_OF_PLUGIN.values()}
ASKED_FOR = frozenset({*_CREDENTIALS, *NEXT_RELAY.values()})
"""Variables whose plugins are made only when another plugin asks its context for them."""
GROUPS = {
    "MAILDROP_PLUGIN": plugins.MAILDROP,
    "RELAY_PLUGIN": plugins.RELAY,
    FILTERS: plugins.FILTER,
    **dict.fromkeys(sorted(_CREDENTIALS), plugins.CREDENTIALS),
    **dict.fromkeys(NEXT_RELAY.values(), plugins.RELAY),
}
_SWITCHED_ON_BY = {"SMTP_SENDER": "sender"}
"""Setting → the built-in filter that it switches on. It runs after all filters that are named."""
_CHOOSING = tuple(row for row in TABLE if row.name in {*GROUPS, *_SWITCHED_ON_BY, "GRAPH_LARGE", "PROVIDER"})
"""The settings that decide which plugins an account has."""
_ALLOW_LISTS = ("SMTP_ALLOWED_SENDERS", "SMTP_ALLOWED_RECIPIENTS")
_ALLOW_LIST_FILTER = "allowed"
"""The name of the filter with the allow-lists, in the log and in ``check``. It runs before all other filters."""

Named = tuple[str, str]
"""A variable and one plugin that it names."""


@dataclass(frozen=True)
class Chosen:
    """The settings and plugins' classes of the process or of an account; ``table`` is its part of the accounts file."""

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
        """Mistakes as the user reads them: those of an account with its place in the accounts file."""
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
    """What was chosen for the process and for each account, and the mistakes so far.

    Without an accounts file ``accounts`` is empty, and ``process`` has everything.
    """

    process: Chosen
    accounts: tuple[Chosen, ...]
    file: AccountsFile | None
    mistakes: tuple[str, ...]
    common: Common

    @property
    def settings(self) -> Settings:
        """The process's settings, including those that any plugin declares."""
        return self.process.settings


def choose(environ: Mapping[str, str]) -> Choice:
    """Read the settings, those that plugins declare included, and load the named plugins' classes."""
    settings, common = read(environ), Common()
    if settings["ACCOUNTS_FILE"] is None:
        process, mistakes = _chosen(environ, common, [*_legs(settings), *_filters(settings), *_asked_for(settings)])
        return Choice(process, (), None, tuple(mistakes), common)
    try:
        file = read_accounts(settings["ACCOUNTS_FILE"])
    except SettingsMistake as mistake:
        return Choice(Chosen(settings, {}), (), None, (*settings.mistakes, *mistake.lines), common)
    # A filter that a setting of the account switches on is the account's own, also where SMTP_FILTERS names it.
    listed = [one for one in _listed(settings) if one[1] not in _SWITCHED_ON_BY.values()]
    pairs = []
    for table in file.accounts.values():
        own, _ = _settings(environ, table.only(_CHOOSING), _CHOOSING)
        filters = [one for one in _filters(own) if one not in listed]
        pairs.append(_chosen(environ, common, [*_legs(own), *filters, *_asked_for(own)], table))
    accounts = tuple(chosen for chosen, _ in pairs)
    declared = [setting for chosen in accounts for setting in chosen.settings.declared]
    process, mistakes = _chosen(environ, common, listed, declared=declared)
    # Every account inherits the environment's mistakes; they are reported once.
    ours = [chosen.located(line for line in lines if line not in mistakes) for chosen, lines in pairs]
    lines = (*mistakes, *file.mistakes, *(line for each in ours for line in each))
    return Choice(process, accounts, file, lines, common)


def _legs(settings: Settings) -> list[Named]:
    return [(variable, settings[variable]) for variable in LEGS if settings[variable] != NONE]


def _listed(settings: Settings) -> list[Named]:
    """The filters that are named, in their order."""
    named = settings[FILTERS] or () if settings["RELAY_PLUGIN"] != NONE else ()
    return [(FILTERS, name) for name in dict.fromkeys(named)]


def _filters(settings: Settings) -> list[Named]:
    """The filters that are named, then those that other settings switch on."""
    switched_on = [name for variable, name in _SWITCHED_ON_BY.items() if settings[variable] is not None]
    named = [*_listed(settings), *((FILTERS, name) for name in switched_on)]
    return list(dict.fromkeys(named)) if settings["RELAY_PLUGIN"] != NONE else []


def _asked_for(settings: Settings) -> list[Named]:
    variables = []
    for leg, plugin in _legs(settings):
        following = NEXT_RELAY.get(_unqualified(plugin)) if leg == "RELAY_PLUGIN" else None
        backend = _unqualified(settings[following] if following else plugin)
        variables.append(CREDENTIALS_OF_PLUGIN.get(backend, CREDENTIALS[leg]))
        variables += [following] if following else []
        if leg == "RELAY_PLUGIN" and backend == "graph" and settings["GRAPH_LARGE"] == "smtp":
            variables.append(CREDENTIALS[leg])
    return [(variable, settings[variable]) for variable in dict.fromkeys(variables)]


def _unqualified(plugin: str) -> str:
    return plugin.rpartition(":")[2]  # without the distribution that may stand before it


def _chosen(
    environ: Mapping[str, str],
    common: Common,
    named: Iterable[Named],
    table: AccountTable | None = None,
    declared: Iterable[Setting] = (),
) -> tuple[Chosen, list[str]]:
    """Load the named plugins' classes and read the settings, including those that the plugins declare.

    Also returns the mistakes in them.
    """
    classes: dict[Named, Any] = {}
    unfound = []
    for variable, name in named:
        try:
            classes[variable, name] = common.plugin(GROUPS[variable], name)
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


@dataclass(frozen=True)
class Account:
    """An account's settings and its own plugins. A leg that it does not have is ``None``.

    ``credentials`` are those that its legs asked for, by name; close them after the legs. ``queue`` is its relay, if
    that one keeps mail.
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

    ``filters`` are those of the whole process, in their order; an account's own filters are a part of its relay.
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
    logins: LoginLimit = field(default_factory=LoginLimit)
    turns: dict[str, Turns] = field(default_factory=dict)
    """Account → when its last messages went out, where their rate is limited."""
    shared: SharedState | None = None

    @property
    def credentials(self) -> tuple[Credentials, ...]:
        """Those of all accounts."""
        return tuple(one for account in self.accounts for one in account.credentials.values())


def compose(environ: Mapping[str, str] | None = None, former: Composition | None = None) -> Composition:
    """Read the settings, load the named plugins and construct them; nothing is connected.

    ``former`` is the composition that this one will replace: what it knows of logins and of the messages in the last
    minute is taken over. Raises :class:`SettingsMistake` with all mistakes.
    """
    # A copy, because os.environ decodes each name anew each time that an account's settings are read.
    environ = dict(os.environ if environ is None else environ)
    choice = choose(environ)
    settings, mistakes = choice.settings, list(choice.mistakes)
    if all(settings[variable] == NONE for variable in LEGS):
        mistakes.append("MAILDROP_PLUGIN: both legs are closed with `none`; open at least one")
    turns = dict(former.turns) if former else {}
    process, lines = _made(choice.process, choice.common, turns)
    mistakes += lines
    accounts = []
    for chosen in choice.accounts:
        made, lines = _made(chosen, choice.common, turns)
        accounts.append(made.account(chosen))
        mistakes += chosen.located(lines)
    rules: tuple[Rule, ...] = ()
    # In a file with mistakes, rules may name an account that was not read.
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
    if settings["ADMIN_BIND_PORT"] is not None and not settings["ADMIN_PASSWORD"]:
        mistakes += [
            f"ADMIN_PASSWORD: not set, and ADMIN_BIND_ADDR has {address}, which others than this machine may reach"
            for address in settings["ADMIN_BIND_ADDR"] if not is_loopback(address)
        ]  # fmt: skip
    sends = any(Leg.SMTP in chosen.legs for chosen in choice.accounts or (choice.process,))
    mistakes += [*alert_mistakes(settings, sends=sends), *event_loop_mistakes(settings)]
    tls = shared = None
    try:
        tls = server_context(settings)
    except SettingsMistake as mistake:
        mistakes.extend(settings.unreported(mistake.lines))
    try:
        shared = plugins.shared_state(settings)
    except SettingsMistake as mistake:
        mistakes.extend(settings.unreported(mistake.lines))
    if mistakes:
        # Alone they are only a warning. Here a misspelt name may be the reason why a setting is "not set".
        unknown = unknown_variables(environ, settings.declared)
        mistakes += [f"{name}: no such setting, did you mean {meant}?" for name, meant in unknown]
        # Both legs report the mistakes of credentials that they share; each line is shown once.
        raise SettingsMistake(*sorted(dict.fromkeys(mistakes), key=partial(line_in, settings["ACCOUNTS_FILE"])))
    logins = former.logins if former else LoginLimit()
    if choice.file is None:
        account = Account("", settings, process.maildrop, process.relay, process.credentials, process.queue)
        composition = Composition(settings, account.maildrop, account.relay, tls, process.filters, (account,))
    else:
        composition = Composition(settings, None, None, tls, process.filters, tuple(accounts), rules)
        recent = former.recent if former else RecentLogins(shared=shared)
        composition = _routed(composition, choice.file, logins, recent)
    composition = replace(composition, turns=turns, logins=logins, shared=shared)
    if settings["POP3_LOGIN"] == "backend" and composition.maildrop is not None:
        return replace(composition, maildrop=LimitedMaildrop(composition.maildrop, logins))
    return composition


@dataclass(frozen=True)
class _Made:
    """The plugins that were constructed for the process or for an account."""

    maildrop: Maildrop | None
    relay: Relay | None
    filters: dict[str, Filter]
    credentials: Mapping[str, Credentials]
    queue: Queue | None

    def account(self, chosen: Chosen) -> Account:
        """These plugins as an account. Filters come before the rate limit: a message that they refuse need not wait."""
        relay = self.relay
        add_missing: bool = chosen.table is not None and chosen.settings["SMTP_ADD_MISSING"]
        if relay is not None and (self.filters or add_missing):
            relay = FilteredRelay(relay, self.filters, add_missing=add_missing)
        return Account(chosen.name, chosen.settings, self.maildrop, relay, self.credentials, self.queue)


def _made(
    chosen: Chosen, common: Common, turns: dict[str, Turns] | None = None, but: Collection[str] = ()
) -> tuple[_Made, list[str]]:
    """Construct what was chosen, except what the variables in ``but`` name. Also returns the plugins' mistakes."""
    settings = chosen.settings
    mistakes: list[str] = []
    instances: dict[Named, Any] = {}
    ours = PluginContext("", settings, chosen.name, turns={} if turns is None else turns, common=common)
    queue = None
    limited = any(settings[variable] is not None for variable in _ALLOW_LISTS)
    sends = ("RELAY_PLUGIN", settings["RELAY_PLUGIN"]) in chosen.classes
    allow_list = _ALLOW_LIST_FILTER
    while (FILTERS, allow_list) in chosen.classes:
        # A site's filter may have the same name, and must not replace this one.
        allow_list = f"built-in {allow_list}"
    first = {(FILTERS, allow_list): AllowListFilter} if limited and sends else {}
    for (variable, name), plugin in {**first, **chosen.classes}.items():
        if variable in ASKED_FOR or variable in but:
            continue
        context = ours.of(GROUPS[variable], name)
        try:
            made = context.construct(plugin, variable, name)
        except SettingsMistake as mistake:
            mistakes.extend(settings.unreported(mistake.lines))
            continue
        if variable == "RELAY_PLUGIN":
            queue = made if hasattr(made, "administer") else None
            # The limit is the backend's. A relay that hands on to another one, as the spool does, takes mail at any
            # rate; only the other one is limited.
            made = made if context.next_relays else context.rate_limited(made)
        instances[variable, name] = made
    maildrop, relay = (instances.get((variable, settings[variable])) for variable in LEGS)
    filters = {name: plugin for (variable, name), plugin in instances.items() if variable == FILTERS}
    return _Made(maildrop, relay, filters, ours.shared, queue), mistakes


def _closed_legs(settings: Settings, accounts: Iterable[Chosen]) -> list[str]:
    """The mistakes of accounts that have a leg whose listener is closed, and of listeners that no account uses."""
    mistakes: list[str] = []
    for variable, leg in LEGS.items():
        having = [chosen for chosen in accounts if leg in chosen.legs]
        if settings[variable] == NONE:
            words = f"{variable}: the {leg} listener is closed: {variable} is `none` in the environment"
            mistakes += [line for chosen in having for line in chosen.located([words])]
        elif not having:
            mistakes.append(f"{variable}: no account has this leg; set it to `none` in the environment too")
    return mistakes


def _routed(composition: Composition, file: AccountsFile, logins: LoginLimit, recent: RecentLogins) -> Composition:
    """The same composition with routers in front of the accounts' plugins."""
    users = Users(file.users, logins)
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
    """Account → its credentials by name, constructed without the legs. Raises :class:`SettingsMistake`."""
    choice = choose(environ)
    mistakes = list(choice.mistakes)
    found: dict[str, Mapping[str, Credentials]] = {}
    for chosen in choice.accounts if choice.file is not None else (choice.process,):
        context = PluginContext("credentials", chosen.settings, chosen.name, common=choice.common)
        for variable, _ in chosen.classes:
            if variable in _CREDENTIALS:
                try:
                    context.credentials(variable)
                except SettingsMistake as mistake:
                    mistakes.extend(chosen.located(chosen.settings.unreported(mistake.lines)))
        found[chosen.name] = context.shared
    if mistakes:
        raise SettingsMistake(*dict.fromkeys(mistakes))
    return found


def relays(environ: Mapping[str, str]) -> list[Account]:
    """The accounts with only their relays, constructed but not started. Raises :class:`SettingsMistake`."""
    choice = choose(environ)
    mistakes = list(choice.mistakes)
    accounts = []
    for chosen in choice.accounts if choice.file is not None else (choice.process,):
        made, lines = _made(chosen, choice.common, but=("MAILDROP_PLUGIN", FILTERS))
        mistakes += chosen.located(lines)
        accounts.append(made.account(chosen))
    if mistakes:
        raise SettingsMistake(*dict.fromkeys(mistakes))
    return accounts
