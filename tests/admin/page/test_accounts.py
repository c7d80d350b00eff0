"""The pages about the accounts: how they are, the sign-in to its end, and the check as it runs."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from admin.page.browser import CSRF, Browser, browsing, browsing_with
from admin.support import ProbedRelay, composition
from fakes.oauth2 import FakeAuthorizationServer
from legacy_email_proxy import log
from legacy_email_proxy.admin.outcomes import Backend
from legacy_email_proxy.contracts import Figure, Finding, Level, Unreachable
from oauth2.support import IMAP, disguises, server_tls, variables
from realservers.certificates import Certificates

SECRET = "the client's s3cret+/="
REFRESH = '<noscript><meta http-equiv="refresh" content="3"></noscript>'
SIGN_IN = "/accounts/of/default/sign-in/oauth2"


@asynccontextmanager
async def provided(
    certificates: Certificates, state: Path, grant: str, **given: str
) -> AsyncIterator[tuple[Browser, FakeAuthorizationServer]]:
    async with FakeAuthorizationServer(tls=server_tls(certificates.good), client_secret=SECRET) as fake:
        environ = {
            "STATE_DIR": str(state), "MAILDROP_PLUGIN": "none", "BACKEND_SMTP_HOST": "127.0.0.1",
            "BACKEND_SMTP_PORT": "1", "BACKEND_SMTP_CREDENTIALS": "oauth2", "BACKEND_SMTP_USER": "alice",
            "OAUTH2_CLIENT_SECRET": SECRET,
            **variables(fake, certificates.ca_file, grant), **given,
        }  # fmt: skip
        async with browsing_with(**environ) as browser:
            yield browser, fake


async def looked_until(browser: Browser, path: str, words: str) -> str:
    """Load the page again until it says this, as its Refresh header has a browser do."""
    with anyio.fail_after(50):
        while words not in (text := await browser.get(path)):  # noqa: ASYNC110 (nothing here sets an event)
            await anyio.sleep(0.02)
    return text


def token_of(browser: Browser) -> Any:
    return browser.current.composition.accounts[0].credentials["oauth2"]


def no_secret(browser: Browser, fake: FakeAuthorizationServer, caplog: pytest.LogCaptureFixture) -> None:
    secrets = [SECRET, *(each.text for each in fake.tokens), *fake.refresh_tokens, *fake.codes]
    assert len(secrets) > 2
    everything = "\n".join([*browser.seen, caplog.text])
    assert [secret for secret in secrets for form in disguises(secret) if form in everything] == []


async def test_a_device_code_to_a_token_that_works(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with provided(certificates, tmp_path, "device_code") as (browser, fake):
        assert "No good token" in await browser.get("/accounts")
        text = await browser.get("/accounts/of/default")
        assert "device_code" in text
        await browser.get(SIGN_IN, 404)
        await browser.get("/accounts/of/default")
        await browser.post(SIGN_IN)
        text = await looked_until(browser, SIGN_IN, "Enter this code there:")
        (code,) = re.findall(r'class="code">([^<]+)<', browser.page)
        assert f'href="{fake.url("activate")}"' in browser.page
        assert REFRESH in browser.page
        fake.approve(code)
        await looked_until(browser, SIGN_IN, "Signed in")
        assert REFRESH not in browser.page
        assert (await token_of(browser).secret(IMAP)).reveal() == fake.tokens[-1].text
        text = await browser.get("/accounts/of/default")
        assert "Has a token" in text
        assert "mail offline_access" in text
        changes = [log.facts_of(each) for each in caplog.records if each.getMessage() == "changed on the page"]
        assert [(each["change"], each["account"], each["user"], each["client"]) for each in changes] == [
            ("sign-in begun", "default", "local", "127.0.0.1"), ("signed in", "default", "local", "127.0.0.1"),
        ]  # fmt: skip
        no_secret(browser, fake, caplog)


async def test_an_address_that_is_pasted(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with provided(certificates, tmp_path, "authorization_code") as (browser, fake):
        await browser.get("/accounts/of/default")
        await browser.post(SIGN_IN)
        text = await looked_until(browser, SIGN_IN, "Paste that address here:")
        (url,) = [word for word in text.split() if "code_challenge" in word]
        assert REFRESH not in browser.page
        assert "Paste the whole address first." in await browser.post(f"{SIGN_IN}/answer", answer="")
        await browser.post(f"{SIGN_IN}/answer", answer="http://localhost/?code=1&state=2")
        text = await looked_until(browser, SIGN_IN, "There is no consent")
        assert "does not belong to this request" in text
        await browser.post(SIGN_IN)
        text = await looked_until(browser, SIGN_IN, "Paste that address here:")
        (url,) = [word for word in text.split() if "code_challenge" in word]
        await browser.post(f"{SIGN_IN}/answer", answer=fake.browse(url))
        await looked_until(browser, SIGN_IN, "Signed in")
        assert (await token_of(browser).secret(IMAP)).reveal() == fake.tokens[-1].text
        no_secret(browser, fake, caplog)


async def test_the_browser_is_sent_back(certificates: Certificates, tmp_path: Path) -> None:
    given = {"OAUTH2_REDIRECT_URL": "http://localhost:8025/accounts/consent"}
    async with provided(certificates, tmp_path, "authorization_code", **given) as (browser, fake):
        await browser.get("/accounts/of/default")
        await browser.post(SIGN_IN)
        text = await looked_until(browser, SIGN_IN, "Paste that address here:")
        assert "The provider then sends the browser back to this page." in text
        (url,) = [word for word in text.split() if "code_challenge" in word]
        stranger = await browser.client.get("/accounts/consent?code=1&state=guessed")
        assert stranger.status_code == 400
        back = fake.browse(url).partition("/accounts/")[2]
        # From another site a browser sends no cookie, and must not be given one in the place of its own.
        browser.client.cookies.clear()
        answer = await browser.client.get(f"/accounts/{back}")
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert f'url=../{SIGN_IN[1:]}"' in answer.text
        await looked_until(browser, SIGN_IN, "Signed in")
        assert (await browser.client.get(f"/accounts/{back}")).status_code == 400


async def test_no_consent(certificates: Certificates, tmp_path: Path) -> None:
    async with provided(certificates, tmp_path, "device_code") as (browser, fake):
        await browser.get("/accounts/of/default")
        await browser.post(SIGN_IN)
        await looked_until(browser, SIGN_IN, "Enter this code there:")
        (code,) = re.findall(r'class="code">([^<]+)<', browser.page)
        # A second click is no second consent.
        await browser.post(SIGN_IN)
        assert fake.times("device") == 1
        fake.deny(code)
        assert "access_denied" in await looked_until(browser, SIGN_IN, "There is no consent")
        await browser.post(SIGN_IN)
        await looked_until(browser, SIGN_IN, "Enter this code there:")
        await browser.post(f"{SIGN_IN}/stop")
        assert "it was stopped" in await looked_until(browser, SIGN_IN, "There is no consent")
        token = CSRF.findall(browser.page)[0]
        await browser.post("/accounts/of/default/sign-in/password", 404, csrf=token)
        await browser.post("/accounts/of/nobody/sign-in/oauth2", 404, csrf=token)


async def test_a_sign_in_ends_with_the_service(certificates: Certificates, tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with provided(certificates, tmp_path, "authorization_code") as (browser, _):
        await browser.get("/accounts/of/default")
        await browser.post(SIGN_IN)
        await looked_until(browser, SIGN_IN, "Paste that address here:")
    assert not [task for task in asyncio.all_tasks() - before if "_lead" in repr(task)]


class Slow(ProbedRelay):
    """Its probe waits until the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = anyio.Event(), anyio.Event()

    async def probe(self) -> Sequence[Finding]:
        self.reached.set()
        await self.go.wait()
        return [Finding(Level.GOOD, "logged in <b>as</b> x"), Finding(Level.BAD, "too slow", "wait\u202e")]


async def test_a_check_line_by_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    relay = Slow()
    async with browsing(composition(tmp_path, relay)) as browser:
        await browser.get("/accounts/of/default")
        form = {"csrf": CSRF.findall(browser.page)[0]}
        async with browser.client.stream("POST", "/accounts/of/default/check", data=form) as answer:
            page = ""
            async for piece in answer.aiter_text():
                page += piece
                if "Trying relay" in page and not relay.go.is_set():
                    await relay.reached.wait()
                    assert "this leg is closed" in page
                    assert "</html>" not in page
                    other = await browser.client.post("/accounts/of/default/check", data=form)
                    assert "being checked already" in other.text
                    relay.go.set()
        assert "logged in &lt;b&gt;as&lt;/b&gt; x" in page
        assert "\u202e" not in page
        assert page.index("too slow") < page.index("One thing does not work.") < page.index("</html>")
        relay.go.set()
        again = await browser.client.post("/accounts/of/default/check", data=form)
        assert "being checked already" not in again.text
    changes = [log.facts_of(each) for each in caplog.records if each.getMessage() == "changed on the page"]
    assert changes[0] == {"change": "check", "user": "local", "client": "127.0.0.1", "account": "default"}


async def test_a_reader_who_leaves_ends_the_check(tmp_path: Path) -> None:
    relay = Slow()
    async with browsing(composition(tmp_path, relay)) as browser:
        await browser.get("/accounts/of/default")
        form = {"csrf": CSRF.findall(browser.page)[0]}
        async with browser.client.stream("POST", "/accounts/of/default/check", data=form) as answer:
            async for piece in answer.aiter_text():
                if "Trying relay" in piece:
                    break
            await relay.reached.wait()
        relay.go.set()
        with anyio.fail_after(50):
            while "being checked" in (await browser.client.post("/accounts/of/default/check", data=form)).text:  # noqa: ASYNC110
                await anyio.sleep(0.02)


async def test_how_an_account_is(tmp_path: Path) -> None:
    relay = ProbedRelay()
    relay.told = [Figure("backend_connections", 3, {"state": "in_use"}), Figure("backend_paused_seconds", 120)]
    environ = {"BACKEND_SMTP_MESSAGES_PER_MINUTE": "30"}
    async with browsing(composition(tmp_path, relay, environ=environ)) as browser:
        text = await browser.get("/accounts")
        assert "default Closed Not used yet" in text
        assert "3 of 10 connections" in text
        assert "0 of 30 messages a minute" in text
        logger = logging.getLogger("legacy_email_proxy.smtp")
        log.observe(browser.outcomes)
        log.failure(logger, "message refused", Unreachable("no <i>route</i>"))
        log.unobserve(browser.outcomes)
        text = await browser.get("/accounts/of/default")
        assert "Trouble no <i>route</i>" in text
        assert "It is left alone for 2 minutes" in text
        assert "none since the proxy was started" in text
        browser.outcomes.successes[Backend("", "smtp")] = 1_800_000_000.0
        assert "2027-01-15 08:00:00 UTC" in await browser.get("/accounts/of/default")
        relay.told = ValueError("no figures")
        assert "Trouble" in await browser.get("/accounts")
        assert relay.probes == 0
