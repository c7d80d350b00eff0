"""Real SASL: Dovecot asks the fake authorization server about each token, and Postfix asks Dovecot."""

from __future__ import annotations

import poplib
import smtplib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from anyio import from_thread
from anyio.to_thread import run_sync

from fakes.oauth2 import FakeAuthorizationServer
from interop.proxy import Proxy, backends, run, running
from oauth2.support import SECRET, STORE_KEY, disguises, server_tls, variables
from realservers.accounts import Account
from realservers.certificates import Certificate, Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import ask, require, short_folder, tail, wait_until

pytestmark = pytest.mark.long

SECONDS = 50.0
MESSAGE = b"Subject: scan\r\n\r\nhello\r\n"

SETTINGS = """
auth_mechanisms = {mechanisms}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {file}
}}
"""
INTROSPECTION = """
introspection_url = {url}
introspection_mode = auth
force_introspection = yes
username_attribute = username
active_attribute = active
active_value = true
tls_ca_cert_file = {ca_file}
"""


@dataclass
class World:
    """A provider: its token endpoint, its mail servers, and one account whose password nobody knows."""

    tokens: FakeAuthorizationServer
    dovecot: Dovecot
    postfix: Postfix
    account: Account
    variables: dict[str, str]


@asynccontextmanager
async def mail_servers(
    certificate: Certificate, tokens: FakeAuthorizationServer, mechanisms: str
) -> AsyncIterator[tuple[Dovecot, Postfix]]:
    """They ask `tokens` about each login."""
    with ExitStack() as stack:
        # pytest's own folder is closed to Dovecot's user.
        open_folder = stack.enter_context(short_folder("oauth2-"))
        ca_file, file = open_folder / "ca.pem", open_folder / "oauth2.conf"
        ca_file.write_bytes(certificate.ca_file.read_bytes())
        file.write_text(INTROSPECTION.format(url=tokens.url("introspect"), ca_file=ca_file))
        settings = SETTINGS.format(mechanisms=mechanisms, file=file)
        dovecot = stack.enter_context(await run_sync(lambda: Dovecot.start(certificate, settings=settings)))
        yield dovecot, stack.enter_context(await run_sync(lambda: Postfix.start(certificate, dovecot)))


@asynccontextmanager
async def provider(certificate: Certificate, folder: Path, mechanisms: str, **given: str) -> AsyncIterator[World]:
    async with (
        FakeAuthorizationServer(tls=server_tls(certificate), client_secret=SECRET, rotate=True) as tokens,
        mail_servers(certificate, tokens, mechanisms) as (dovecot, postfix),
    ):
        account = dovecot.add_account()
        tokens.user = account.name
        grant = given.pop("OAUTH2_GRANT", "refresh_token")
        used = backends(dovecot, postfix, account) | variables(tokens, certificate.ca_file, grant)
        for leg in ("IMAP", "SMTP"):
            del used[f"BACKEND_{leg}_PASS"]
            used[f"BACKEND_{leg}_CREDENTIALS"] = "oauth2"
        if grant == "refresh_token":
            used["OAUTH2_REFRESH_TOKEN"] = tokens.issue_refresh_token()
        used |= {"OAUTH2_CLIENT_SECRET": SECRET, "STATE_DIR": str(folder / "state"), "LOG_LEVEL": "debug"}
        yield World(tokens, dovecot, postfix, account, used | given)


def count(proxy: Proxy) -> int:
    """How many messages a POP3 client finds."""
    client = poplib.POP3(*proxy.pop3, timeout=SECONDS)
    try:
        client.user("device")
        client.pass_("any")
        return client.stat()[0]
    finally:
        client.close()


def send(proxy: Proxy, account: Account) -> None:
    with smtplib.SMTP(*proxy.smtp, timeout=SECONDS) as client:
        client.sendmail(account.address, [account.address], MESSAGE)


@contextmanager
def reading(proxy: Proxy, account: Account) -> Iterator[Callable[[], None]]:
    """A client that has sent PASS; what is given reads the rest."""
    client = poplib.POP3(*proxy.pop3, timeout=SECONDS)

    def finish() -> None:
        assert client._getresp().startswith(b"+OK")  # type: ignore[attr-defined]
        assert client.stat() == (0, 0)

    try:
        client.user("device")
        client._putcmd("PASS any")  # type: ignore[attr-defined]
        yield finish
    finally:
        client.close()


@contextmanager
def sending(proxy: Proxy, account: Account) -> Iterator[Callable[[], None]]:
    """A device that has sent MAIL; what is given sends the rest."""
    with smtplib.SMTP(*proxy.smtp, timeout=SECONDS) as client:

        def finish() -> None:
            assert client.getreply()[0] == 250
            assert client.rcpt(account.address)[0] == 250
            assert client.data(MESSAGE)[0] == 250

        client.ehlo()
        client.putcmd("MAIL", f"FROM:<{account.address}>")
        yield finish


def let_it_wait(proxy: Proxy) -> None:
    """Return when the proxy has acted on all that it was sent before: it serves many who came later."""
    for _ in range(30):
        with smtplib.SMTP(*proxy.smtp, timeout=SECONDS) as client:
            client.noop()


def kick(dovecot: Dovecot, account: Account) -> None:
    """End the account's IMAP connections, so that the next session has to log in."""
    doveadm = require("doveadm", "comes with Dovecot")
    ask(doveadm, "-c", str(dovecot._configuration_file), "kick", account.name)


async def through_proxy(world: World, work: Callable[[Proxy], None]) -> str:
    """Do it with a proxy; returns its log. What the servers logged stands below a failure."""

    def all_of_it() -> str:
        with running(world.variables) as proxy:
            try:
                work(proxy)
            except Exception as error:
                error.add_note(f"{proxy.log}\n{tail(world.dovecot.log)}\n{tail(world.postfix.log)}")
                raise
            return proxy.log

    return await run_sync(all_of_it)


@pytest.mark.parametrize("mechanism", ["xoauth2", "oauthbearer"])
async def test_both_legs_with_a_token_that_ends_in_the_middle(
    certificates: Certificates, tmp_path: Path, mechanism: str
) -> None:
    async with provider(certificates.good, tmp_path, f"plain {mechanism}", OAUTH2_STORE_KEY=STORE_KEY) as world:

        def work(proxy: Proxy) -> None:
            assert count(proxy) == 0
            assert world.tokens.times("token") == 1
            # Revoked at the provider, although it has an hour to live: Postfix refuses it, and a new one is taken.
            world.tokens.tokens[-1].revoked = True
            world.tokens.lifetime = 1.0
            send(proxy, world.account)
            assert world.tokens.times("token") == 2
            # And this one ends by itself.
            wait_until(lambda: not world.tokens.tokens[-1].active, "the token's life is over", SECONDS)
            world.tokens.lifetime = 3600.0
            world.dovecot.wait_for_messages(world.account.name, 1)
            kick(world.dovecot, world.account)
            assert count(proxy) == 1
            assert world.tokens.times("token") == 3

        log = await through_proxy(world, work)
        assert "the backend refused the token, which is renewed" in log
        assert f"AUTH {mechanism.upper()} ***" in log
        secrets = [token.text for token in world.tokens.tokens] + list(world.tokens.refresh_tokens | world.tokens.spent)
        secrets += [SECRET, STORE_KEY]
        (file,) = (tmp_path / "state" / "credentials.oauth2").glob("*.json")
        for form in (form for secret in secrets for form in disguises(secret)):
            assert form not in log
            assert form.encode() not in file.read_bytes()


async def test_a_token_that_is_always_refused(certificates: Certificates, tmp_path: Path) -> None:
    async with provider(certificates.good, tmp_path, "xoauth2") as world:
        world.tokens.user = "somebody-else"

        def work(proxy: Proxy) -> None:
            for _ in range(5):
                with pytest.raises(smtplib.SMTPSenderRefused, match=r"\(451, b\"4.7.0 The backend refused the proxy's"):
                    send(proxy, world.account)
            for _ in range(5):
                with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\] the backend refused the proxy's cred"):
                    count(proxy)

        log = await through_proxy(world, work)
        assert world.tokens.times("token") == 2
        assert world.tokens.times("introspect") <= 4, "two tries on each leg, then a pause"
        assert "535 5.7.8" in log


@pytest.mark.parametrize("leg", ["pop3", "smtp"])
async def test_fifty_devices_on_a_token_that_has_ended_are_one_renewal(
    certificates: Certificates, tmp_path: Path, leg: str
) -> None:
    devices = 50
    async with provider(certificates.good, tmp_path, "plain xoauth2") as world:
        tokens = world.tokens

        def work(proxy: Proxy) -> None:
            tokens.lifetime = 1.0
            assert count(proxy) == 0
            wait_until(lambda: not tokens.tokens[-1].active, "the token's life is over", SECONDS)
            kick(world.dovecot, world.account)
            tokens.lifetime = 3600.0
            introspections = tokens.times("introspect")
            # The endpoint answers when all of them are waiting for it.
            from_thread.run_sync(tokens.may_answer.clear)
            device = reading if leg == "pop3" else sending
            with ExitStack() as stack:
                clients = [stack.enter_context(device(proxy, world.account)) for _ in range(devices)]
                wait_until(lambda: tokens.times("token") >= 2, "a token is asked for", SECONDS)
                let_it_wait(proxy)
                from_thread.run_sync(tokens.may_answer.set)
                for finish in clients:
                    finish()
            assert tokens.times("token") == 2
            assert tokens.times("introspect") - introspections <= 10, "one login for each connection that is allowed"
            if leg == "smtp":
                world.dovecot.wait_for_messages(world.account.name, devices)

        log = await through_proxy(world, work)
        assert log.count("token renewed") == 2
        assert "the backend refused the token" not in log


async def test_check_and_authorize_status_beside_it(certificates: Certificates, tmp_path: Path) -> None:
    given = {"OAUTH2_GRANT": "client_credentials"}
    async with provider(certificates.good, tmp_path, "plain xoauth2 oauthbearer", **given) as world:
        checked = await run_sync(lambda: run("check", **world.variables))
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert f"logged in as {world.account.name} (XOAUTH2)" in checked.stdout
        assert "credentials oauth2: there is a token by client_credentials, good for 3" in checked.stdout
        shown = await run_sync(lambda: run("authorize", "--status", **world.variables))
        assert shown.returncode == 0, shown.stderr
        assert (
            "account default\n  grant         client_credentials\n  scope         mail offline_access\n" in shown.stdout
        )
        assert world.tokens.times("token") == 1, "the second process used the stored token"
        for text in (checked.stdout, checked.stderr, shown.stdout, shown.stderr):
            assert world.tokens.tokens[0].text not in text


async def test_check_says_what_a_refusal_means(certificates: Certificates, tmp_path: Path) -> None:
    async with provider(certificates.good, tmp_path, "xoauth2", OAUTH2_CLIENT_SECRET="wrong-one") as world:
        checked = await run_sync(lambda: run("check", **world.variables))
        assert checked.returncode == 1
        assert "the client secret is wrong -> OAUTH2_CLIENT_SECRET is the secret's value, not its ID" in checked.stdout
        assert "wrong-one" not in checked.stdout + checked.stderr
        assert world.tokens.times("token") == 1, "both legs and the credentials share one refusal"


async def test_check_says_that_the_token_is_for_something_else(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.INTROSPECTION", INTROSPECTION + "scope = mail\n")
    given = {"OAUTH2_GRANT": "client_credentials", "OAUTH2_SCOPE": "openid"}
    async with provider(certificates.good, tmp_path, "xoauth2", **given) as world:
        checked = await run_sync(lambda: run("check", **world.variables))
        assert checked.returncode == 1
        for leg in ("maildrop imap", "relay smtps"):
            (line,) = (line for line in checked.stdout.splitlines() if line.startswith(f"FAILED   {leg}"))
            assert "scope=mail" in line
            assert "for something else than mail" in line
            assert "password" not in line
        assert "for openid" in checked.stdout
