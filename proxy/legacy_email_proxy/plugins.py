"""Finds a plugin by group and name, loads it, checks that it keeps its contract, and constructs it with its
:class:`~legacy_email_proxy.contracts.Context`.

Built-in plugins come through the same entry points as a site's. Only a plugin that is named is imported, so a broken
one that nobody uses does no harm. A mistake names the plugin's distribution and version.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FunctionType
from typing import Any, get_args
from weakref import WeakValueDictionary

from .contracts import (
    Authorizable,
    BackedUpQueue,
    Credentials,
    Filter,
    Maildrop,
    Observed,
    Queue,
    Relay,
    Secret,
    Setting,
    SettingsMistake,
    SettingType,
    SharedState,
    StartingCredentials,
    StartingRelay,
)
from .relays.rate_limit import PATIENCE_SECONDS, RateLimitedRelay, SharedTurns, Turns, rate_limited
from .settings import read

__all__ = (
    "CREDENTIALS",
    "FILTER",
    "GROUPS",
    "MAILDROP",
    "RELAY",
    "STATE",
    "Common",
    "Found",
    "PluginContext",
    "PluginError",
    "available",
    "declared_settings",
    "find",
    "load",
    "shared_state",
    "state_url",
)

MAILDROP = "legacy_email_proxy.maildrop"
RELAY = "legacy_email_proxy.relay"
FILTER = "legacy_email_proxy.filter"
CREDENTIALS = "legacy_email_proxy.credentials"
STATE = "legacy_email_proxy.state"
GROUPS: dict[str, type] = {
    MAILDROP: Maildrop,
    RELAY: Relay,
    FILTER: Filter,
    CREDENTIALS: Credentials,
    STATE: SharedState,
}
"""Entry-point group → the contract that its plugins keep."""

_OPTIONAL: dict[str, tuple[type, ...]] = {
    MAILDROP: (Observed,),
    RELAY: (StartingRelay, Queue, BackedUpQueue, Observed),
    CREDENTIALS: (Authorizable, StartingCredentials, Observed),
}
"""Optional contracts of a group: a plugin with one method of such a contract must have all of them."""

_CONTEXTS = ("open", "transaction")
"""The methods that give an asynchronous context manager."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin that is installed, not necessarily one that can be imported."""

    group: str
    name: str
    distribution: str
    version: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


class PluginError(Exception):
    """A named plugin is missing, ambiguous, broken, or does not keep its contract."""


def available(group: str) -> list[Found]:
    """All plugins of a group, by name. Reads the metadata of distributions and imports nothing."""
    found = {}
    for point in entry_points(group=group):
        distribution, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "?")
        # The same distribution is seen twice where two folders of sys.path hold its metadata.
        found[point.name, distribution] = Found(group, point.name, distribution, version, point)
    return [found[key] for key in sorted(found)]


def find(group: str, name: str, candidates: Sequence[Found] | None = None) -> Found:
    """The plugin called ``name``, or ``distribution:name`` where two distributions use one name.

    ``candidates`` are the group's plugins, where they have been looked up already. Raises :class:`PluginError` with the
    names that there are.
    """
    distribution, _, short = name.rpartition(":")
    candidates = available(group) if candidates is None else candidates
    matching = [found for found in candidates if found.name == short and distribution in ("", found.distribution)]
    kind = group.rpartition(".")[2]
    if len(matching) > 1:
        choices = " or ".join(f"{found.distribution}:{found.name}" for found in matching)
        raise PluginError(f"{kind} plugin {name!r} is provided twice; write {choices}")
    if not matching:
        names = [found.name for found in candidates]
        near = difflib.get_close_matches(short, names, n=1)
        listed = ", ".join(names) or "none; install the project with pip, entry points need its metadata"
        raise PluginError(
            f"there is no {kind} plugin {name!r}{f', did you mean {near[0]!r}' if near else ''} (installed: {listed})"
        )
    return matching[0]


def load(found: Found) -> Any:
    """Import the plugin and check that it keeps its contract.

    Raises :class:`PluginError` that names its distribution and version.
    """
    try:
        plugin = found.entry_point.load()
    except Exception as error:
        raise PluginError(f"plugin {found} can not be imported: {type(error).__name__}: {error}") from error
    mistakes = _violations(plugin, found.group)
    if mistakes:
        raise PluginError(f"plugin {found} does not keep the {found.group} contract: {'; '.join(mistakes)}")
    return plugin


def _violations(plugin: Any, group: str) -> list[str]:
    """What is wrong with a plugin class. It is checked at load: the start fails then, not a call days later."""
    if not isinstance(plugin, type):
        return [f"{plugin!r} is not a class"]
    if inspect.isabstract(plugin):
        return [f"{', '.join(sorted(getattr(plugin, '__abstractmethods__', ())))} not written"]
    problems = []
    try:
        inspect.signature(plugin).bind(None)
    except TypeError:
        problems.append("its constructor must take exactly one argument, the context")
    problems += _wrong_methods(plugin, GROUPS[group])
    for ability in _OPTIONAL.get(group, ()):
        if any(hasattr(plugin, name) for name, _ in _methods(ability)):
            problems += _wrong_methods(plugin, ability)
    return [*problems, *_bad_settings(plugin)]


def _methods(contract: type) -> Iterator[tuple[str, FunctionType]]:
    """The methods of the contract itself, without those of a contract that it extends."""
    for name, promised in vars(contract).items():
        if not name.startswith("_") and inspect.isfunction(promised):
            yield name, promised


def _wrong_methods(plugin: type, contract: type) -> Iterator[str]:
    for name, promised in _methods(contract):
        written = inspect.getattr_static(plugin, name, None)
        if not inspect.isfunction(written):
            yield f"no method {name}()"
            continue
        if not _takes_what_is_promised(written, promised):
            yield f"{name}() must take {_arguments(promised)}"
        if inspect.isasyncgenfunction(written) and not inspect.isasyncgenfunction(promised) and name in _CONTEXTS:
            yield f"{name}() must return a context manager; is @asynccontextmanager missing?"
        if inspect.iscoroutinefunction(promised) != inspect.iscoroutinefunction(written):
            yield f"{name}() must {'' if inspect.iscoroutinefunction(promised) else 'not '}be async"


def _takes_what_is_promised(written: FunctionType, promised: FunctionType) -> bool:
    parameters = inspect.signature(promised).parameters.values()
    by_name = {one.name: None for one in parameters if one.kind is one.KEYWORD_ONLY}
    try:
        inspect.signature(written).bind(*range(len(parameters) - len(by_name)), **by_name)
    except TypeError:
        return False
    return True


def _arguments(promised: FunctionType) -> str:
    signature = inspect.signature(promised)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(inspect.Signature(bare))


def _bad_settings(plugin: type) -> Iterator[str]:
    declared = getattr(plugin, "settings", ())
    if not isinstance(declared, tuple) or not all(isinstance(one, Setting) for one in declared):
        yield "settings must be a tuple of Setting"
        return
    for one in declared:
        if not all(isinstance(text, str) for text in (one.name, one.sentence)):
            yield f"setting {one.name!r} has a name or a sentence that is no text"
        elif one.type not in get_args(SettingType):
            yield f"setting {one.name} has the type {one.type!r}, which is none of {', '.join(get_args(SettingType))}"
        elif not isinstance(one.choices, tuple):
            yield f"setting {one.name} has choices that are no tuple"
        elif not all(_may_bound(one, bound) for bound in (one.minimum, one.maximum)):
            yield f"setting {one.name} has a minimum or maximum that is no number, or is no number itself"
        elif not isinstance(one.default, str | None):
            yield f"setting {one.name} has the default {one.default!r}; write it as a user would write the variable"
        elif one.default:
            given = read({one.name: one.default}, (replace(one, default=None),))
            yield from (f"setting {mistake}, which is its default" for mistake in given.mistakes)


def _may_bound(setting: Setting, bound: object) -> bool:
    return bound is None or (setting.type in ("integer", "seconds") and isinstance(bound, int | float))


def declared_settings(plugin: Any) -> tuple[Setting, ...]:
    """The settings that a plugin class declares for itself; :func:`load` has checked them."""
    declared: tuple[Setting, ...] = getattr(plugin, "settings", ())
    return declared


_states: WeakValueDictionary[bytes, SharedState] = WeakValueDictionary()


def state_url(settings: Mapping[str, Any]) -> tuple[str, Secret] | None:
    """Where shared state is, with the variable that says so: ``STATE_URL``, or ``SPOOL_URL`` if that is PostgreSQL."""
    variable = "SPOOL_URL" if settings["STATE_URL"] is None else "STATE_URL"
    url: Secret | None = settings[variable]
    if url is None or (variable == "SPOOL_URL" and url.reveal().startswith("sqlite:")):
        return None
    return variable, url


def shared_state(settings: Mapping[str, Any]) -> SharedState | None:
    """What all proxies at one database know together, if there is one.

    One for each database in this process; it disconnects when nobody has it any more. Raises :class:`SettingsMistake`.
    """
    place = state_url(settings)
    if place is None:
        return None
    variable, url = place
    found = _states.get(url.fingerprint())
    if found is None:
        try:
            plugin = load(find(STATE, "postgresql"))
        except PluginError as error:
            raise SettingsMistake(f"{variable}: {error}") from None
        found = PluginContext("state.postgresql", settings).construct(plugin, variable, "postgresql")
        _states[url.fingerprint()] = found
    return found


_CIPHERS = (
    "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES"
    ":kRSA+AESGCM:kRSA+AES:!AESCCM:!aDSS"
)
"""Ciphers for TLS 1.2 with a backend, the best first. Some old servers on a firm's own premises have only those with
SHA-1, or only the last ones, without forward secrecy. Python's own choice depends on its version and build: one Python
would reach a server and another would not."""


_MAIL_CA_FILES = frozenset({"BACKEND_IMAP_CA_FILE", "BACKEND_SMTP_CA_FILE"})


class Common:
    """What the contexts of all accounts share: each plugin is looked up and loaded once, each CA file is read once.

    Looking plugins up reads the metadata of every installed package, and the system's CAs take 25 ms to read: done for
    each account, a start with many accounts would take minutes. It lives as long as one reading of the settings, so a
    reload sees new files and new plugins.
    """

    def __init__(self) -> None:
        self._available: dict[str, list[Found]] = {}
        self._loaded: dict[tuple[str, str], Any] = {}
        self._tls: dict[tuple[str, Path | None], ssl.SSLContext] = {}

    def plugin(self, group: str, name: str) -> Any:
        """The class of the plugin that is called so. Raises :class:`PluginError`."""
        if (group, name) not in self._loaded:
            if group not in self._available:
                self._available[group] = available(group)
            try:
                self._loaded[group, name] = load(find(group, name, self._available[group]))
            except PluginError as error:
                self._loaded[group, name] = error
        found = self._loaded[group, name]
        if isinstance(found, PluginError):
            raise PluginError(*found.args)
        return found

    def tls(self, variable: str, ca_file: Path | None) -> ssl.SSLContext:
        """See :meth:`PluginContext.tls`.

        Both mail backends share a context. That of another variable stays apart although it trusts the same CAs: an
        HTTP client sets its protocol (ALPN) in the context, and a mail server may refuse who offers that.
        """
        key = "mail" if variable in _MAIL_CA_FILES else variable, ca_file
        if key not in self._tls:
            self._tls[key] = _verifying(variable, ca_file)
        return self._tls[key]


def _verifying(variable: str, ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no PEM certificate"
        raise SettingsMistake(f"{variable}: can not read {str(ca_file)!r}: {reason}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # Name, chain and date are always verified. STRICT, a default of newer Pythons, also wants formal fields that a
    # firm's own CA may leave out.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@dataclass(frozen=True, slots=True)
class PluginContext:
    """See :class:`~legacy_email_proxy.contracts.Context`. ``name`` is ``kind.plugin``, for the logger and the folder.

    With several accounts ``account`` is added to it, so that no account reads another one's files. ``shared`` holds the
    credentials plugins that are made already, by name; all contexts of an account share it.
    """

    name: str
    settings: Mapping[str, Any]
    account: str = ""
    shared: dict[str, Credentials] = field(default_factory=dict)
    turns: dict[str, Turns] = field(default_factory=dict)
    """Account → when its last messages went out, where their rate is limited."""
    next_relays: list[Relay] = field(default_factory=list)
    """The relays that the plugin hands on to."""
    common: Common = field(default_factory=Common)
    """What the contexts of all accounts share."""

    def of(self, group: str, name: str) -> PluginContext:
        """A context of the same account for another plugin: that of this name in an entry-point group."""
        return replace(self, name=f"{group.rpartition('.')[2]}.{name.replace(':', '.')}", next_relays=[])

    @property
    def _own_name(self) -> str:
        return f"{self.name}.{self.account}" if self.account else self.name

    @property
    def logger(self) -> logging.Logger:
        """The plugin's own logger, below the project's."""
        return logging.getLogger(f"legacy_email_proxy.{self._own_name}")

    @property
    def state_dir(self) -> Path:
        """``STATE_DIR/kind.plugin`` or ``STATE_DIR/kind.plugin.account``, made on first use."""
        path: Path = self.settings["STATE_DIR"] / self._own_name
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.geteuid() == 0:
                # When root runs a command, the folder must belong to the service's user, who owns STATE_DIR.
                owner = path.parent.stat()
                os.chown(path, owner.st_uid, owner.st_gid)
        return path

    @property
    def shared_state(self) -> SharedState | None:
        """What all proxies at one database know together, if there is one."""
        return shared_state(self.settings)

    def tls(self, ca_file_variable: str) -> ssl.SSLContext:
        """A client context that verifies the server; there is no way to get one that does not."""
        return self.common.tls(ca_file_variable, self.settings[ca_file_variable])

    def credentials(self, variable: str) -> Credentials:
        """The credentials plugin that ``variable`` names, made when it is first asked for."""
        name: str = self.settings[variable]
        if name not in self.shared:
            self.shared[name] = self._named(CREDENTIALS, variable)
        return self.shared[name]

    def relay(self, variable: str) -> Relay:
        """A relay of the plugin that ``variable`` names, with the account's limit of messages per minute."""
        relay = self.rate_limited(self._named(RELAY, variable), math.inf)
        self.next_relays.append(relay)
        return relay

    def rate_limited(self, relay: Relay, patience_seconds: float = PATIENCE_SECONDS) -> Relay:
        """``relay`` with the account's limit of messages per minute, if there is one."""
        state = self.shared_state if self.settings["BACKEND_SMTP_MESSAGES_PER_MINUTE"] else None
        shared = None if state is None else SharedTurns(state, self.account)
        relay = rate_limited(relay, self.settings, patience_seconds, self.turns.get(self.account), shared)
        if isinstance(relay, RateLimitedRelay):
            self.turns[self.account] = relay.turns
        return relay

    def _named(self, group: str, variable: str) -> Any:
        name: str = self.settings[variable]
        try:
            plugin = self.common.plugin(group, name)
        except PluginError as error:
            raise SettingsMistake(f"{variable}: {error}") from None
        return self.of(group, name).construct(plugin, variable, name)

    def construct(self, plugin: Callable[[PluginContext], Any], variable: str, name: str) -> Any:
        """An instance of ``plugin`` with this context; ``variable`` named it so. Raises :class:`SettingsMistake`."""
        try:
            return plugin(self)
        except SettingsMistake:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise SettingsMistake(f"{variable}: plugin {name!r} can not be set up: {reason}") from error
