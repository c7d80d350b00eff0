"""The accounts: how both legs and the tokens are, sign in for one that needs a consent, and try one at a click."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...build import NEXT_RELAY, NONE, Account
from ...contracts import Authorizable, Failure, Figure, Level, Maildrop, Relay, TokenStatus
from ...relays.wrapper import figures
from ..checking import trials
from ..outcomes import Backend, Outcome
from ..sign_ins import SignIn
from .forms import Form
from .site import Site, query_of, visitor_of

__all__ = ("NAME", "routes")

NAME = "accounts"

ONLY_ACCOUNT = "default"
"""How the account is called where there is no ACCOUNTS_FILE."""
_MOST_CONNECTIONS = {
    "imap": "BACKEND_IMAP_MAX_CONNECTIONS",
    "smtps": "BACKEND_SMTP_MAX_CONNECTIONS",
    "graph": "GRAPH_MAX_REQUESTS",
}
"""Plugin → the setting that limits its connections."""
_TOKEN_SECONDS = 5.0
_MARK = "\ufdd0"
"""A character that stands in no text: where the lines of a check go into its page."""


def routes(site: Site) -> list[Route]:
    """All accounts, one of them, its sign-in and its check."""
    pages = _AccountPages(site)
    return [
        site.get("/accounts", pages.listing),
        site.get("/accounts/consent", pages.consent, public=True),
        site.get("/accounts/of/{name}", pages.account),
        site.post("/accounts/of/{name}/check", pages.check),
        site.get("/accounts/of/{name}/sign-in/{plugin}", pages.sign_in),
        site.post("/accounts/of/{name}/sign-in/{plugin}", pages.begin),
        site.post("/accounts/of/{name}/sign-in/{plugin}/answer", pages.answer),
        site.post("/accounts/of/{name}/sign-in/{plugin}/stop", pages.stop),
    ]


@dataclass(frozen=True)
class _Leg:
    """One leg of an account as it is now. ``last`` is what last became of the backend."""

    name: str
    plugin: str
    last: Outcome | None = None
    worked: float | None = None
    told: Mapping[str, float] = field(default_factory=dict)
    most_connections: int | None = None

    @property
    def closed(self) -> bool:
        return self.plugin == NONE


@dataclass(frozen=True)
class _Token:
    plugin: str
    status: TokenStatus
    asks: bool
    """Whether somebody's consent can be given here."""


@dataclass(frozen=True)
class _Standing:
    """What is known of an account without asking anybody."""

    name: str
    legs: Sequence[_Leg]
    tokens: Sequence[_Token]
    per_minute: int | None
    in_last_minute: int

    @property
    def shown_name(self) -> str:
        return self.name or ONLY_ACCOUNT


class _AccountPages:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._checking: set[str] = set()

    # Showing

    async def listing(self, request: Request) -> Response:
        accounts = self._site.sources.composition.accounts
        found = await asyncio.gather(*map(self._standing, accounts))
        return self._site.render(request, "accounts.html", accounts=found)

    async def account(self, request: Request) -> Response:
        account = self._named(request)
        standing = await self._standing(account)
        signing = {each.plugin: self._site.sources.sign_ins.of(account.name, each.plugin) for each in standing.tokens}
        return self._site.render(request, "account.html", account=standing, signing=signing)

    def _named(self, request: Request) -> Account:
        name = request.path_params["name"]
        for account in self._site.sources.composition.accounts:
            if name == (account.name or ONLY_ACCOUNT):
                return account
        raise HTTPException(404)

    async def _standing(self, account: Account) -> _Standing:
        settings = account.settings
        legs, tokens = await asyncio.gather(
            asyncio.gather(
                self._leg(account, "pop3", settings["MAILDROP_PLUGIN"], account.maildrop),
                self._leg(account, "smtp", settings["RELAY_PLUGIN"], account.relay),
            ),
            asyncio.gather(*(_token(name, each) for name, each in account.credentials.items() if _has_token(each))),
        )
        turns = self._site.sources.composition.turns.get(account.name, ())
        lately = sum(turn > time.monotonic() - 60 for turn in turns)
        return _Standing(account.name, legs, tokens, settings["BACKEND_SMTP_MESSAGES_PER_MINUTE"], lately)

    async def _leg(self, account: Account, leg: str, plugin: str, made: Maildrop | Relay | None) -> _Leg:
        if made is None:
            return _Leg(leg, NONE)
        outcomes, backend = self._site.sources.outcomes, Backend(account.name, leg)
        behind = account.settings[NEXT_RELAY[plugin]] if plugin in NEXT_RELAY else plugin
        most = account.settings[_MOST_CONNECTIONS[behind]] if behind in _MOST_CONNECTIONS else None
        return _Leg(leg, plugin, outcomes.last(backend), outcomes.successes.get(backend), await _told(made), most)

    # Trying

    async def check(self, request: Request, form: Form) -> Response:
        """The findings, each as soon as it is there: the browser shows what has come so far."""
        account = self._named(request)
        page = self._site.render(request, "account_check.html", account=account.name or ONLY_ACCOUNT, mark=_MARK)
        before, after = bytes(page.body).decode().split(_MARK)
        visitor_of(request).changed("check", account=account.name or ONLY_ACCOUNT)
        return self._site.stream(request, self._checked(account.name, before, after), "text/html")

    async def _checked(self, name: str, before: str, after: str) -> AsyncGenerator[str, None]:
        def line(**values: Any) -> str:
            return self._site.templates.html("account_check_line.html", values)

        yield before
        if name in self._checking:
            yield line(kind="busy") + after
            return
        current = self._site.sources.current
        used = current.acquire()
        self._checking.add(name)
        bad = 0
        try:
            for trial in trials([each for each in used.composition.accounts if each.name == name]):
                yield line(kind="trying", label=f"{trial.leg} {trial.plugin}")
                for finding in await trial.findings():
                    bad += finding.level is Level.BAD
                    yield line(kind="finding", finding=finding, level=finding.level.name)
        finally:
            self._checking.discard(name)
            current.release(used)
        yield line(kind="end", bad=bad) + after

    # Signing in

    def _sign_in(self, request: Request) -> SignIn | None:
        return self._site.sources.sign_ins.of(self._named(request).name, request.path_params["plugin"])

    async def sign_in(self, request: Request) -> Response:
        found = self._sign_in(request)
        if found is None:
            raise HTTPException(404)
        name = request.path_params["name"]
        redirect = self._named(request).settings["OAUTH2_REDIRECT_URL"]
        return self._site.render(
            request, "account_sign_in.html", account=name, sign_in=found,
            returns=redirect.endswith("/accounts/consent"), wrong=query_of(request).get("wrong") == "yes",
        )  # fmt: skip

    async def begin(self, request: Request, form: Form) -> Response:
        account, plugin = self._named(request), request.path_params["plugin"]
        visitor, name = visitor_of(request), account.name or ONLY_ACCOUNT
        sources = self._site.sources
        if not hasattr(account.credentials.get(plugin), "authorize"):
            raise HTTPException(404)
        try:
            sources.sign_ins.begin(
                sources.current, account.name, plugin, lambda: visitor.changed("signed in", account=name)
            )
        except Failure:
            raise HTTPException(503) from None
        visitor.changed("sign-in begun", account=name)
        return self._back(request)

    async def answer(self, request: Request, form: Form) -> Response:
        found = self._sign_in(request)
        if found is None:
            raise HTTPException(404)
        if not form.get("answer"):
            return self._back(request, wrong="yes")
        found.answer(form.get("answer"))
        return self._back(request)

    async def stop(self, request: Request, form: Form) -> Response:
        found = self._sign_in(request)
        if found is None:
            raise HTTPException(404)
        self._site.sources.sign_ins.stop(found)
        visitor_of(request).changed("sign-in stopped", account=found.account or ONLY_ACCOUNT)
        return self._back(request)

    def _back(self, request: Request, **values: object) -> Response:
        name, plugin = request.path_params["name"], request.path_params["plugin"]
        return self._site.redirect(request, f"accounts/of/{name}/sign-in/{plugin}", **values)

    async def consent(self, request: Request) -> Response:
        """Where the provider sends the browser with the consent.

        The browser comes from another site, so it sends no cookie. That it belongs to a sign-in which was begun here
        is shown by its ``state``. No new cookie goes back: it would take the place of the operator's own.
        """
        request.state.new_cookie = None
        query = request.scope["query_string"].decode("ascii", "replace")
        found = self._site.sources.sign_ins.redirected(query)
        back = None if found is None else f"accounts/of/{found.account or ONLY_ACCOUNT}/sign-in/{found.plugin}"
        return self._site.render(request, "account_consent.html", 200 if back else 400, back=back)


def _has_token(credentials: object) -> bool:
    return hasattr(credentials, "status")


async def _token(name: str, credentials: object) -> _Token:
    try:
        async with asyncio.timeout(_TOKEN_SECONDS):
            status = await cast(Authorizable, credentials).status()
    except Exception as error:
        known = isinstance(error, Failure)
        status = TokenStatus("", error=str(error) if known else f"it can not be told: {type(error).__name__}")
    return _Token(name, status, status.grant in ("device_code", "authorization_code"))


async def _told(plugin: Maildrop | Relay) -> Mapping[str, float]:
    """The plugin's figures by name, and by name and state; none where it tells none now."""
    try:
        found: Sequence[Figure] = await figures(plugin)
    except Exception:
        return {}
    return {
        " ".join((one.name, *one.labels.values())): one.value for one in found if not math.isinf(one.value)
    }  # fmt: skip
