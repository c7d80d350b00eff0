"""Without questions: every answer by an option, each tried at real servers."""

from __future__ import annotations

import smtplib
import stat
from pathlib import Path

import pytest
from anyio.to_thread import run_sync

from fakes.smtp import FakeSMTPServer
from graph.test_journey import account as graph_account
from interop.proxy import running
from legacy_email_proxy import cli
from legacy_email_proxy.setup.files import read_env
from pages import README, blocks
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import REFUSED_SENDER, Postfix
from realservers.processes import free_ports
from setup.support import left_over, set_up, settings_of

pytestmark = pytest.mark.long

MESSAGE = b"From: scan@example.test\r\nSubject: a scan\r\n\r\none page\r\n"


@pytest.fixture
def answers(postfix: Postfix, account: Account, tmp_path: Path) -> list[str]:
    """A device that only sends, through the shared servers."""
    (tmp_path / "password").write_text(account.password + "\n")
    return [
        *("--smtp-host", f"localhost:{postfix.smtps_port}", "--user", account.name, "--password-file", "password"),
        *("--set", f"BACKEND_SMTP_CA_FILE={postfix.ca_file}"),
    ]


def test_a_device_that_only_sends(answers: list[str], account: Account, dovecot: Dovecot, tmp_path: Path) -> None:
    done = set_up(tmp_path, *answers, "--send", account.address)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    env = tmp_path / "mail-proxy.env"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    found = settings_of(env)
    assert found["BACKEND_SMTP_PASS"] == account.password
    assert found["MAILDROP_PLUGIN"] == "none"
    assert "BACKEND_SMTP_USE_TLS" not in found
    assert "ok       send: the backend says: 250" in done.stdout
    assert account.password not in done.stdout
    (by_hand,) = [block.text for block in blocks("env") if block.page == README]
    told = {line.partition("=")[0] for line in by_hand.splitlines() if not line.startswith("#")}
    assert set(read_env(env)) == {*told, "BACKEND_SMTP_CA_FILE"}
    assert "At the device:\n  mail server for sending (SMTP)" in done.stdout
    with running(found | {"STATE_DIR": str(tmp_path / "state")}) as proxy:
        with smtplib.SMTP(*proxy.smtp, timeout=30) as device:
            device.sendmail("scan@example.test", [account.address], MESSAGE)
    dovecot.wait_for_messages(account.name, 2)


def test_the_kind_of_tls_is_found(answers: list[str], postfix: Postfix, tmp_path: Path) -> None:
    answers[1] = f"localhost:{postfix.submission_port}"
    done = set_up(tmp_path, *answers)
    assert done.returncode == 0, done.stdout + done.stderr
    found = settings_of(tmp_path / "mail-proxy.env")
    assert (found["BACKEND_SMTP_PORT"], found["BACKEND_SMTP_USE_TLS"]) == (str(postfix.submission_port), "true")


def test_both_legs_have_one_login(answers: list[str], account: Account, dovecot: Dovecot, tmp_path: Path) -> None:
    more = ["--device", "both", "--imap-host", f"localhost:{dovecot.imap_port}"]
    done = set_up(tmp_path, *answers, *more, "--set", f"BACKEND_IMAP_CA_FILE={dovecot.ca_file}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = settings_of(tmp_path / "mail-proxy.env")
    assert (found["BACKEND_IMAP_USER"], found["BACKEND_IMAP_PASS"]) == (account.name, account.password)
    assert found["BACKEND_IMAP_USE_STARTTLS"] == "true"
    assert "mail server for reading (POP3)" in done.stdout


def test_a_wrong_password_writes_nothing(answers: list[str], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong\n")
    done = set_up(tmp_path, *answers)
    assert done.returncode == 1
    assert "FAILED   relay smtps: " in done.stdout
    assert done.stderr == "legacy-email-proxy: nothing was written; --untested writes what is not tried\n"
    assert left_over(tmp_path) == {"password"}
    assert set_up(tmp_path, *answers, "--untested").returncode == 0


def test_a_server_that_is_not_there(answers: list[str], tmp_path: Path) -> None:
    answers[1] = f"localhost:{free_ports(1)[0]}"
    done = set_up(tmp_path, *answers)
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert ["STARTTLS" in line for line in failed].count(True) == 1
    assert len(failed) == 2
    assert left_over(tmp_path) == {"password"}


def test_a_sender_that_is_refused_is_rewritten(answers: list[str], account: Account, tmp_path: Path) -> None:
    answers[3] = account.address
    done = set_up(tmp_path, *answers, "--sender", REFUSED_SENDER, "--send", account.address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert settings_of(tmp_path / "mail-proxy.env")["SMTP_SENDER"] == account.address
    assert f"{REFUSED_SENDER} is refused as sender (" in done.stdout
    assert f"any; mail goes out as {account.address}" in done.stdout


def test_what_is_there_is_not_replaced_unless_told(answers: list[str], account: Account, tmp_path: Path) -> None:
    (tmp_path / "mail-proxy.env").write_text("LOG_LEVEL=debug\nBACKEND_SMTP_HOST=old.example\n")
    done = set_up(tmp_path, *answers)
    assert done.returncode == 2
    assert done.stderr.endswith("mail-proxy.env' is there; --overwrite replaces it\n")
    assert set_up(tmp_path, *answers, "--overwrite").returncode == 0
    # What set-up has no question about stays.
    assert settings_of(tmp_path / "mail-proxy.env")["LOG_LEVEL"] == "debug"
    again = set_up(tmp_path, "--overwrite", "--set", "SMTP_BIND_PORT=2525")
    assert again.returncode == 0, again.stdout + again.stderr
    found = settings_of(tmp_path / "mail-proxy.env")
    assert (found["BACKEND_SMTP_USER"], found["SMTP_BIND_PORT"]) == (account.name, "2525")


async def test_a_mailbox_by_microsoft_graph(certificates: Certificates, tmp_path: Path) -> None:
    async with graph_account(certificates, tmp_path) as (_, given):
        given["OAUTH2_TENANT"] = "firm.example"
        asked = ("PROVIDER", "GRAPH_MAILBOX", "OAUTH2_GRANT", "STATE_DIR")
        sets = [word for name, text in given.items() if name not in asked for word in ("--set", f"{name}={text}")]
        account = ["--provider", given["PROVIDER"], "--user", given["GRAPH_MAILBOX"], "--device", "both"]
        done = await run_sync(lambda: set_up(tmp_path, *account, *sets))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok       relay graph: may send from scanner@firm.example" in done.stdout
    assert "ok       maildrop graph: folder inbox of scanner@firm.example has 0 messages" in done.stdout
    found = settings_of(tmp_path / "mail-proxy.env")
    assert found["OAUTH2_GRANT"] == "client_credentials"
    # Only what was asked and set: a profile's own values stay out of the file.
    assert set(read_env(tmp_path / "mail-proxy.env")) == set(given) - {"STATE_DIR"}


def test_a_file_with_several_accounts_is_not_for_questions(answers: list[str], tmp_path: Path) -> None:
    (tmp_path / "mail-proxy.env").write_text("ACCOUNTS_FILE=/etc/accounts.toml\n")
    done = set_up(tmp_path, *answers, "--overwrite")
    assert done.returncode == 2
    assert "has several accounts, in /etc/accounts.toml; change that one by hand" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--provider: not given, and nobody can be asked"),
        (["--provider", "gmial"], "--provider: there is no provider 'gmial', did you mean gmail?"),
        (["--provider", "gmail"], "--user: not given, and nobody can be asked"),
        (["--provider", "gmail", "--user", "a@b"], "--password-file: not given, and nobody can be asked"),
        (["--provider", "gmail", "--login", "device_code"], "--login: 'device_code' is none of password, "),
        (["--provider", "microsoft365-hve", "--device", "both"], "--device: microsoft365-hve has no mailbox to read"),
        (["--provider", "microsoft365", "--user", "a@b"], "--set OAUTH2_CLIENT_ID=VALUE: OAUTH2_CLIENT_ID: not set"),
        (["--device", "writes"], "--device: 'writes' is none of sends, both, reads"),
        (["--set", "BACKEND_SMTP_PASS=x"], "--set: BACKEND_SMTP_PASS is a secret, and others see the command line"),
        (["--set", "BACKEND_SMTP_PROT=1"], "--set: BACKEND_SMTP_PROT is no setting, did you mean BACKEND_SMTP_PORT?"),
        (["--set", "SMTP_BIND_PORT=x"], "--set: SMTP_BIND_PORT: "),
        (["--set", "LOG_LEVEL"], "--set: 'LOG_LEVEL' is no VARIABLE=VALUE"),
        (["--set", "LOG LEVEL=info"], "--set: 'LOG LEVEL' is no VARIABLE=VALUE"),
        (["--set", "BACKEND_SMTP_PASS_FILE=a b"], "--set: BACKEND_SMTP_PASS_FILE: "),
        (["--set", "BACKEND_SMTP_CA_FILE=a b.pem"], "--set: BACKEND_SMTP_CA_FILE: "),
        (["--output", "a b.env"], "--output: "),
        (["microsoft365", "--user", "a@b.example", "--device", "writes"], "--device: 'writes' is none of sends, both"),
        (["--password-file", "none"], "--password-file: there is no file 'none'"),
        (["--output", "none/x.env"], "--output: there is no folder "),
        (["--from", "sendmail", "x"], "--from: 'sendmail' is none of email-oauth2-proxy, m365proxy, postfix"),
        (["--from", "postfix", "x", "--user", "y"], "--user: not together with --from"),
        (["--from", "postfix", "none"], "--from: can not read 'none': No such file"),
    ],
)
def test_what_is_missing_or_wrong_is_told_by_the_option(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["setup", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"legacy-email-proxy: {line}")
    assert left_over(tmp_path) == set()


def test_a_password_file_that_the_env_file_can_not_name(answers: list[str], tmp_path: Path) -> None:
    """A shell would take what stands behind the blank for a command."""
    (tmp_path / "the password").write_text("x")
    answers[answers.index("password")] = "the password"
    done = set_up(tmp_path, *answers)
    assert done.returncode == 2
    assert "--password-file: " in done.stderr
    assert "has a blank or a special character in it" in done.stderr
    assert left_over(tmp_path) == {"password", "the password"}


async def test_a_server_without_tls_has_to_be_told(tmp_path: Path) -> None:
    """It is not found by trying: a password must not go into the clear because a port was mistyped."""
    async with FakeSMTPServer(encryption="none") as server:
        arguments = ["--smtp-host", f"localhost:{server.port}", "--login", "none"]
        assert (await run_sync(lambda: set_up(tmp_path, *arguments))).returncode == 1
        told = [*arguments, "--set", "BACKEND_SMTP_USE_SSL=false"]
        done = await run_sync(lambda: set_up(tmp_path, *told))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning  relay smtps: reached localhost port" in done.stdout
