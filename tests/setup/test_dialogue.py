"""The questions, answered by somebody at a terminal, with real servers behind."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from anyio.to_thread import run_sync

from fakes.oauth2 import FakeAuthorizationServer
from interop.proxy import run
from oauth2.support import server_tls
from oauth2.test_real_servers import mail_servers
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import free_ports
from setup.support import at_terminal, left_over, settings_of

pytestmark = pytest.mark.long

PORTS = ["--set", "SMTP_BIND_PORT=2525", "--set", "POP3_BIND_PORT=1110"]
"""Ports that any user may open, so that none is asked for, whoever runs the tests and whatever else runs there."""


def test_a_device_that_only_sends(postfix: Postfix, account: Account, tmp_path: Path) -> None:
    """With the mistakes that people make: a wrong name, a CA that is not known, a wrong password."""
    (tmp_path / "ca.pem").write_bytes(postfix.ca_file.read_bytes())
    with at_terminal(tmp_path, *PORTS) as person:
        person.answer("Number [1]: ", "7")
        person.expect("'7' is none of sends, both, reads")
        person.answer("Number [1]: ")
        person.answer("Which provider [generic]: ")
        person.answer("How does the proxy log in there?")
        person.answer("(HOST or HOST:PORT): ", "https://localhost")
        person.expect("write the server's name alone, HOST or HOST:PORT")
        person.answer("(HOST or HOST:PORT): ", f"localhost:{free_ports(1)[0]}")
        person.expect("TLS from the first octet: ")
        person.answer("(HOST or HOST:PORT) [localhost:", f"localhost:{postfix.smtps_port}")
        person.answer("(Enter: none, another server): ", "ca.pem")
        person.expect(f"found: localhost, port {postfix.smtps_port} with TLS from the first octet")
        person.answer("mostly the mailbox's address: ", account.address)
        person.answer("Password, not shown: ", "wrong")
        person.answer("insist on a user and a password? [y/N]: ", "y")
        person.expect("FAILED   relay smtps: ")
        person.answer("Go through the questions again? [Y/n]: ")
        person.answer("Number [1]: ")
        person.answer("Which provider [generic]: ")
        person.answer("Number [1]: ")
        person.answer(f"[localhost:{postfix.smtps_port}]: ")
        person.answer(f"mostly the mailbox's address [{account.address}]: ")
        person.answer("Password (Enter: as it is), not shown: ", account.password)
        person.answer("insist on a user and a password? [Y/n]: ")
        person.expect("logged in as")
        person.answer(f"sender address that the device uses [{account.address}]: ")
        person.answer("(Enter: none): ", "nobody@elsewhere.example")
        person.expect("FAILED   send: ")
        person.answer("(Enter: none): ", account.address)
        person.expect("the backend says: 250")
        assert person.end() == 0, person.shown
    assert account.password not in person.shown
    found = settings_of(tmp_path / "mail-proxy.env")
    assert found["BACKEND_SMTP_PASS"] == account.password
    assert found["SMTP_AUTH"] == "any"
    assert "any user, any password" in person.shown
    assert run("check", **found).returncode == 0


def test_run_again_it_starts_from_what_is_there(postfix: Postfix, account: Account, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(postfix.ca_file.read_bytes())
    (tmp_path / "password").write_text(account.password)
    (tmp_path / "mail-proxy.env").write_text(
        "MAILDROP_PLUGIN=none\nBACKEND_SMTP_HOST=localhost\nLOG_FORMAT=json\nSMTP_BIND_PORT=2525\nPOP3_BIND_PORT=1110\n"
        f"BACKEND_SMTP_PORT={postfix.submission_port}\nBACKEND_SMTP_USE_STARTTLS=true\n"
        f"BACKEND_SMTP_USER={account.address}\nBACKEND_SMTP_PASS_FILE={tmp_path}/password\n"
        f"BACKEND_SMTP_CA_FILE={tmp_path}/ca.pem\n"
    )
    before = settings_of(tmp_path / "mail-proxy.env")
    with at_terminal(tmp_path, *PORTS) as person:
        for question in ("Number [1]: ", "[generic]: ", "Number [1]: ", f"[localhost:{postfix.submission_port}]: "):
            person.answer(question)
        for question in (f"[{account.address}]: ", "not shown: ", "[y/N]: ", f"[{account.address}]: ", "none): "):
            person.answer(question)
        person.answer("mail-proxy.env? [Y/n]: ")
        assert person.end() == 0, person.shown
    renamed = {"BACKEND_SMTP_USE_STARTTLS": "BACKEND_SMTP_USE_TLS"}
    assert settings_of(tmp_path / "mail-proxy.env") == {renamed.get(name, name): text for name, text in before.items()}
    assert left_over(tmp_path) == {"ca.pem", "password", "mail-proxy.env"}


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with at_terminal(tmp_path) as person:
        person.answer("Number [1]: ")
        person.expect("Which provider [generic]: ")
        person.interrupt()
        assert person.end() == 130
    assert person.shown.endswith("Stopped: nothing was written.\r\n")
    assert left_over(tmp_path) == set()


def test_an_interrupt_while_a_server_says_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, at_terminal(tmp_path) as person:
        person.answer("Number [1]: ")
        person.answer("Which provider [generic]: ")
        person.answer("Number [1]: ")
        person.answer("(HOST or HOST:PORT): ", f"localhost:{silent.getsockname()[1]}")
        person.expect("trying localhost")
        with silent.accept()[0]:
            person.interrupt()
            assert person.end() == 130
    assert "Traceback" not in person.shown
    assert left_over(tmp_path) == set()


def test_the_end_of_input_leaves_nothing(tmp_path: Path) -> None:
    with at_terminal(tmp_path) as person:
        person.expect("Number [1]: ")
        person.answer("", "\x04")
        assert person.end() == 1
    assert "Traceback" not in person.shown
    assert left_over(tmp_path) == set()


async def test_microsoft365_with_the_owners_consent(certificates: Certificates, tmp_path: Path) -> None:
    """The provider's own addresses are replaced by the test's; all else is as somebody types it."""
    certificate = certificates.good
    async with (
        FakeAuthorizationServer(tls=server_tls(certificate)) as tokens,
        mail_servers(certificate, tokens, "plain xoauth2") as (dovecot, postfix),
    ):
        account = dovecot.add_account()
        tokens.user = account.name
        await run_sync(_consenting, tokens, dovecot, postfix, account, certificates, tmp_path)
        found = settings_of(tmp_path / "mail-proxy.env")
        assert (found["PROVIDER"], found["OAUTH2_GRANT"]) == ("microsoft365", "device_code")
        checked = await run_sync(lambda: run("check", **found, STATE_DIR=str(tmp_path / "state")))
        assert checked.returncode == 0, checked.stdout


def _consenting(
    tokens: FakeAuthorizationServer,
    dovecot: Dovecot,
    postfix: Postfix,
    account: Account,
    certificates: Certificates,
    folder: Path,
) -> None:
    sets = {
        "BACKEND_SMTP_HOST": "localhost", "BACKEND_SMTP_PORT": postfix.submission_port,
        "BACKEND_IMAP_HOST": "localhost", "BACKEND_IMAP_PORT": dovecot.imaps_port,
        "OAUTH2_TOKEN_URL": tokens.url("token"), "OAUTH2_DEVICE_URL": tokens.url("device"),
    }  # fmt: skip
    sets |= {f"{place}_CA_FILE": certificates.ca_file for place in ("OAUTH2", "BACKEND_SMTP", "BACKEND_IMAP")}
    arguments = [word for name, text in sets.items() for word in ("--set", f"{name}={text}")]
    with at_terminal(folder, *PORTS, *arguments) as person:
        person.answer("Number [1]: ", "2")
        person.answer("Which provider [generic]: ", "microsoft365")
        person.expect("device_code)")
        person.answer("Number [", "device_code")
        person.answer("mostly the mailbox's address: ", account.name)
        person.answer("(Enter: none), not shown: ")
        person.answer("tenant) ID (Enter", "firm.example")
        person.answer("[y/N]: ")
        person.expect("OAUTH2_CLIENT_ID: not set")
        person.answer("OAUTH2_CLIENT_ID: ", tokens.client_id)
        person.expect("enter the code ")
        tokens.approve(person.line())
        person.answer("that the device uses: ")
        person.answer("(Enter: none): ")
        assert person.end() == 0, person.shown
    assert "logged in as" in person.shown
