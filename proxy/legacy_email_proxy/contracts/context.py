"""What a plugin's constructor is given, everything that it may use of the core; and how it declares its settings."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from .credentials import Credentials
from .relay import Relay
from .state import SharedState

__all__ = ("BOUND", "Context", "Setting", "SettingType", "bound")

BOUND: ContextVar[Mapping[str, object] | None] = ContextVar("BOUND", default=None)
"""What :func:`bound` has set for the running task."""


@contextmanager
def bound(**facts: object) -> Iterator[None]:
    """Put these facts on every log line of the running task, and of the tasks and threads that it starts.

    An exception takes them along, for the line about the failure.

    A line about a session, a message or an account would otherwise have to be given their names at each call, and the
    lines of a library that knows neither would have none.
    """
    token = BOUND.set({**(BOUND.get() or {}), **facts})
    try:
        yield
    except Exception as error:
        # Most failures are logged where the facts are bound no longer.
        vars(error)["bound"] = {**facts, **vars(error).get("bound", {})}
        raise
    finally:
        # Left in another task than entered (a transaction of a stock aiosmtpd can be), there is nothing to set back.
        with suppress(ValueError):
            BOUND.reset(token)


class Context(Protocol):
    """Handed to a plugin's constructor."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Variable → value: every built-in setting, and those that the plugin declared. Unset ones are ``None``."""

    @property
    def account(self) -> str:
        """The account of ``ACCOUNTS_FILE`` that this instance belongs to; ``""`` for one of the whole process."""

    @property
    def logger(self) -> logging.Logger:
        """The plugin's own logger. Never log a message's content or a :class:`Secret`'s text."""

    @property
    def state_dir(self) -> Path:
        """A folder of the plugin's own under ``STATE_DIR``, made on first use, mode 0700."""

    @property
    def shared_state(self) -> SharedState | None:
        """What all proxies at one database know together; ``None`` for a proxy that has no such database. Ask for it in
        the constructor. Raises :class:`SettingsMistake`.
        """

    def tls(self, ca_file_variable: str) -> ssl.SSLContext:
        """A verifying client context (TLS 1.2 or newer, host names checked).

        It trusts the file that the named variable gives, or the system store when that is unset. Raises
        :class:`SettingsMistake` when the file can not be used.
        """

    def credentials(self, variable: str) -> Credentials:
        """The credentials plugin that the named variable names: one instance for all plugins of the account that name
        it. Call this in the constructor.

        The core closes it. Raises :class:`SettingsMistake` when it can't be loaded or constructed.
        """

    def relay(self, variable: str) -> Relay:
        """A relay of the plugin that the named variable names, made for the caller, who must close it. Call this in
        the constructor.

        If it has a ``start``, the caller calls that too (:class:`StartingRelay`). Raises :class:`SettingsMistake` when
        it can't be loaded or constructed.
        """


SettingType = Literal[
    "text", "secret", "document", "integer", "flag", "seconds", "days", "date", "path", "list", "networks"
]
"""``text`` str · ``secret`` :class:`Secret` · ``document`` a :class:`Secret` of several lines, like a key in PEM ·
``integer`` int · ``flag`` bool · ``seconds`` float · ``days`` str, a number or ``NEVER`` · ``date``
:class:`datetime.date` · ``path`` :class:`pathlib.Path` · ``list`` tuple of str, separated by commas · ``networks``
tuple of ``ipaddress`` networks."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable: its name, type, default and the sentence that documents it.

    ``default`` is written as the user would write it; ``None`` means that there is no value then. A plugin class may
    carry ``settings = (Setting(…), …)``: those variables are read, checked, listed by ``settings`` and handed to it in
    ``context.settings`` like the built-in ones, ``NAME_FILE`` included.
    """

    name: str
    type: SettingType
    default: str | None
    sentence: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
