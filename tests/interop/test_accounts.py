"""Three accounts behind one real proxy: chosen by user, network and sender; and what SIGHUP changes."""

from __future__ import annotations

import poplib
import re
import signal
import smtplib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from interop.proxy import Proxy, backends, command, run, running
from legacy_email_proxy.accounts.users import PasswordHash
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix

HOME, AWAY = "127.0.0.1", "127.0.0.9"
LOGIN = r"sasl_username=(\S+)"


class POP3(poplib.POP3):
    """A client that comes from an address of its own."""

    def __init__(self, place: tuple[str, int], source: str) -> None:
        self._source = source
        super().__init__(*place, timeout=50)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout, source_address=(self._source, 0))


@dataclass
class Site:
    """A proxy with three accounts; the first is the scanner's, the second that of one network, the third the rest's."""

    proxy: Proxy
    accounts: list[Account]
    file: Path
    postfix: Postfix

    def reads(self, user: str, password: str, source: str = HOME) -> list[bytes]:
        """The first lines of what this user finds."""
        client = POP3(self.proxy.pop3, source)
        try:
            client.user(user)
            client.pass_(password)
            return [client.retr(number + 1)[1][0] for number in range(client.stat()[0])]
        finally:
            client.quit()

    def sends(self, sender: str, recipient: str, source: str = HOME) -> str:
        """The login at the provider with which this mail went out."""
        before = len(self.postfix.log)
        with smtplib.SMTP(*self.proxy.smtp, timeout=50, source_address=(source, 0)) as smtp:
            smtp.sendmail(sender, [recipient], b"Subject: x\r\n\r\nx\r\n")
        (login,) = self.postfix.logged(LOGIN, before)
        return login


def login(account: Account) -> tuple[tuple[str, str], ...]:
    return ("USER", account.name), ("PASS", account.password)


def text_of(accounts: list[Account], users: dict[str, str]) -> str:
    tables = "".join(
        f"[accounts.a{number}]\n"
        + "".join(f'BACKEND_{leg}_{what} = "{text}"\n' for leg in ("IMAP", "SMTP") for what, text in login(one))
        for number, one in enumerate(accounts)
    )
    hashes = "".join(f'{name} = "{PasswordHash.of(password)}"\n' for name, password in users.items())
    return f"""{tables}
[users]
{hashes}
[[rules]]
user = "scanner"
account = "a0"
[[rules]]
sender = "fax@example.test"
account = "a0"
[[rules]]
network = "{AWAY}"
account = "a1"
[[rules]]
account = "a2"
"""


USERS = {"scanner": "local", "anybody": "else"}


@pytest.fixture
def site(dovecot: Dovecot, postfix: Postfix, tmp_path: Path) -> Iterator[Site]:
    accounts = [dovecot.add_account() for _ in range(3)]
    for number, account in enumerate(accounts):
        dovecot.add_message(account.name, b"Subject: a%d\r\n\r\nx\r\n" % number)
    file = tmp_path / "accounts.toml"
    file.write_text(text_of(accounts, USERS))
    variables = backends(dovecot, postfix, accounts[0])
    variables = {name: text for name, text in variables.items() if not name.endswith(("USER", "PASS"))}
    ca = trustme.CA()
    ca.issue_cert("proxy.test").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "certificate"))
    variables |= {"ACCOUNTS_FILE": str(file), "POP3_LOGIN": "accounts", "TLS_CERT_FILE": str(tmp_path / "certificate")}
    with running(variables) as proxy:
        yield Site(proxy, accounts, file, postfix)
        assert not any(account.password in proxy.log for account in accounts)


def test_three_accounts(site: Site) -> None:
    names = [account.name for account in site.accounts]
    assert site.reads("scanner", "local", AWAY) == [b"Subject: a0"]
    assert site.reads("anybody", "else", AWAY) == [b"Subject: a1"]
    assert site.reads("anybody", "else") == [b"Subject: a2"]
    to = site.accounts[2].address
    assert site.sends("fax@example.test", to, AWAY) == names[0]
    assert site.sends("x@example.test", to, AWAY) == names[1]
    assert site.sends("x@example.test", to) == names[2]
    # Here the provider's own login opens nothing.
    with pytest.raises(poplib.error_proto, match=r"-ERR \[AUTH\] user name or password is wrong"):
        site.reads(names[0], site.accounts[0].password)


@pytest.fixture
def short(dovecot: Dovecot, postfix: Postfix, tmp_path: Path) -> Iterator[Site]:
    """Two accounts that only a login by SMTP leads to, and POP3 by any."""
    accounts = [dovecot.add_account(f"the.scanner.on.the.third.floor.number{number}") for number in range(2)]
    file = tmp_path / "accounts.toml"
    text = text_of(accounts, {"s0": "1", "s1": "2"}).partition("[[rules]]")[0]
    file.write_text(text + "".join(f'[[rules]]\nuser = "s{each}"\naccount = "a{each}"\n' for each in range(2)))
    variables = backends(dovecot, postfix, accounts[0])
    variables = {name: text for name, text in variables.items() if not name.endswith(("USER", "PASS"))}
    variables |= {"ACCOUNTS_FILE": str(file), "POP3_LOGIN": "accounts", "SMTP_AUTH": "accounts"}
    with running(variables) as proxy:
        yield Site(proxy, accounts, file, postfix)


@pytest.mark.long
@pytest.mark.quirk("smtp-C22")
def test_a_login_by_smtp_chooses_the_account(short: Site) -> None:
    def sends(user: str, password: str) -> list[str]:
        before = len(short.postfix.log)
        with smtplib.SMTP(*short.proxy.smtp, timeout=50) as smtp:
            smtp.login(user, password)
            smtp.sendmail("x@example.test", [short.accounts[0].address], b"Subject: x\r\n\r\nx\r\n")
        return short.postfix.logged(LOGIN, before)

    assert sends("s0", "1") == [short.accounts[0].name]
    assert sends("s1", "2") == [short.accounts[1].name]
    with smtplib.SMTP(*short.proxy.smtp, timeout=50) as smtp:
        smtp.ehlo()
        assert smtp.mail("x@example.test") == (530, b"5.7.0 Log in first")
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            smtp.login("s0", "2")
        assert refused.value.smtp_code == 535
        assert smtp.mail("x@example.test")[0] == 530
    # A reload counts at once, also for whoever is connected already.
    with smtplib.SMTP(*short.proxy.smtp, timeout=50) as smtp:
        smtp.ehlo()
        hashes = short.file.read_text()
        [before] = re.findall(r"^s1 = .*$", hashes, re.MULTILINE)
        short.file.write_text(hashes.replace(before, f's1 = "{PasswordHash.of("3")}"'))
        short.proxy.process.send_signal(signal.SIGHUP)
        short.proxy.wait_for(" reloaded ")
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login("s1", "2")
        smtp.login("s1", "3")
        assert smtp.mail("x@example.test")[0] == 250
    assert short.proxy.lines("no such user") == []


def test_a_login_that_nobody_proves_opens_nothing(
    dovecot: Dovecot, postfix: Postfix, site: Site, tmp_path: Path
) -> None:
    rules = '[[rules]]\nuser = "scanner"\naccount = "a0"\n[[rules]]\nport = 1\naccount = "a0"\n'
    file = tmp_path / "other.toml"
    file.write_text(
        site.file.read_text().partition("[accounts.a1]")[0]
        + "[users]\nscanner = "
        + (site.file.read_text().partition("scanner = ")[2].partition("\n")[0] + "\n" + rules)
    )
    variables = backends(dovecot, postfix, site.accounts[0]) | {"ACCOUNTS_FILE": str(file), "POP3_LOGIN": "accounts"}
    with running(variables | {"SMTP_AUTH": "any"}) as proxy, smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
        smtp.login("scanner", "local")
        assert smtp.mail("x@example.test") == (550, b"5.7.1 There is no account here for this mail")
    done = run("check", **variables, SMTP_AUTH="any", MAILDROP_PLUGIN="none")
    assert done.returncode == 2
    assert "user: no password is asked for; set SMTP_AUTH to accounts" in done.stderr


def test_check_asks_the_rules_and_every_account(site: Site, tmp_path: Path, dovecot: Dovecot, postfix: Postfix) -> None:
    variables = backends(dovecot, postfix, site.accounts[0]) | {
        "ACCOUNTS_FILE": str(site.file),
        "POP3_LOGIN": "accounts",
    }
    variables = {name: text for name, text in variables.items() if not name.endswith(("USER", "PASS"))}
    done = run("check", "--client", AWAY, "--sender", "fax@example.test", "--login", "anybody", **variables)
    assert done.returncode == 0, done.stderr
    pop3, smtp = done.stdout.splitlines()
    assert re.fullmatch(rf"ok       POP3: account a1, by the rule at {site.file}:\d+", pop3), done.stdout
    assert re.fullmatch(rf"ok       SMTP: account a0, by the rule at {site.file}:\d+", smtp), done.stdout
    site.file.write_text(site.file.read_text().replace(site.accounts[1].password, "wrong"))
    done = run("check", **variables)
    assert done.returncode == 1
    bad = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert [line.split(":")[0] for line in bad] == ["FAILED   a1 maildrop imap", "FAILED   a1 relay smtps"], done.stdout
    shown = run("settings", **variables).stdout
    assert re.search(rf"^BACKEND_IMAP_USER +{site.accounts[1].name}  \({site.file}:\d+\)$", shown, re.MULTILINE), shown
    assert "wrong" not in shown


def certificate(proxy: Proxy) -> bytes | None:
    """What STLS shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = POP3(proxy.pop3, HOME)
    client.stls(context)
    shown: bytes | None = client.sock.getpeercert(binary_form=True)  # type: ignore[attr-defined]
    client.quit()
    return shown


def test_reload(site: Site, tmp_path: Path) -> None:
    held = POP3(site.proxy.pop3, HOME)
    held.user("anybody")
    held.pass_("else")
    before = certificate(site.proxy)
    good = site.file.read_text()

    site.file.write_text(good.replace('account = "a1"', 'account = "a9"').replace("[users]", "[user]"))
    site.proxy.process.send_signal(signal.SIGHUP)
    lines = site.proxy.wait_for(" not reloaded ", 2)
    assert all(f"{site.file}:" in line for line in lines)
    assert site.reads("anybody", "else", AWAY) == [b"Subject: a1"]

    ca = trustme.CA()
    ca.issue_cert("proxy.test").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "certificate"))
    site.file.write_text(text_of(site.accounts[::-1], {"scanner": "local", "anybody": "new"}))
    site.proxy.process.send_signal(signal.SIGHUP)
    site.proxy.wait_for(" reloaded accounts=a0,a1,a2")
    with pytest.raises(poplib.error_proto, match=r"\[AUTH\]"):
        site.reads("anybody", "else")
    assert site.reads("anybody", "new") == [b"Subject: a0"]
    assert site.sends("x@example.test", site.accounts[1].address) == site.accounts[0].name
    assert certificate(site.proxy) != before
    # A session that was there before has what it had, to its end.
    assert held.retr(1)[1][0] == b"Subject: a2"
    held.quit()


def test_the_password_command() -> None:
    import subprocess

    done = subprocess.run(command("password"), input="pä ss \n", capture_output=True, text=True, timeout=60, check=True)
    assert PasswordHash.parse(done.stdout.removesuffix("\n")).fits("pä ss ")
    empty = subprocess.run(command("password"), input="\n", capture_output=True, text=True, timeout=60, check=False)
    assert (empty.returncode, empty.stderr) == (2, "legacy-email-proxy: password: it is empty\n")
