"""The settings in effect with their origin, the mistakes that a start or a reload would find now, and the reload."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...build import Composition, compose
from ...contracts import Finding, SettingsMistake
from ...settings import Settings, shown
from ..checking import doubtful
from .forms import Form
from .site import Site, visitor_of

__all__ = ("NAME", "routes")

NAME = "settings"

_CLOSING_SECONDS = 5.0
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_DEFAULT = "default"


def routes(site: Site) -> list[Route]:
    """The settings, and what can be done with them."""
    pages = _SettingsPages(site)
    return [
        site.get("/settings", pages.settings),
        site.post("/settings/check", pages.check),
        site.post("/settings/reload", pages.reload),
    ]


@dataclass(frozen=True)
class _Row:
    """A setting as the reader sees it: a secret's value is hidden."""

    name: str
    value: str
    origin: str
    sentence: str


class _SettingsPages:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._turn = asyncio.Lock()

    async def settings(self, request: Request) -> Response:
        return self._page(request)

    def _page(self, request: Request, status: int = 200, **result: Any) -> Response:
        composition = self._site.sources.composition
        rows = _rows(composition.settings)
        accounts = {
            account.name: _rows(account.settings, unlike=composition.settings)
            for account in composition.accounts
            if account.name
        }
        common = {"mistakes": (), "doubts": (), "checked": False, "reloaded": True, **result}
        return self._site.render(
            request, "settings.html", status, given=[row for row in rows if row.origin != _DEFAULT],
            defaults=[row for row in rows if row.origin == _DEFAULT], accounts=accounts, **common,
        )  # fmt: skip

    async def check(self, request: Request, form: Form) -> Response:
        """What is wrong in the environment and the files as they are now; nothing of it is used."""
        async with self._turn:
            mistakes, found = await anyio.to_thread.run_sync(_tried)
            if found is None:
                return self._page(request, mistakes=mistakes, checked=True)
            told = await anyio.to_thread.run_sync(_doubts, found)
            await _close(found)
        return self._page(request, doubts=told, checked=True)

    async def reload(self, request: Request, form: Form) -> Response:
        reload, visitor = self._site.sources.reload, visitor_of(request)
        mistakes = ["this service can not read its settings anew"] if reload is None else await reload()
        visitor.changed("reload", result="not reloaded" if mistakes else "reloaded")
        if mistakes:
            return self._page(request, mistakes=mistakes, reloaded=False)
        return self._site.redirect(request, "settings", done="settings_reloaded")


def _rows(settings: Settings, unlike: Settings | None = None) -> list[_Row]:
    """All of them, or those that come from elsewhere than in ``unlike``."""
    return [
        _Row(each.name, shown(each, settings[each.name]), settings.origins[each.name], _plain(each.sentence))
        for each in settings.declared
        if unlike is None or settings.origins[each.name] != unlike.origins.get(each.name)
    ]


def _plain(sentence: str) -> str:
    """A sentence of the settings' table, which is written in Markdown."""
    return _LINK.sub(r"\1", sentence).replace("`", "")


def _tried() -> tuple[Sequence[str], Composition | None]:
    try:
        return (), compose()
    except SettingsMistake as mistake:
        return mistake.lines, None


def _doubts(composition: Composition) -> list[tuple[str, Finding]]:
    return list(doubtful(composition, os.environ))


async def _close(composition: Composition) -> None:
    """Nothing of it was started, but a plugin may have made something all the same."""
    filters: Mapping[str, Any] = composition.filters
    plugins: Iterable[Any] = (composition.maildrop, composition.relay, *filters.values(), *composition.credentials)
    for plugin in plugins:
        with suppress(Exception), anyio.move_on_after(_CLOSING_SECONDS):
            if plugin is not None:
                await plugin.aclose()
