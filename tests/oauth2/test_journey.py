"""The whole journey of three accounts that take nothing but OAuth2, and where no secret is left on the way."""

from __future__ import annotations

import poplib
import smtplib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from anyio.to_thread import run_sync
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.oauth2 import FakeAuthorizationServer
from interop.proxy import Proxy, run, running
from interop.test_accounts import AWAY, HOME, POP3
from interop.test_clients import client
from legacy_email_proxy.accounts.users import PasswordHash
from oauth2.support import STORE_KEY, disguises, server_tls
from oauth2.test_grants import RSA_KEY, certificate_of, pem
from oauth2.test_real_servers import kick, mail_servers
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import require, tail, wait_until

pytestmark = pytest.mark.long

SECONDS = 50.0
USERS = {"scanner": "the local pass-word", "anybody": "else's pass-word"}
SECRETS = ("the first s3cret&", "the second s3cret%")
LIFETIME = 2.0


@dataclass
class Three:
    """Three accounts, each with a token endpoint: a refresh token that is replaced, a private key, and a secret.

    The first is the user scanner's and one sender's, the second that of a network, the third everybody's.
    """

    tokens: list[FakeAuthorizationServer]
    dovecot: Dovecot
    postfix: Postfix
    accounts: list[Account]
    variables: dict[str, str]
    seed: str
    replies: list[str] = field(default_factory=list)

    def secrets(self) -> list[str]:
        """All that must be nowhere: what was configured, and what the endpoints gave and got."""
        found = [*SECRETS, *USERS.values(), self.seed, STORE_KEY, *pem(RSA_KEY).splitlines()[1:-1]]
        for each in self.tokens:
            found += [token.text for token in each.tokens]
            found += each.refresh_tokens | each.spent
            found += [form["client_assertion"] for form in each.forms if "client_assertion" in form]
        return found

    def endings(self) -> None:
        """Wait until no token is good any more, and the servers have hung up."""
        wait_until(lambda: not any(token.active for token in self.tokens[0].tokens), "tokens end", SECONDS)
        for account in self.accounts:
            kick(self.dovecot, account)


@asynccontextmanager
async def three(certificates: Certificates, folder: Path) -> AsyncIterator[Three]:
    tls = server_tls(certificates.good)
    async with AsyncExitStack() as stack:
        fakes = [
            await stack.enter_async_context(FakeAuthorizationServer(tls=tls, lifetime=LIFETIME, **given))
            for given in (
                {"client_secret": SECRETS[0], "rotate": True},
                {"client_key": RSA_KEY.public_key()},
                {"client_secret": SECRETS[1]},
            )
        ]
        # The mail servers ask one of them, which knows what all have issued.
        for each in fakes[1:]:
            each.tokens = fakes[0].tokens
        dovecot, postfix = await stack.enter_async_context(
            mail_servers(certificates.good, fakes[0], "xoauth2 oauthbearer")
        )
        accounts = [dovecot.add_account() for _ in fakes]
        for number, (each, account) in enumerate(zip(fakes, accounts, strict=True)):
            each.user = account.name
            dovecot.add_message(account.name, b"Subject: a%d\r\n\r\nx\r\n" % number)
        seed = fakes[0].issue_refresh_token()
        (folder / "key").write_text(pem(RSA_KEY))
        (folder / "certificate").write_bytes(certificate_of(RSA_KEY).public_bytes(Encoding.PEM))
        (folder / "secret").write_text(SECRETS[1] + "\n")
        own = [
            f'OAUTH2_GRANT = "refresh_token"\nOAUTH2_REFRESH_TOKEN = "{seed}"\nOAUTH2_CLIENT_SECRET = "{SECRETS[0]}"\n',
            f'OAUTH2_CLIENT_KEY_FILE = "{folder}/key"\nOAUTH2_CLIENT_CERT_FILE = "{folder}/certificate"\n',
            f'OAUTH2_CLIENT_SECRET_FILE = "{folder}/secret"\n',
        ]
        file = folder / "accounts.toml"
        file.write_text(
            "".join(
                f'[accounts.a{number}]\nOAUTH2_TOKEN_URL = "{fakes[number].url("token")}"\n{text}'
                f'BACKEND_IMAP_USER = "{accounts[number].name}"\nBACKEND_SMTP_USER = "{accounts[number].name}"\n'
                for number, text in enumerate(own)
            )
            + "[users]\n"
            + "".join(f'{name} = "{PasswordHash.of(password)}"\n' for name, password in USERS.items())
            + '[[rules]]\nuser = "scanner"\naccount = "a0"\n[[rules]]\nsender = "fax@example.test"\naccount = "a0"\n'
            + f'[[rules]]\nnetwork = "{AWAY}"\naccount = "a1"\n[[rules]]\naccount = "a2"\n'
        )
        given = {
            "ACCOUNTS_FILE": str(file),
            "POP3_LOGIN": "accounts",
            "STATE_DIR": str(folder / "state"),
            "LOG_LEVEL": "debug",
            "OAUTH2_GRANT": "client_credentials",
            "OAUTH2_CLIENT_ID": "the-client",
            "OAUTH2_SCOPE": "mail",
            "OAUTH2_STORE_KEY": STORE_KEY,
            "OAUTH2_CA_FILE": str(certificates.ca_file),
        }
        for leg, port in (("IMAP", dovecot.imaps_port), ("SMTP", postfix.smtps_port)):
            given |= {f"BACKEND_{leg}_HOST": "localhost", f"BACKEND_{leg}_PORT": str(port)}
            given |= {f"BACKEND_{leg}_CREDENTIALS": "oauth2", f"BACKEND_{leg}_CA_FILE": str(dovecot.ca_file)}
        yield Three(fakes, dovecot, postfix, accounts, given, seed)


def reads(proxy: Proxy, user: str, source: str, password: str = "") -> list[bytes]:
    """The first lines of what this user finds."""
    reader = POP3(proxy.pop3, source)
    try:
        reader.user(user)
        reader.pass_(password or USERS[user])
        return [reader.retr(number + 1)[1][0] for number in range(reader.stat()[0])]
    finally:
        reader.quit()


def sends(three: Three, proxy: Proxy, sender: str, source: str) -> str:
    """The login with which this device's mail went out."""
    before = len(three.postfix.log)
    with smtplib.SMTP(*proxy.smtp, timeout=SECONDS, source_address=(source, 0)) as device:
        device.sendmail(sender, [three.accounts[2].address], b"Subject: scan\r\n\r\nx\r\n")
    (login,) = three.postfix.logged(r"client=\S+, sasl_method=\S+, sasl_username=(\S+)", before)
    return login


def journey(three: Three, proxy: Proxy) -> None:
    def every_account() -> None:
        assert reads(proxy, "scanner", AWAY)[0] == b"Subject: a0"
        assert reads(proxy, "anybody", AWAY)[0] == b"Subject: a1"
        assert reads(proxy, "anybody", HOME)[0] == b"Subject: a2"
        senders = (("fax@example.test", AWAY), ("x@example.test", AWAY), ("x@example.test", HOME))
        assert [sends(three, proxy, *each) for each in senders] == [account.name for account in three.accounts]

    every_account()
    asked = [each.times("token") for each in three.tokens]
    three.endings()
    for each in three.tokens:
        each.lifetime = 3600.0
    every_account()
    assert [each.times("token") for each in three.tokens] == [times + 1 for times in asked]
    curl = require("curl", "reads POP3 as a real client")
    url = "pop3://{}:{}/1".format(*proxy.pop3)
    read = client(curl, "-sS", "--interface", AWAY, "-u", f"anybody:{USERS['anybody']}", url)
    assert "Subject: a1" in read


def refusals(three: Three, proxy: Proxy) -> None:
    """One account's tokens end at the provider, before their time, and then it gives none at all."""
    for token in three.tokens[0].tokens:
        token.revoked = token.user == three.accounts[0].name
    three.tokens[0].refresh_tokens.clear()
    for password in (USERS["scanner"], USERS["anybody"]):
        with pytest.raises(poplib.error_proto) as pop3:
            reads(proxy, "scanner", HOME, password)
        three.replies.append(str(pop3.value))
    with pytest.raises(smtplib.SMTPSenderRefused) as smtp:
        sends(three, proxy, "fax@example.test", AWAY)
    three.replies.append(str(smtp.value))
    assert "-ERR [SYS/TEMP] the proxy has nothing to log in with" in three.replies[0]
    assert "-ERR [AUTH] user name or password is wrong" in three.replies[1]
    assert "4.7.0 The proxy has nothing to log in with at the backend" in three.replies[2]
    assert reads(proxy, "anybody", HOME)[0] == b"Subject: a2", "nobody else is concerned"


async def test_three_accounts_with_tokens_that_end_in_the_middle(certificates: Certificates, tmp_path: Path) -> None:
    async with three(certificates, tmp_path) as world:

        def all_of_it() -> str:
            log = ""
            for part in (journey, refusals):
                with running(world.variables) as proxy:
                    try:
                        part(world, proxy)
                    except Exception as error:
                        error.add_note(f"{proxy.log}\n{tail(world.dovecot.log)}\n{tail(world.postfix.log)}")
                        raise
                    log += proxy.log
            return log

        places = {"the log": await run_sync(all_of_it), "replies": "\n".join(world.replies)}
        for command in ("check", "settings", "authorize --status"):
            done = await run_sync(partial(run, *command.split(), **world.variables))
            places[command] = done.stdout + done.stderr
        assert "a1 relay smtps: logged in as" in places["check"]
        assert "account a0\n  grant         refresh_token\n" in places["authorize --status"]
        assert "status 400 invalid_grant" in places["authorize --status"]
        files = [file for file in (tmp_path / "state").rglob("*") if file.is_file()]
        assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * len(files)
        assert len([file for file in files if file.suffix == ".json"]) == 3
        places |= {str(file): file.read_bytes().decode("latin-1") for file in files}
        secrets = world.secrets()
        assert len(secrets) > 15
        found = {
            (place, secret)
            for secret in secrets
            for form in disguises(secret)
            for place, text in places.items()
            if form in text
        }
        assert found == set()
