"""Tries the settings, plugins and backends, for the command ``check`` and for the operator's page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from ..build import Account, Composition
from ..contracts import Credentials, Filter, Finding, Level, Maildrop, Relay
from ..settings import doubts, unknown_variables

__all__ = ("PROBE_SECONDS", "Trial", "doubtful", "trials")

PROBE_SECONDS = 90.0
_CREDENTIALS = "credentials"


@dataclass(frozen=True, slots=True)
class Trial:
    """One plugin to try, ``None`` for a leg that is closed. ``leg`` is also ``credentials`` or ``filter``."""

    account: str
    leg: str
    plugin: str
    tried: Maildrop | Relay | Filter | Credentials | None

    @property
    def label(self) -> str:
        """The name by which the user knows it."""
        return " ".join(filter(None, (self.account, self.leg, self.plugin)))

    async def findings(self, *, close: bool = False) -> list[Finding]:
        """What its probe finds. ``close``: nobody else uses it, so it is closed then; credentials stay open for the
        legs.
        """
        if self.tried is None:
            return [Finding(Level.GOOD, "this leg is closed")]
        found = await _found(self.tried, close=close and self.leg != _CREDENTIALS)
        if self.leg == _CREDENTIALS:
            # Passwords have no findings, since the legs try them.
            return found
        # A plugin without findings is listed all the same, so that a filter which was forgotten is noticed.
        return found or [Finding(Level.GOOD, "loaded")]


def trials(accounts: Iterable[Account], filters: Mapping[str, Filter] | None = None) -> Iterator[Trial]:
    """All that is to be tried, in the order in which it is best tried: a token is fetched before the legs try it."""
    accounts = list(accounts)
    for account in accounts:
        for name, credentials in account.credentials.items():
            yield Trial(account.name, _CREDENTIALS, name, credentials)
    for account in accounts:
        yield Trial(account.name, "maildrop", account.settings["MAILDROP_PLUGIN"], account.maildrop)
        yield Trial(account.name, "relay", account.settings["RELAY_PLUGIN"], account.relay)
    for name, one in (filters or {}).items():
        yield Trial("", "filter", name, one)


def doubtful(composition: Composition, environ: Mapping[str, str]) -> Iterator[tuple[str, Finding]]:
    """Settings that can be read but look wrong, each with the account's name."""
    for variable, meant in unknown_variables(environ, composition.settings.declared):
        yield "", Finding(Level.WARNING, f"{variable} is not a setting", f"did you mean {meant}?")
    for account in composition.accounts:
        for doubt in doubts(account.settings):
            text = f"{doubt.variable}: {doubt.text}" if doubt.variable else doubt.text
            yield account.name, Finding(Level.WARNING, text, doubt.advice)


async def _found(plugin: Any, *, close: bool) -> list[Finding]:
    found: list[Finding] = []
    with anyio.move_on_after(PROBE_SECONDS) as scope:
        try:
            found = [*await plugin.probe()]
            if close:
                await plugin.aclose()
        except Exception as error:
            found.append(Finding(Level.BAD, f"the plugin's own probe failed: {type(error).__name__}: {error}"))
    if scope.cancelled_caught:
        found.append(Finding(Level.BAD, f"no answer within {PROBE_SECONDS:g} seconds", "is the host the right one?"))
    return found
