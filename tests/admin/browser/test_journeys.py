"""What an operator does on the page: with a script, without one, and behind a reverse proxy below another path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from admin.browser.below import below
from admin.browser.world import PASSWORD, SECONDS, Operator, World, operator
from realservers.processes import wait_until

WAYS = ("script", "plain", "below")


@dataclass
class Scene:
    """One of the ways to the page, with devices and an account of its own."""

    way: str
    world: World
    operator: Operator

    @property
    def account(self) -> str:
        return f"cloud-{self.way}"

    @property
    def sender(self) -> str:
        return f"{self.account}@firm.example"

    @property
    def device(self) -> str:
        return f"127.0.1.{WAYS.index(self.way) + 1}"

    @property
    def has_script(self) -> bool:
        return self.way != "plain"


@pytest.fixture(params=WAYS)
def visitor(request: pytest.FixtureRequest, browser: Browser, world_behind: World) -> Iterator[Scene]:
    """Nobody has signed in yet."""
    way: str = request.param
    with ExitStack() as stack:
        root = stack.enter_context(below(world_behind.page)) if way == "below" else world_behind.page
        person = stack.enter_context(operator(browser, root, java_script_enabled=way != "plain"))
        yield Scene(way, world_behind, person)


@pytest.fixture
def scene(visitor: Scene) -> Scene:
    visitor.operator.open("signin")
    visitor.operator.sign_in()
    visitor.operator.sees_title("Overview")
    return visitor


def test_sign_in_and_out(visitor: Scene) -> None:
    me = visitor.operator
    me.open("messages?verdict=trouble")
    me.sees_title("Sign in")
    me.sign_in("wrong")
    expect(me.page.get_by_role("alert")).to_contain_text("The password is wrong.")
    me.sign_in()
    me.sees_title("Messages")
    assert me.page.get_by_label("Result").input_value() == "trouble"
    (cookie,) = me.page.context.cookies()
    assert (cookie.get("httpOnly"), cookie.get("sameSite"), cookie.get("secure")) == (True, "Strict", False)
    me.press("Sign out")
    me.sees("You have signed out.")
    me.open("spool")
    me.sees_title("Sign in")
    assert PASSWORD not in visitor.world.proxy.log


def test_a_consent_by_device_code(scene: Scene) -> None:
    me, tokens = scene.operator, scene.world.tokens
    me.open("accounts")
    me.follow(scene.account)
    me.press("Sign in")
    me.sees_title(f"Sign in for {scene.account}")
    code = me.page.locator(".code")
    expect(code).to_be_visible(timeout=1000 * SECONDS)
    assert me.page.get_by_role("link", name="Open the provider's page").get_attribute("href") == tokens.url("activate")
    tokens.answers[code.inner_text()] = True
    # The page looks again by itself, with and without a script.
    me.sees("Signed in")
    me.follow("To the account")
    me.sees("Has a token")
    me.sees("mail.send offline_access")
    assert tokens.access_tokens
    assert not [token for token in tokens.access_tokens if token in me.page.content() + scene.world.proxy.log]


def test_hold_release_and_drop(scene: Scene) -> None:
    me = scene.operator
    recipients = [f"{number}.{scene.way}@firm.example" for number in range(2)]
    for recipient in recipients:
        scene.world.send(scene.sender, recipient, device=scene.device)
    me.open("spool")
    me.page.get_by_label("Address contains").fill(f".{scene.way}@firm.example")
    me.press("Search")
    rows = me.page.locator("tbody tr")
    expect(rows).to_have_count(2)
    if scene.has_script:
        me.page.get_by_label("Choose all on this page").check()
    else:
        for box in me.page.get_by_role("checkbox").all():
            box.check()
    me.press("Hold")
    me.sees("2 messages are held until you release them.")
    expect(rows.get_by_text("Held", exact=True)).to_have_count(2)
    rows.nth(0).get_by_role("link").click()
    me.press("Release")
    me.sees("1 message was released.")
    expect(me.page.locator("main .row .state")).to_have_text("Waiting")
    me.press("Drop …")
    me.sees_title("Drop this message?")
    me.follow("Keep")
    expect(rows).to_have_count(2)
    rows.nth(0).get_by_role("checkbox").check()
    me.press("Drop …")
    me.sees(recipients[0])
    me.press("Drop for good")
    me.sees("1 message was dropped.")
    expect(rows).to_have_count(1)
    me.sees(recipients[1])
    assert [line for line in scene.world.proxy.lines("changed on the page") if "user=ann" in line]


def test_a_device_is_watched(scene: Scene) -> None:
    me = scene.operator
    me.open("devices")
    me.page.get_by_label("Address of a device").fill(scene.device)
    me.press("Show")
    me.sees_title(scene.device)
    me.follow("Watch it live")
    lines = me.page.get_by_role("log")
    if scene.has_script:
        me.sees("Watching.")
    else:
        me.follow("Show the lines without a script")
        lines = me.page.locator("body")
        expect(lines).to_contain_text(f"watching {scene.device}", timeout=1000 * SECONDS)
    scene.world.send(scene.sender, "watched@firm.example", device=scene.device, name="scanner-in-the-hall")
    for words in ("C: EHLO scanner-in-the-hall", "C: RCPT TO:<watched@firm.example>", "-- message spooled"):
        expect(lines).to_contain_text(words, timeout=1000 * SECONDS, ignore_case=True)
    assert "nobody's business" not in lines.inner_text()


def test_messages_are_found(scene: Scene) -> None:
    me, world = scene.operator, scene.world
    sought = f"sought-{scene.way}@example.test"
    world.send("scan@firm.example", sought, device=scene.device)
    wait_until(lambda: any(sought in line for line in world.proxy.lines("message delivered")), "it is sent", SECONDS)
    me.open("messages")

    # The history is written a little later.
    def found() -> bool:
        me.page.get_by_label("Recipient").fill(sought)
        me.press("Search")
        return me.page.locator("tbody tr").filter(has_text="delivered").count() == 1

    wait_until(found, "the page finds it", SECONDS)
    me.page.locator("tbody tr").get_by_role("link").first.click()
    me.sees("Message of scan@firm.example")
    me.sees("bytes queued as")
    me.open("messages")
    me.page.get_by_label("Recipient").fill("nobody-of-that-name@")
    me.press("Search")
    me.sees("Nothing fits")
    me.follow("Show everything")
    expect(me.page.locator("tbody tr").first).to_be_visible()
