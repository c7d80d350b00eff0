"""What the browser meets: the running command with its page, real servers behind it, and mail that takes every way.

One account has a password and delivers. The others need a consent that nobody has given yet, so their mail waits in the
spool until a test gives it. One more message is refused for good, and its sender has no mailbox: it is dead.
"""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from interop.firm import POP3From
from interop.proxy import Proxy, backends, running
from realservers.accounts import Account
from realservers.authorization import AuthorizationServer, Client
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix

PASSWORD = "correct horse"
SCANNER, ERP = "127.0.0.21", "127.0.0.22"
SECONDS = 30.0
CLOUDS = ("cloud-script", "cloud-plain", "cloud-below", "cloud-keys")
"""Accounts without a consent, one for each test that gives it."""


@dataclass
class World:
    """The proxy, and what a test may do behind it."""

    proxy: Proxy
    mailbox: Account
    tokens: AuthorizationServer

    @property
    def page(self) -> str:
        """The address of the page."""
        return "http://{}:{}/".format(*self.proxy.place("admin"))

    def send(self, sender: str, *recipients: str, device: str = SCANNER, name: str = "BRW001122334455") -> None:
        """What a scanner does."""
        with smtplib.SMTP(timeout=SECONDS, local_hostname=name, source_address=(device, 0)) as smtp:
            smtp.connect(*self.proxy.smtp)
            smtp.sendmail(sender, recipients, b"Subject: a scan\r\n\r\nnobody's business\r\n")

    def read(self, device: str = ERP) -> None:
        """What a program does that fetches mail."""
        client = POP3From(device, self.proxy.pop3)
        client.user("anybody")
        client.pass_("hunter2")
        client.quit()


@contextmanager
def world(certificates: Certificates, dovecot: Dovecot, postfix: Postfix, folder: Path) -> Iterator[World]:
    mailbox = dovecot.add_account()
    with AuthorizationServer.start(certificates.good, Client()) as tokens:
        oauth2 = "".join(
            f'{name} = "{value}"\n'
            for name, value in {
                "BACKEND_SMTP_CREDENTIALS": "oauth2",
                "OAUTH2_GRANT": "device_code",
                "OAUTH2_CLIENT_ID": tokens.client.client_id,
                "OAUTH2_SCOPE": "mail.send offline_access",
                "OAUTH2_TOKEN_URL": tokens.url("token"),
                "OAUTH2_DEVICE_URL": tokens.url("device"),
                "OAUTH2_CA_FILE": str(certificates.ca_file),
            }.items()
        )
        accounts = folder / "accounts.toml"
        accounts.write_text(
            "[accounts.office]\n"
            + "".join(f'[accounts.{name}]\nMAILDROP_PLUGIN = "none"\n{oauth2}' for name in CLOUDS)
            + "".join(f'[[rules]]\nsender = "{name}@firm.example"\naccount = "{name}"\n' for name in CLOUDS)
            + '[[rules]]\naccount = "office"\n'
        )
        variables = backends(dovecot, postfix, mailbox) | {
            "ACCOUNTS_FILE": str(accounts),
            "RELAY_PLUGIN": "spool",
            "ADMIN_BIND_PORT": "0",
            "ADMIN_PASSWORD": PASSWORD,
        }
        with running(variables) as proxy:
            made = World(proxy, mailbox, tokens)
            made.send("scan@firm.example", mailbox.address)
            proxy.wait_for("message delivered")
            made.send("", "nobody@example.test")
            proxy.wait_for("nobody can be notified")
            made.send("cloud-keys@firm.example", "ann@firm.example", "bob@firm.example")
            with smtplib.SMTP(*proxy.smtp, timeout=SECONDS, source_address=(SCANNER, 0)) as scanner:
                scanner.ehlo("BRW001122334455")
                assert scanner.docmd("AUTH", "PLAIN AGEAaHVudGVyMg==")[0] == 502
            made.read()
            yield made


class Operator:
    """A person at a browser. ``root`` is where the page begins; what the browser complains of is kept."""

    def __init__(self, context: BrowserContext, root: str) -> None:
        self.page: Page = context.new_page()
        self.root = root
        self.complaints: list[str] = []
        context.set_default_timeout(1000 * SECONDS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, said: ConsoleMessage) -> None:
        # So the browser calls each page whose status is an error: 401 after a wrong password.
        if said.type in ("error", "warning") and not said.text.startswith("Failed to load resource"):
            self.complaints.append(said.text)

    def open(self, path: str) -> None:
        self.page.goto(urljoin(self.root, path))

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def follow(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).first.click()

    def sees(self, words: str) -> None:
        expect(self.page.locator("main")).to_contain_text(words, timeout=1000 * SECONDS)

    def sees_title(self, words: str) -> None:
        expect(self.page.get_by_role("heading", level=1)).to_have_text(words, timeout=1000 * SECONDS)

    def sign_in(self, password: str = PASSWORD, user: str = "ann") -> None:
        self.page.get_by_label("Your name").fill(user)
        self.page.get_by_label("Password").fill(password)
        self.press("Sign in")


@contextmanager
def operator(browser: Browser, root: str, **given: Any) -> Iterator[Operator]:
    """One with a fresh browser; ``given``: what it is like. Nothing on the way may have been forbidden to it."""
    with browser.new_context(**given) as context:
        person = Operator(context, root)
        yield person
        assert person.complaints == []
