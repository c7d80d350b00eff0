"""Whoever can not see well, has no mouse or a small screen; and whoever guesses the password."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from admin.browser.world import ERP, PASSWORD, SCANNER, SECONDS, Operator, World, operator
from interop.proxy import running

MOST_TABS = 200
PAGES = (
    "overview",
    "overview?period=fortnight",
    "devices",
    "devices?address=scanner",
    f"devices/{SCANNER}",
    f"devices/{ERP}?maker=Toshiba",
    "devices/10.9.8.7",
    f"devices/{SCANNER}/trace",
    "messages",
    "messages?verdict=trouble",
    "messages?recipient=nobody-at-all",
    "messages/1",
    "messages/2",
    "spool",
    "spool?state=dead",
    "spool?address=nobody-at-all",
    "accounts",
    "accounts/of/office",
    "accounts/of/cloud-keys",
    "settings",
    "no-such-page",
)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_for_everybody(browser: Browser, world_behind: World, scheme: str, width: int) -> None:
    screen: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    found: list[str] = []
    with operator(browser, world_behind.page, **screen) as me:

        def look(name: str) -> None:
            for element in me.page.locator("details").all():
                element.evaluate("each => { each.open = true }")
            result = Axe().run(me.page)
            found.extend(
                f"{name}: {each['id']}: {each['help']}: {[node['html'] for node in each['nodes'][:3]]}"
                for each in result.response["violations"]
            )
            if (wide := me.page.evaluate("document.documentElement.scrollWidth")) > width:
                found.append(f"{name}: {wide} pixels wide")

        me.open("signin")
        look("signin")
        me.sign_in("wrong")
        look("signin after a wrong password")
        me.sign_in()
        for path in PAGES:
            me.open(path)
            look(path)
        me.open("spool")
        me.page.locator("tbody tr").first.get_by_role("link").click()
        look("a message of the spool")
        me.press("Drop …")
        look("the question before a drop")
        me.open("accounts/of/office")
        me.press("Check now")
        me.sees("All works.")
        look("a check")
        me.open("settings")
        me.press("Look for mistakes")
        look("settings that were checked")
        me.open("accounts/of/cloud-keys")
        me.page.get_by_role("button", name=re.compile("Sign in")).or_(
            me.page.get_by_role("link", name="Go on with the sign-in")
        ).click()
        expect(me.page.locator(".code")).to_be_visible(timeout=1000 * SECONDS)
        look("a consent")
    assert found == []


def focused(me: Operator) -> str:
    """The name of what has the focus."""
    words: str = me.page.evaluate(
        "() => { const e = document.activeElement;"
        " return (e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent || '').trim() }"
    )
    return words


def tab_to(me: Operator, name: str) -> None:
    for _ in range(MOST_TABS):
        me.page.keyboard.press("Tab")
        if focused(me) == name:
            return
    raise AssertionError(f"no way to {name!r} with the tabulator")


def test_the_keyboard_is_enough(browser: Browser, world_behind: World) -> None:
    with operator(browser, world_behind.page) as me:
        keys = me.page.keyboard
        me.open("signin")
        tab_to(me, "Password")
        keys.type(PASSWORD)
        keys.press("Enter")
        me.sees_title("Overview")
        tab_to(me, "Skip to the content")
        keys.press("Enter")
        assert me.page.evaluate("document.activeElement.id") == "content"
        me.open("overview")
        tab_to(me, "Spool")
        keys.press("Enter")
        me.sees_title("Spool")
        number = me.page.locator("tbody tr", has_text="cloud-keys@firm.example").get_by_role("link").inner_text()
        tab_to(me, f"Choose message {number}")
        keys.press("Space")
        tab_to(me, "Hold")
        keys.press("Enter")
        me.sees("1 message is held until you release it.")
        tab_to(me, number)
        keys.press("Enter")
        me.sees_title(f"Message {number}")
        tab_to(me, "Release")
        keys.press("Enter")
        me.sees("1 message was released.")
        me.open(f"devices/{SCANNER}/trace")
        tab_to(me, "The dialogue")


def test_whoever_guesses_the_password_is_slowed(browser: Browser) -> None:
    # Of its own: the limit would hold for the other tests' address too.
    closed = {"MAILDROP_PLUGIN": "none", "BACKEND_SMTP_HOST": "127.0.0.1", "BACKEND_SMTP_PORT": "1"}
    closed |= {"ADMIN_BIND_PORT": "0", "ADMIN_PASSWORD": PASSWORD}
    with running(closed) as proxy, operator(browser, "http://{}:{}/".format(*proxy.place("admin"))) as me:
        me.open("signin")
        me.page.evaluate(
            """() => {
                const csrf = document.querySelector("[name=csrf]").value;
                const guess = async (password) => {
                    const body = new URLSearchParams({ csrf, user: "eve", password });
                    const answer = await fetch("signin", { method: "POST", body });
                    if (answer.status !== 429) throw answer.status;
                };
                return Promise.any(Array.from({ length: 30 }, (_, number) => guess("guess " + number)));
            }"""
        )
        me.sign_in()
        expect(me.page.get_by_role("alert")).to_contain_text("There were too many wrong passwords.")
