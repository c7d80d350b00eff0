"""What the set-up knows so far: variables, accounts and rules, and what an import had to leave out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..settings import ALIASES, TABLE

__all__ = ("SETTINGS", "Draft", "account_name", "is_secret")

SETTINGS = {setting.name: setting for setting in TABLE}
_FROM_THE_ENVIRONMENT = ("STATE_DIR", "XDG_STATE_HOME")
"""All else comes from the file alone, as it will when the service is started with that file."""


def is_secret(variable: str) -> bool:
    """Whether the value must not be seen: it is kept in a file of its own, which the variable ``…_FILE`` names."""
    return variable in SETTINGS and SETTINGS[variable].type in ("secret", "document")


def account_name(address: str, taken: Iterable[str]) -> str:
    """A name for an account of the accounts file, made of its address."""
    base = re.sub(r"[^A-Za-z0-9_-]+", "-", address.partition("@")[0]).strip("-_")[:50] or "account"
    names, number = set(taken), 1
    while (name := base if number == 1 else f"{base}-{number}") in names:
        number += 1
    return name


@dataclass
class Draft:
    """``values``: variable → text of the env file. ``accounts``: the same for each account of the accounts file, which
    is written only if there are some. ``left_out`` has a sentence for each thing that was not taken over.
    """

    values: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, dict[str, str]] = field(default_factory=dict)
    rules: list[dict[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    set_by_hand: frozenset[str] = frozenset()
    """Variables that ``--set`` gave: nobody is asked for them."""

    def get(self, variable: str) -> str:
        """The value of a variable; ``""`` where it is not set. What is in a file counts as set, and is not shown."""
        alias = next((each for each, name in ALIASES.items() if name == variable), "")
        return self.values.get(variable) or self.values.get(alias, "")

    def has(self, variable: str) -> bool:
        """Whether it is set, or a file is named that holds it."""
        return bool(self.get(variable) or self.values.get(f"{variable}_FILE"))

    def put(self, variable: str, text: str) -> None:
        """Set it, in the place of a file; an empty text removes it."""
        self.drop(variable)
        if text:
            self.values[variable] = text

    def put_file(self, variable: str, path: str) -> None:
        """Name the file that holds it."""
        self.drop(variable)
        self.values[f"{variable}_FILE"] = path

    def drop(self, *variables: str) -> None:
        """Remove these, also where a file holds them."""
        for variable in variables:
            for name in (variable, *(alias for alias, meant in ALIASES.items() if meant == variable)):
                self.values.pop(name, None)
                self.values.pop(f"{name}_FILE", None)

    def drop_backends(self) -> None:
        """Remove what belongs to a provider: its servers, logins and tokens."""
        for name in list(self.values):
            if name.startswith(("BACKEND_", "OAUTH2_", "GRAPH_")) or name in ("PROVIDER", "SMTP_SENDER"):
                del self.values[name]

    def environment(self, **changes: str) -> dict[str, str]:
        """The variables that a service with this file would have, and ``changes``."""
        kept: Mapping[str, str] = {name: os.environ[name] for name in _FROM_THE_ENVIRONMENT if name in os.environ}
        return {**kept, **self.values, **changes}
