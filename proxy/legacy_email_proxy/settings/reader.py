"""Reads settings from the environment: ``X`` or ``X_FILE``, empty is unset, all mistakes at once.

There are several layers, and the first of them that has a variable decides: an account of the accounts file, the
provider that this account names, the environment, the provider that the environment names, the built-in defaults.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environs
import marshmallow

from ..contracts import Setting, SettingType
from .providers import PROFILES
from .table import ALIASES, TABLE
from .types import TYPES

__all__ = ("Layer", "Settings", "quoted", "read", "unknown_variables")

_EXCLUSIVE = (
    ("BACKEND_IMAP_USE_SSL", "BACKEND_IMAP_USE_STARTTLS"),
    ("BACKEND_SMTP_USE_SSL", "BACKEND_SMTP_USE_TLS"),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """Variable → text, as the environment would hold it; ``origins``: variable → where it is from, in words."""

    texts: Mapping[str, str]
    origins: Mapping[str, str]


@dataclass(frozen=True)
class Settings(Mapping[str, Any]):
    """Variable → value, frozen. ``origins`` says of each where it came from, in words.

    A variable with a mistake has its default here and a line in ``mistakes``, so that the search for further mistakes
    can go on. With any mistake nothing may be served.
    """

    values_: Mapping[str, Any]
    origins: Mapping[str, str]
    declared: tuple[Setting, ...]
    mistakes: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        return self.values_[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)

    def unreported(self, lines: Iterable[str]) -> list[str]:
        """Without those about a variable that could not be read: ``mistakes`` has it, and "not set" would be wrong."""
        reported = {line.partition(":")[0].removesuffix("_FILE") for line in self.mistakes}
        return [line for line in lines if line.partition(":")[0] not in reported]


_ENVIRONMENT = "environment"
_BYTE_ORDER_MARK = "\ufeff"
# For a value of one line. A line end in it would end a command or a line of the log; the other control characters
# stand in no name of a device, server or file.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_DOCUMENT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# What Python makes of octets in the environment that are no UTF-8.
_NOT_UTF_8 = re.compile(r"[\ud800-\udfff]")


class _Environment(environs.Env):
    """environs over layers, in which an empty variable is unset and ``X_FILE`` names a file that holds X."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__(eager=False)
        self._layers = tuple(layers)
        self.origins: dict[str, str] = {}
        self.ranks: dict[str, int] = {}
        self.mistakes: list[str] = []
        for name, row in TYPES.items():
            if callable(row.parse):
                self.add_parser(_method(name), _collected(row.parse))

    def _get_value(self, env_key: str, default: Any) -> Any:
        names = (env_key, f"{env_key}_FILE")
        for rank, layer in enumerate(self._layers):  # noqa: B007 (both are used below)
            plain, file = (_without_what_editors_add(layer.texts.get(name, "")) for name in names)
            if plain or file:
                break
        else:
            return default
        if plain and file:
            self.mistakes.append(f"{env_key}: set twice, as {env_key} and as {env_key}_FILE; remove one of them")
        if file and not plain:
            try:
                plain = _without_what_editors_add(Path(file).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                # A NUL in the file's name is a ValueError, too.
                not_text = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
                reason = error.strerror if isinstance(error, OSError) else not_text
                self.mistakes.append(f"{env_key}_FILE: can not read {file!r}: {reason}")
                return default
        if not plain:
            return default
        self.origins[env_key] = f"file {file}" if file else layer.origins.get(env_key, _ENVIRONMENT)
        self.ranks[env_key] = rank
        return plain


def _without_what_editors_add(text: str) -> str:
    """``text`` without the byte order mark in front and the line ends behind it.

    Windows' editors write the mark, and CR LF in an env file; editors and ``echo`` end a file with line ends. Anything
    else may be part of a password.
    """
    return text.removeprefix(_BYTE_ORDER_MARK).rstrip("\r\n")


def _method(name: SettingType) -> str:
    """The method of environs that reads a type. Those that we add end in ``_``, to replace none of its own."""
    parse = TYPES[name].parse
    return parse if isinstance(parse, str) else f"{name}_"


def _collected(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """``parse`` with errors of environs' own kind, as it collects no others."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise environs.EnvError(str(error)) from None

    return parsed


def _state_dir(environ: Mapping[str, str]) -> Path:
    if given := environ.get("STATE_DIRECTORY"):
        # systemd's StateDirectory= may name several.
        return Path(given.partition(":")[0])
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(f"{base}/legacy-email-proxy").expanduser()


def _unfit(setting: Setting, text: str) -> str:
    """What is wrong with ``text`` for a setting of this type, if anything. It may be a secret, so it is not shown."""
    if _NOT_UTF_8.search(text):
        return "it is not UTF-8 text"
    found = (_CONTROL_IN_DOCUMENT if setting.type == "document" else _CONTROL).search(text)
    if not found:
        return ""
    place = f"(U+{ord(found[0]):04X}, character {found.start() + 1})"
    if found[0] == "\r":
        return f"there is a carriage return in it {place}, as in files from another system; write it anew"
    return f"there is a control character in it {place}; write it anew"


def _validators(setting: Setting) -> list[marshmallow.validate.Validator]:
    found: list[marshmallow.validate.Validator] = []
    if setting.choices:
        found.append(marshmallow.validate.OneOf(setting.choices, error="Must be one of: {choices}."))
    if setting.minimum is not None or setting.maximum is not None:
        found.append(marshmallow.validate.Range(min=setting.minimum, max=setting.maximum))
    return found


def _layers(environ: Mapping[str, str], account: Layer | None) -> list[Layer]:
    """The layers above the built-in defaults, highest first."""
    # A byte order mark in front of an env file comes as a part of the first name.
    texts = {name.removeprefix(_BYTE_ORDER_MARK): text for name, text in environ.items()} | _credentials(environ)
    environment = Layer(_by_their_names(texts), {})
    if account is None:
        return [environment, *_profile(environment)]
    # The provider that an account names goes before the environment: its mail must not go to the environment's host.
    own = _profile(account)
    return [account, *own, environment] if own else [account, environment, *_profile(environment)]


def _credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """The files that systemd (``LoadCredential=``) or a container's engine (secrets) puts into one folder, each named
    after a variable: its value is in the file, or, where the variable names a file, it is that file.

    The service's user may read these and no other copies, so they go before ``X_FILE``.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    try:
        paths = [path for path in Path(folder).iterdir() if _VARIABLE.fullmatch(path.name)] if folder else []
    except OSError:
        # One that is there and can not be read is told of in `_contradictions`.
        return {}
    return {path.name if path.name.endswith("_FILE") else f"{path.name}_FILE": str(path) for path in paths}


def _by_their_names(texts: dict[str, str]) -> dict[str, str]:
    """``texts`` with the aliases replaced by the names that they stand for, where those are not set themselves."""
    for alias, name in ALIASES.items():
        for ending in ("", "_FILE"):
            if text := texts.get(f"{alias}{ending}"):
                texts[f"{name}{ending}"] = texts.get(f"{name}{ending}") or text
    return texts


def _contradictions(environ: Mapping[str, str]) -> Iterator[str]:
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):  # noqa: PTH112 (nothing to construct)
        yield f"CREDENTIALS_DIRECTORY: can not read {folder!r}, where secrets may be: Permission denied"
    for alias, name in ALIASES.items():
        given = {text for each in (alias, name) if (text := environ.get(each))}
        if len(given) > 1:
            yield f"{name}: {alias} means the same and is set to something else; remove one of them"


def _profile(layer: Layer) -> list[Layer]:
    # A wrong name is reported when PROVIDER itself is read.
    name = _Environment([layer])._get_value("PROVIDER", None)
    if name not in PROFILES:
        return []
    texts = PROFILES[name]
    return [Layer(texts, dict.fromkeys(texts, f"profile {name}"))]


def read(
    environ: Mapping[str, str] | None = None, declared: Iterable[Setting] = TABLE, account: Layer | None = None
) -> Settings:
    """Read every declared variable. Each mistake is one line; a secret's value is in none of them."""
    environ = os.environ if environ is None else environ
    declared = tuple(declared)
    layers = _layers(environ, account)
    env = _Environment(layers)
    # Looking for what is in no layer would take most of a start with a thousand accounts.
    given = set().union(*(layer.texts for layer in layers))
    named = given | {name.removesuffix("_FILE") for name in given}
    values: dict[str, Any] = {}
    for setting in declared:
        values[setting.name] = _default(setting) if setting.name != "STATE_DIR" else _state_dir(environ)
        if setting.name in named and env._get_from_environ(setting.name, None)[1] is not None:
            unfit = _unfit(setting, env._get_value(setting.name, ""))
            if unfit:
                env.mistakes.append(f"{setting.name}: {unfit}")
                continue
            # Our own parsers need no validators: they check while they parse.
            checks = {} if callable(TYPES[setting.type].parse) else {"validate": _validators(setting)}
            parsed = getattr(env, _method(setting.type))(setting.name, **checks)
            values[setting.name] = values[setting.name] if parsed is None else parsed
    origins = {setting.name: env.origins.get(setting.name, "default") for setting in declared}
    mistakes = [*dict.fromkeys(env.mistakes), *_rejected(env, declared), *_contradictions(environ)]
    for implicit, upgrade in _EXCLUSIVE:
        if implicit in values and values[implicit] and values[upgrade]:
            # Above any layer's number, because the defaults are the last layer.
            first, second = (env.ranks.get(name, 1 << 8) for name in (implicit, upgrade))
            if first == second:
                mistakes.append(
                    f"{upgrade}: {implicit} and {upgrade} are both true, but a connection starts either with TLS or in"
                    f" the clear; keep {implicit} for ports 465 and 993, {upgrade} for 587 and 143"
                )
                continue
            lower, higher = (implicit, upgrade) if first > second else (upgrade, implicit)
            values[lower], origins[lower] = False, f"because of {higher}"
    return Settings(values, origins, declared, tuple(mistakes))


def _rejected(env: _Environment, declared: Iterable[Setting]) -> Iterator[str]:
    """The values that environs rejected, one line for each mistake."""
    secret = {setting.name for setting in declared if setting.type in ("secret", "document")}
    try:
        env.seal()
    except environs.EnvValidationError as error:
        rejected: Mapping[str, list[str]] = error.error_messages  # type: ignore[assignment]
        for name, messages in rejected.items():
            text = env._get_value(name, "")
            given = "" if name in secret else f" (given: {text!r})"
            if quoted(text):
                given += "; the quotes are a part of the value, remove them"
            yield from (f"{name}: {_words(str(message))}{given}" for message in messages)


@functools.cache
def _default(setting: Setting) -> Any:
    """Its value; kept, because each account of an accounts file has a hundred of them."""
    if setting.default is None:
        return None
    return getattr(_Environment([Layer({setting.name: setting.default}, {})]), _method(setting.type))(setting.name)


def quoted(text: str) -> bool:
    """Whether the value stands in quotes: a shell takes them away, podman and docker leave them in the value."""
    return len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"


def _words(message: str) -> str:
    message = message.rstrip(".")
    return message[:1].lower() + message[1:]


def unknown_variables(environ: Mapping[str, str], declared: Iterable[Setting] = TABLE) -> list[tuple[str, str]]:
    """Variables that look like ours but are not: each with the name that was probably meant."""
    names = [setting.name for setting in declared]
    known = {f"{name}{ending}" for name in (*names, *ALIASES) for ending in ("", "_FILE")}
    found = []
    for variable in sorted(name.removeprefix(_BYTE_ORDER_MARK) for name in environ):
        if variable in known:
            continue
        stem = variable.removesuffix("_FILE")
        # With a lower cutoff other programs' variables, such as MAILDIR or SMTP_PORT, would be reported.
        near = difflib.get_close_matches(stem, names, n=1, cutoff=0.85)
        if near or stem.startswith(("BACKEND_IMAP_", "BACKEND_SMTP_", "OAUTH2_")):
            near = near or difflib.get_close_matches(stem, names, n=1, cutoff=0)
            found.append((variable, near[0] + variable.removeprefix(stem)))
    return found
