"""The values of an account as a layer above the environment, and what an account does not inherit from there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ..contracts import Setting
from ..settings import ALIASES, PROCESS_WIDE, TYPES, Layer
from .file import AccountTable

__all__ = ("inherited", "overlay")

_LEGS = ("IMAP", "SMTP")

_CONSENT = frozenset({"OAUTH2_REFRESH_TOKEN", "OAUTH2_SUBJECT"})
"""What is good for one mailbox only."""
_APPLICATION = frozenset({"OAUTH2_CLIENT_SECRET", "OAUTH2_CLIENT_KEY", "OAUTH2_CLIENT_CERT", "OAUTH2_SERVICE_ACCOUNT"})
"""What proves an application to its provider; one application may be good for many mailboxes."""
_ANOTHER_APPLICATION = frozenset(
    {"PROVIDER", "OAUTH2_PROVIDER", "OAUTH2_TENANT", "OAUTH2_TOKEN_URL", "OAUTH2_CLIENT_ID"}
)
"""An account that sets one of these uses another application, or another provider, than the environment."""


def overlay(table: AccountTable, declared: Iterable[Setting]) -> tuple[Layer, list[str]]:
    """The account's values as texts, and the mistakes in them."""
    rows = {setting.name: setting for setting in declared}
    texts: dict[str, str] = {}
    mistakes = []
    for written, value in table.values.items():
        name = ALIASES.get(written, written)
        setting = rows.get(name) or rows.get(name.removesuffix("_FILE"))
        words = _mistake(name, value, setting, rows)
        if words:
            mistakes.append(f"{written}: {words}")
        else:
            texts[name] = _text(value)
    places = {ALIASES.get(written, written): place for written, place in table.places.items()}
    return Layer(texts, places), mistakes


def _mistake(name: str, value: Any, setting: Setting | None, rows: Mapping[str, Setting]) -> str:
    if setting is None:
        near = difflib.get_close_matches(name, [row for row in rows if row not in PROCESS_WIDE], n=1)
        return f"no such setting{f', did you mean {near[0]}?' if near else ''}"
    if setting.name in PROCESS_WIDE:
        return "is one for the whole process; set it in the environment"
    row = TYPES["text" if name != setting.name else setting.type]
    # bool is an int in Python, but `true` is no port.
    if not isinstance(value, row.toml) or (isinstance(value, bool) and bool not in row.toml):
        return f"must be {row.toml_words}"
    if isinstance(value, list) and not all(isinstance(one, str) for one in value):
        return f"must be {row.toml_words}"
    if not _text(value):
        return "is empty; remove it, or give it a value"
    return ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, list) else str(value)


def inherited(environ: Mapping[str, str], table: AccountTable) -> dict[str, str]:
    """The environment without the logins that are not this account's.

    An account that names a server does not inherit the environment's login, and one that names a user does not inherit
    its password: otherwise a secret would be sent to a server that must not know it. The same holds for OAuth2: the
    application's secrets do not go to another token endpoint, nor its tokens to another server. An account that names
    only a user may use the environment's application.
    """
    foreign: set[str] = set()
    given = {name.removesuffix("_FILE") for name in table.values}
    for leg in _LEGS:
        host, user, password = (f"BACKEND_{leg}_{what}" for what in ("HOST", "USER", "PASS"))
        if given & {host, "PROVIDER"}:
            foreign |= {user, password} | _CONSENT | _APPLICATION
        elif user in given:
            foreign |= {password} | _CONSENT
    if given & _ANOTHER_APPLICATION:
        foreign |= _CONSENT | _APPLICATION
    foreign -= given
    foreign |= {f"{name}_FILE" for name in foreign}
    return {name: text for name, text in environ.items() if name not in foreign}
