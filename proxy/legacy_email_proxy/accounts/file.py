"""The accounts file: TOML with ``[accounts.NAME]``, ``[users]`` and ``[[rules]]``, read whole, with all its mistakes.

The values of an account are kept as they were written. :mod:`.settings` makes settings of them later, when it is known
which plugins the account uses and which settings those declare. A mistake names its line, which tomllib does not tell;
:class:`Lines` finds it in the text.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..contracts import Setting, SettingsMistake
from ..relays.allow_list import Addresses
from ..settings import networks
from .rules import BOTH_LEGS, Leg, Rule
from .users import PasswordHash

__all__ = ("CONDITIONS", "AccountTable", "AccountsFile", "Lines", "line_in", "read_accounts")

T = TypeVar("T")

Key = tuple[str | int, ...]
"""The place of a value: names of tables and keys, and numbers in an array of tables."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TABLES = ("accounts", "users", "rules")
CONDITIONS = ("user", "network", "port", "sender", "recipient", "after_pop3_login_seconds")
"""The keys of a rule besides ``account`` and ``expect_seconds``."""
_KEYS = ("account", *CONDITIONS, "expect_seconds")

_HEADER = re.compile(r"\s*\[(\[?)([^\[\]]+)\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"\s*([^=#\[\]{},]+?)\s*=")


@dataclass(frozen=True, slots=True)
class AccountTable:
    """One ``[accounts.NAME]``: variable → value as TOML gave it, and ``file:line`` of the table and of each value."""

    name: str
    values: Mapping[str, Any]
    place: str
    places: Mapping[str, str]

    def only(self, settings: Iterable[Setting]) -> AccountTable:
        """The table with no values but those of these settings."""
        names = {f"{setting.name}{ending}" for setting in settings for ending in ("", "_FILE")}
        return replace(self, values={name: value for name, value in self.values.items() if name in names})


@dataclass(frozen=True, slots=True)
class AccountsFile:
    """The whole file and the mistakes in its form. Without mistakes every account and user that a rule names exists."""

    accounts: Mapping[str, AccountTable]
    users: Mapping[str, PasswordHash]
    rules: tuple[Rule, ...]
    mistakes: tuple[str, ...] = ()


def read_accounts(path: Path) -> AccountsFile:
    """Read and check the file; its mistakes are one ``file:line: …`` each.

    Raises :class:`SettingsMistake` for a file that can not be read at all.
    """
    # Here, as few have such a file.
    import tomllib

    try:
        # "-sig": some editors put a byte order mark in front.
        text = path.read_text(encoding="utf-8-sig")
        content = tomllib.loads(text)
    except OSError as error:
        raise SettingsMistake(f"ACCOUNTS_FILE: can not read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsMistake(f"ACCOUNTS_FILE: {str(path)!r} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        words, line = _syntax(str(error))
        raise SettingsMistake(f"{path}:{line or len(text.splitlines())}: {words}") from None
    except (ValueError, RecursionError):
        # What tomllib lets out: thousands of digits or of brackets in brackets, as in a file that is something else.
        raise SettingsMistake(f"ACCOUNTS_FILE: {str(path)!r}: a number too long, or tables nested too deep") from None
    reading = _Reading(path, Lines(text))
    found = reading.whole(content)
    return replace(found, mistakes=tuple(reading.mistakes))


def _syntax(message: str) -> tuple[str, int]:
    """tomllib's words, and the line that stands in them; 0 for the end of the file."""
    words, _, place = message.partition(" (at ")
    line = re.search(r"line (\d+)", place)
    return words[:1].lower() + words[1:], int(line[1]) if line else 0


class _Reading:
    """One reading of a file, with the mistakes so far."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self._path = path
        self._lines = lines
        self.mistakes: list[str] = []

    def place(self, *key: str | int) -> str:
        return f"{self._path}:{self._lines.of(*key)}"

    def wrong(self, key: Key, words: str) -> None:
        self.mistakes.append(f"{self.place(*key)}: {words}")

    def whole(self, content: Mapping[str, Any]) -> AccountsFile:
        for key in content:
            if key not in _TABLES:
                self.wrong((key,), f"{key}: no such table{_meant(key, _TABLES)}; there are {', '.join(_TABLES)}")
        accounts = self.accounts(content.get("accounts", {}))
        users = self.users(content.get("users", {}))
        rules = self.rules(content.get("rules", []), accounts, users)
        return AccountsFile(accounts, users, rules)

    def accounts(self, tables: Any) -> dict[str, AccountTable]:
        if not isinstance(tables, dict) or not tables:
            self.wrong(("accounts",), "no account; each one is a table [accounts.NAME]")
            return {}
        found = {}
        for name, values in tables.items():
            if not isinstance(values, dict):
                self.wrong(("accounts", name), f"accounts.{name}: must be a table, [accounts.{name}]")
                continue
            if not _NAME.fullmatch(name):
                self.wrong(("accounts", name), f"accounts.{name}: a name is made of letters, digits, - and _")
            places = {key: self.place("accounts", name, key) for key in values}
            found[name] = AccountTable(name, values, self.place("accounts", name), places)
        return found

    def users(self, table: Any) -> dict[str, PasswordHash]:
        if not isinstance(table, dict):
            self.wrong(("users",), "users: must be a table, [users], with name = hash")
            return {}
        found = {}
        for name, text in table.items():
            # Also if the hash is wrong, so that the rules which name this user are not reported too.
            found[name] = PasswordHash(b"", b"")
            try:
                found[name] = PasswordHash.parse(text if isinstance(text, str) else "")
            except ValueError as error:
                self.wrong(("users", name), f"users.{name}: {error}")
        return found

    def rules(self, tables: Any, accounts: Mapping[str, Any], users: Mapping[str, Any]) -> tuple[Rule, ...]:
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self.wrong(("rules",), "rules: each one is a table [[rules]]")
            return ()
        if not tables and accounts:
            self.wrong(("rules",), "no rule, so nobody gets an account; at least one [[rules]] with account = …")
        return tuple(self.rule(("rules", number), table, accounts, users) for number, table in enumerate(tables))

    def rule(self, key: Key, table: dict[str, Any], accounts: Mapping[str, Any], users: Mapping[str, Any]) -> Rule:
        for name in table:
            if name not in _KEYS:
                self.wrong((*key, name), f"{name}: no such key{_meant(name, _KEYS)}")
        expected = self.seconds(key, table, "expect_seconds")
        if expected is not None and "network" not in table:
            self.wrong((*key, "expect_seconds"), "expect_seconds: needs `network`, to know whose mail is expected")
        account = table.get("account", "")
        if "account" not in table and "after_pop3_login_seconds" not in table:
            self.wrong(key, "account: not set; say to which account this rule leads")
        elif "account" in table and (not isinstance(account, str) or account not in accounts):
            self.wrong((*key, "account"), f"account: there is no account {account!r}{_meant(str(account), accounts)}")
        named = self.texts(key, table, "user", frozenset)
        for user in sorted((named or frozenset()) - set(users)):
            self.wrong((*key, "user"), f"user: there is no user {user!r}{_meant(user, users)}")
        rule = Rule(
            account=str(account),
            place=self.place(*key),
            users=named or frozenset(),
            networks=self.texts(key, table, "network", lambda texts: networks(",".join(texts))) or (),
            ports=self.ports(key, table),
            senders=self.texts(key, table, "sender", Addresses.parse),
            recipients=self.texts(key, table, "recipient", Addresses.parse),
            within_seconds=self.seconds(key, table, "after_pop3_login_seconds"),
            expect_seconds=expected,
        )
        return replace(rule, legs=frozenset({Leg.SMTP}) if rule.of_envelope else BOTH_LEGS)

    def texts(self, key: Key, table: dict[str, Any], name: str, parse: Callable[[list[str]], T]) -> T | None:
        """A condition that is a text or a list of texts; ``None`` where it is not set, or wrong."""
        if name not in table:
            return None
        given = [table[name]] if isinstance(table[name], str) else table[name]
        if not isinstance(given, list) or not given or not all(isinstance(one, str) and one for one in given):
            self.wrong((*key, name), f"{name}: must be a text or a list of texts, not empty")
            return None
        try:
            return parse(given)
        except ValueError as error:
            self.wrong((*key, name), f"{name}: {str(error).removesuffix('.')}")
            return None

    def seconds(self, key: Key, table: dict[str, Any], name: str) -> float | None:
        given = table.get(name)
        if given is None or (isinstance(given, (int, float)) and not isinstance(given, bool) and given > 0):
            return given
        self.wrong((*key, name), f"{name}: must be a number above 0")
        return None

    def ports(self, key: Key, table: dict[str, Any]) -> frozenset[int]:
        if "port" not in table:
            return frozenset()
        given = table["port"] if isinstance(table["port"], list) else [table["port"]]
        if not given or not all(type(port) is int and 0 < port < 65536 for port in given):
            self.wrong((*key, "port"), "port: must be a number from 1 to 65535, or a list of them")
            return frozenset()
        return frozenset(given)


def _meant(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


class Lines:
    """Key → line, found in the text of a valid file by its table headers and by lines that begin with ``key =``.

    Keys in an inline table, or with a ``=`` in quotes, are not found; they get the line of the table around them.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Key, int] = {}
        table: Key = ()
        counted: Counter[Key] = Counter()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.fullmatch(line):
                table = _parts(f"[{header[2]}]")
                if header[1]:
                    counted[table] += 1
                    table = (*table, counted[table] - 1)
                for depth in range(1, len(table) + 1):
                    self._lines.setdefault(table[:depth], number)
            elif key := _KEY.match(line):
                parts = _parts(f"{key[1]} = 0")
                for depth in range(1, len(parts) + 1):
                    self._lines.setdefault((*table, *parts[:depth]), number)

    def of(self, *key: str | int) -> int:
        """The line of this key, or of the nearest table around it; 1 if there is none."""
        while key and key not in self._lines:
            key = key[:-1]
        return self._lines.get(key, 1)


def _parts(text: str) -> Key:
    """The parts of the one key in ``text``, without quotes; tomllib itself parses it."""
    import tomllib

    try:
        value: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return ()
    parts: list[str] = []
    while isinstance(value, dict) and value:
        [(part, value)] = value.items()
        parts.append(part)
    return tuple(parts)


def line_in(file: Path | None, mistake: str) -> int:
    """The line of the accounts file that the mistake is about; 0, which comes first, for one in the environment."""
    found = re.match(rf"{re.escape(str(file))}:(\d+): ", mistake)
    return int(found[1]) if found else 0
