"""Who may see the page, what a browser may do with it, and what another site's page can not do."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest

from admin.page.support import PASSWORD, browsing, token_in, words
from admin.support import composition
from legacy_email_proxy import log
from legacy_email_proxy.admin.page import visitors
from legacy_email_proxy.admin.page.application import SECTIONS
from legacy_email_proxy.admin.page.visitors import Sessions
from legacy_email_proxy.contracts import Secret

PATHS = ["overview", "devices", "devices/192.168.1.40", "devices/192.168.1.40/trace", "messages", "nothing", "signin"]


@pytest.mark.parametrize("path", [*PATHS, "static/style.css", "", "signout"])
async def test_headers_of_every_answer(tmp_path: Path, path: str) -> None:
    async with browsing(tmp_path) as browser:
        answer = await browser.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", PATHS)
async def test_no_script_and_no_style_stands_in_a_page(tmp_path: Path, path: str) -> None:
    async with browsing(tmp_path) as browser:
        html = (await browser.get(path)).text
    assert " style=" not in html
    assert "<style" not in html
    assert not re.search(r"<[^>]* on[a-z]+=", html)
    assert "<script>" not in html
    assert "//" not in html.replace("<!doctype html>", "")  # nothing comes from another host


async def test_the_first_page_is_the_overview(tmp_path: Path) -> None:
    async with browsing(tmp_path) as browser:
        answer = await browser.get("")
        assert (answer.status_code, answer.headers["location"]) == (303, "./overview")


@pytest.mark.parametrize(
    ("path", "root"), [("overview", "./"), ("devices/192.168.1.40", "../"), ("devices/fe80%3A%3A1/trace", "../../")]
)
async def test_links_are_relative(tmp_path: Path, path: str, root: str) -> None:
    async with browsing(tmp_path) as browser:
        html = (await browser.get(path)).text
    assert f'href="{root}static/style.css"' in html
    assert 'href="/' not in html
    assert 'action="/' not in html


async def test_errors_say_what_to_do(tmp_path: Path) -> None:
    async with browsing(tmp_path) as browser:
        missing = await browser.get("nothing")
        wrong = await browser.get("signout")
    assert missing.status_code == 404
    assert "To the overview" in words(missing.text)
    assert wrong.status_code == 405
    assert "for forms only" in words(wrong.text)


async def test_a_page_that_fails_says_so_and_not_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with browsing(tmp_path) as browser:
        monkeypatch.setattr("legacy_email_proxy.admin.page.overview.drawn", lambda *_: 1 / 0)
        (tmp_path / "history.db").write_bytes(b"")
        monkeypatch.setattr("legacy_email_proxy.admin.page.overview.shown", lambda _: 1 / 0)
        monkeypatch.setattr("legacy_email_proxy.admin.page.overview._verdict", lambda _: 1 / 0)
        answer = await browser.get("overview")
    assert answer.status_code == 500
    assert "The mail goes on" in words(answer.text)
    assert "division" not in answer.text
    assert "a page failed" in caplog.text


# Without a password


@pytest.mark.parametrize("host", ["127.0.0.1:9425", "localhost", "LOCALHOST:1", "[::1]:9425", "mail.localhost:9425"])
async def test_names_of_this_machine(tmp_path: Path, host: str) -> None:
    async with browsing(tmp_path) as browser:
        assert (await browser.get("overview", Host=host)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.1.10:9425", "", "127.0.0.1.evil"])
async def test_a_name_that_leads_to_the_loopback_is_refused(tmp_path: Path, host: str) -> None:
    """DNS rebinding: a page of somebody else in the operator's browser."""
    async with browsing(tmp_path) as browser:
        answer = await browser.get("overview", Host=host)
        assert answer.status_code == 421
        assert "ADMIN_PASSWORD" in words(answer.text)
        assert "set-cookie" not in answer.headers
        assert (await browser.get("static/style.css", Host=host)).status_code == 421


async def test_with_a_password_any_name_will_do(tmp_path: Path) -> None:
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        assert (await browser.get("signin", Host="proxy.firm.example")).status_code == 200


# Cookies and forms


async def test_the_cookie(tmp_path: Path) -> None:
    async with browsing(tmp_path) as browser:
        cookie = (await browser.get("overview")).headers["set-cookie"]
        assert cookie.startswith("legacy-email-proxy-9425=")
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        assert "set-cookie" not in (await browser.get("overview")).headers
    async with browsing(tmp_path, host="https://localhost:9425") as browser:
        assert "; Secure" in (await browser.get("overview")).headers["set-cookie"]
    async with browsing(tmp_path) as browser:
        answer = await browser.get("overview", **{"X-Forwarded-Proto": "https"})
        assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("token", "headers"),
    [
        ("right", {"Sec-Fetch-Site": "cross-site"}),
        ("right", {"Sec-Fetch-Site": "same-site"}),
        ("wrong", {}),
        ("another browser's", {}),
        ("none", {}),
    ],
)
async def test_a_form_of_somebody_else_is_refused(tmp_path: Path, token: str, headers: dict[str, str]) -> None:
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        right = await browser.token()
        given = {"right": right, "wrong": "0" * 64, "none": ""}.get(token)
        if given is None:
            async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as other:
                given = await other.token()
        answer = await browser.post("signin", {"csrf": given, "password": PASSWORD}, **headers)
        assert answer.status_code == 403
        assert "Nothing was changed" in words(answer.text)
        assert "set-cookie" not in answer.headers
        assert (await browser.post("signin", {"csrf": right, "password": PASSWORD})).status_code == 303


async def test_too_much_is_refused(tmp_path: Path) -> None:
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        token = await browser.token()
        assert (await browser.post("signin", {"csrf": token, "user": "x" * 2_000_000})).status_code == 413
        assert (await browser.post("signin", {"csrf": token, "user": ["x"] * 60_000})).status_code == 413


# Signing in


async def test_signing_in_and_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        for path in [section.NAME for section in SECTIONS]:
            answer = await browser.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, f"./signin?next={path}")
        before = await browser.token()
        answer = await browser.sign_in(wish="messages?device=192.168.1.40")
        assert (answer.status_code, answer.headers["location"]) == (303, "./messages?device=192.168.1.40")
        page = await browser.get("overview")
        assert "Signed in as ann" in page.text
        assert token_in(page.text) != before
        assert (await browser.get("signin")).headers["location"] == "./overview"
        answer = await browser.post("signout", {"csrf": token_in(page.text)})
        assert answer.headers["location"] == "./signin?done=signed_out"
        assert "You have signed out" in words((await browser.get("signin?done=signed_out")).text)
        assert (await browser.get("overview")).status_code == 303
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("wish", ["//evil.example", "https://evil.example", "\\\\evil.example", "/\\evil.example"])
async def test_signing_in_leads_to_no_other_host(tmp_path: Path, wish: str) -> None:
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        assert (await browser.sign_in(wish=wish)).headers["location"].startswith("./")


async def test_a_session_ends(tmp_path: Path) -> None:
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        await browser.sign_in()
        assert (await browser.get("overview")).status_code == 200
        changed = composition(tmp_path, browser.relay, environ={"ADMIN_PASSWORD": "another"})
        browser.current.replace(replace(changed, logins=browser.current.composition.logins))
        assert (await browser.get("overview")).status_code == 303


def test_how_long_a_session_lasts() -> None:
    now = 0.0
    sessions, password = Sessions(lambda: now), Secret(PASSWORD)
    used, idle = sessions.begin("ann", password), sessions.begin("bob", password)
    while now < visitors.MOST_SECONDS:
        now += visitors.IDLE_SECONDS - 1
        expected = "ann" if now <= visitors.MOST_SECONDS else None
        assert sessions.user(used, password) == expected
    assert sessions.user(idle, password) is None
    assert sessions.user(visitors.new_identifier(), password) is None


def test_the_number_of_sessions_is_bounded() -> None:
    sessions, password = Sessions(), Secret(PASSWORD)
    first = sessions.begin("ann", password)
    for _ in range(visitors.MOST_SESSIONS):
        sessions.begin("bob", password)
    assert sessions.user(first, password) is None


async def test_a_wrong_password_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        answer = await browser.sign_in("hunter2")
        assert answer.status_code == 401
        assert "The password is wrong" in words(answer.text)
        assert "hunter2" not in answer.text
    (record,) = [record for record in caplog.records if record.getMessage() == "admin login failed"]
    assert log.facts_of(record)["client"] == "192.168.1.5"
    assert "hunter2" not in caplog.text


async def test_guessing_is_slowed_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("legacy_email_proxy.guessing.PATIENCE_SECONDS", 0.0)
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        statuses = [(await browser.sign_in(f"guess {number}")).status_code for number in range(10)]
        assert (statuses[0], statuses[-1]) == (401, 429)
        # Not even the right one may be tried now.
        assert (await browser.sign_in()).status_code == 429


async def test_a_link_from_elsewhere_does_not_end_the_session(tmp_path: Path) -> None:
    """The browser keeps a strict cookie back, and must not be given a new one."""
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        await browser.sign_in()
        kept = dict(browser.client.cookies)
        browser.client.cookies.clear()
        answer = await browser.get("overview", **{"Sec-Fetch-Site": "cross-site"})
        assert '<meta http-equiv="refresh" content="0">' in answer.text
        assert "set-cookie" not in answer.headers
        browser.client.cookies.update(kept)
        assert (await browser.get("overview", **{"Sec-Fetch-Site": "same-origin"})).status_code == 200


async def test_every_page_wants_the_password(tmp_path: Path) -> None:
    async with browsing(tmp_path, ADMIN_PASSWORD=PASSWORD) as browser:
        for path in PATHS:
            answer = await browser.get(path)
            assert answer.status_code in (303, 404) or path == "signin"
        for path in ("devices/192.168.1.40/trace/events", "devices/192.168.1.40/trace/lines", "messages/1"):
            assert (await browser.get(path)).headers["location"].startswith("../")
        assert (await browser.get("overview", Cookie=f"legacy-email-proxy-9425={'x' * 43}")).status_code == 303
