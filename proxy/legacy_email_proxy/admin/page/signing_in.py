"""Signing in with ``ADMIN_PASSWORD``, and out again."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...contracts import Login, LoginRefused, LoginsLimited, Secret
from .forms import Form
from .site import Site, query_of, visitor_of

__all__ = ("routes",)

_NAME_CHARACTERS = 60


def routes(site: Site) -> list[Route]:
    """The form, what takes it, and the way out."""
    pages = _SigningIn(site)
    return [
        site.get("/signin", pages.form, public=True),
        site.post("/signin", pages.sign_in, public=True),
        site.post("/signout", pages.sign_out),
    ]


class _SigningIn:
    def __init__(self, site: Site) -> None:
        self._site = site

    async def form(self, request: Request) -> Response:
        if visitor_of(request).signed_in:
            return self._site.redirect(request, "overview")
        return self._form(request, wish=query_of(request).get("next"))

    def _form(self, request: Request, status: int = 200, **values: Any) -> Response:
        return self._site.render(request, "signin.html", status, **{"wish": "", "trouble": "", "user": "", **values})

    async def sign_in(self, request: Request, form: Form) -> Response:
        site, visitor = self._site, visitor_of(request)
        wish, password = form.get("next"), Secret(form.exact("password"))
        name = "".join(each for each in form.get("user") if each.isprintable())[:_NAME_CHARACTERS]
        try:
            await site.password.prove(Login(name, password), visitor.address)
        except LoginRefused:
            return self._form(request, 401, wish=wish, trouble="wrong", user=name)
        except LoginsLimited:
            return self._form(request, 429, wish=wish, trouble="limited", user=name)
        # Behind "./" whatever stands there is a page of ours.
        response = site.redirect(request, wish.lstrip("/") or "overview")
        site.set_cookie(request, response, site.sessions.begin(name or "admin", password))
        return response

    async def sign_out(self, request: Request, form: Form) -> Response:
        identifier = self._site.cookie_of(request)
        if identifier is not None:
            self._site.sessions.end(identifier)
        return self._site.redirect(request, "signin", done="signed_out")
