"""The servers themselves: what they let in and refuse, what they keep, and that nothing of them is left behind.

A test of the proxy that fails should fail because of the proxy.
"""

from __future__ import annotations

import imaplib
import os
import poplib
import smtplib
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from realservers import processes
from realservers.accounts import Account
from realservers.certificates import Certificate, Certificates
from realservers.dovecot import Dovecot
from realservers.dovecot_conf import Storage
from realservers.postfix import LATER_RECIPIENT, REFUSED_FIELD, REFUSED_SENDER, UNKNOWN_RECIPIENT, Postfix
from realservers.processes import DidNotStart, answers, members, require, wait_until

SECONDS = 50.0
MESSAGE = b"Subject: one\r\nBcc: kept\r\n\r\n.dot\r\n" + b"\xe9" * 3000 + b"\r\nno CR\ris lost\r\n"


def trusting(ca_file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca_file))


# Certificates


def handshake(certificate: Certificate, host: str) -> None:
    """A TLS handshake in memory, of a client that verifies, with a server that shows this certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate.certificate_file, certificate.key_file)
    client = trusting(certificate.ca_file).wrap_bio(to_client, to_server, server_hostname=host)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert client.version() is not None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2"])
def test_the_good_certificate_passes(certificates: Certificates, host: str) -> None:
    handshake(certificates.good, host)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("expired", "certificate has expired"),
        ("wrong_host", "Hostname mismatch"),
        ("other_ca", "unable to get local issuer certificate"),
    ],
)
def test_each_bad_certificate_is_refused_for_its_reason(certificates: Certificates, name: str, reason: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        handshake(getattr(certificates, name), "localhost")


def test_a_server_shows_the_certificate_it_was_given(certificates: Certificates) -> None:
    with Dovecot.start(certificates.expired) as dovecot:
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            imaplib.IMAP4_SSL("localhost", dovecot.imaps_port, ssl_context=trusting(dovecot.ca_file), timeout=SECONDS)
        assert dovecot.messages("alice") == []


# Dovecot


def test_imaps_lets_in_whom_the_password_belongs_to(dovecot: Dovecot) -> None:
    alice, bob = dovecot.accounts["alice"], dovecot.accounts["bob"]
    context = trusting(dovecot.ca_file)
    with imaplib.IMAP4_SSL("localhost", dovecot.imaps_port, ssl_context=context, timeout=SECONDS) as connection:
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            connection.login(alice.name, bob.password)
        connection.login(alice.address, alice.password)


def test_starttls_on_the_imap_port(dovecot: Dovecot, account: Account) -> None:
    with imaplib.IMAP4(dovecot.plain_host, dovecot.imap_port, timeout=SECONDS) as connection:
        connection.starttls(trusting(dovecot.ca_file))
        connection.login(account.name, account.password)


def test_login_without_tls_is_a_matter_of_choice(
    dovecot: Dovecot, certificates: Certificates, account: Account
) -> None:
    with imaplib.IMAP4(dovecot.plain_host, dovecot.imap_port, timeout=SECONDS) as connection:
        connection.login(account.name, account.password)
    with (
        Dovecot.start(certificates.good, login_without_tls=False) as strict,
        imaplib.IMAP4(strict.plain_host, strict.imap_port, timeout=SECONDS) as connection,
    ):
        assert "LOGINDISABLED" in connection.capabilities
        connection.starttls(trusting(strict.ca_file))
        alice = strict.accounts["alice"]
        connection.login(alice.name, alice.password)


@pytest.mark.parametrize("storage", ["maildir", "mdbox"])
def test_messages_come_back_octet_for_octet_and_in_order(certificates: Certificates, storage: Storage) -> None:
    messages = [b"Subject: %d\r\n\r\nbody\rwith \xff octets\r\n" % number for number in range(1000)] + [b"", b"no end"]
    with Dovecot.start(certificates.good, storage=storage) as dovecot:
        dovecot.add_messages("carol", messages)
        dovecot.add_message("carol", MESSAGE)
        assert dovecot.messages("carol") == [*messages, MESSAGE]


def test_a_file_with_bare_line_feeds_comes_back_with_crlf(dovecot: Dovecot, account: Account) -> None:
    dovecot.add_message(account.name, b"Subject: unix\n\nmixed\r\nends\n")
    assert dovecot.messages(account.name) == [b"Subject: unix\r\n\r\nmixed\r\nends\r\n"]


def test_reading_leaves_no_trace_and_another_program_does(dovecot: Dovecot, account: Account) -> None:
    dovecot.add_messages(account.name, [MESSAGE, MESSAGE])
    dovecot.messages(account.name)
    assert dovecot.flags(account.name) == [{"\\Recent"}, {"\\Recent"}]
    with dovecot.connect(account.name) as other:
        other.select()
        other.store("2", "+FLAGS", r"(\Deleted)")
    assert dovecot.flags(account.name) == [set(), {"\\Deleted"}]
    assert dovecot.messages(account.name, "Trash") == []


def test_the_pop3_server_has_the_same_mail(dovecot: Dovecot, account: Account) -> None:
    dovecot.add_message(account.name, b"Subject: one\r\n\r\ntwo\r\n")
    client = poplib.POP3(dovecot.plain_host, dovecot.pop3_port, timeout=SECONDS)
    client.user(account.name)
    client.pass_(account.password)
    assert client.retr(1)[1] == [b"Subject: one", b"", b"two"]
    client.quit()


def test_an_account_may_have_any_password(dovecot: Dovecot) -> None:
    account = dovecot.add_account(password='a:b "c\\ d\xe9')
    assert dovecot.messages(account.name) == []


# Postfix


def logged_in(postfix: Postfix, account: Account) -> smtplib.SMTP:
    context = trusting(postfix.ca_file)
    client = smtplib.SMTP_SSL("localhost", postfix.smtps_port, context=context, timeout=SECONDS)
    client.login(account.name, account.password)
    return client


def test_what_postfix_accepts_dovecot_has(postfix: Postfix, dovecot: Dovecot, account: Account) -> None:
    sender = dovecot.accounts["alice"]
    with logged_in(postfix, sender) as client:
        assert client.sendmail(sender.address, [account.address], MESSAGE) == {}
    (arrived,) = dovecot.wait_for_messages(account.name, 1)
    trace, separator, content = arrived.partition(b"Subject: one\r\n")
    assert separator + content == MESSAGE
    assert trace.startswith(b"Return-Path: <alice@example.test>\r\n")


def test_starttls_on_the_submission_port(postfix: Postfix, dovecot: Dovecot, account: Account) -> None:
    with smtplib.SMTP("localhost", postfix.submission_port, timeout=SECONDS) as client:
        assert client.docmd("MAIL", "FROM:<a@example.test>")[0] == 530
        client.starttls(context=trusting(postfix.ca_file))
        client.login(account.name, account.password)
        client.sendmail(account.address, [account.address], MESSAGE)
    assert len(dovecot.wait_for_messages(account.name, 1)) == 1


def test_postfix_wants_the_right_password(postfix: Postfix, account: Account) -> None:
    context = trusting(postfix.ca_file)
    with smtplib.SMTP_SSL("localhost", postfix.smtps_port, context=context, timeout=SECONDS) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login(account.name, "wrong")
        assert refused.value.smtp_code == 535
        assert client.mail(account.address)[0] == 250
        assert client.rcpt(account.address)[0] == 554


@pytest.mark.parametrize(
    ("sender", "recipient", "reply"),
    [
        ("", UNKNOWN_RECIPIENT, (550, b"5.1.1")),
        ("", LATER_RECIPIENT, (450, b"4.2.1")),
        (REFUSED_SENDER, "bob@example.test", (550, b"5.7.1")),
        ("", "someone@elsewhere.test", (550, b"5.7.1")),
        ("", "someone@localhost", (550, b"5.7.1")),
        ("", "root", (550, b"5.7.1")),
    ],
)
def test_postfix_refuses(
    postfix: Postfix, account: Account, sender: str, recipient: str, reply: tuple[int, bytes]
) -> None:
    with logged_in(postfix, account) as client:
        assert client.mail(sender)[0] == 250
        code, text = client.rcpt(recipient)
        assert (code, text.split()[0]) == reply


def test_postfix_refuses_content(postfix: Postfix, account: Account) -> None:
    with logged_in(postfix, account) as client, pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail(account.address, [account.address], REFUSED_FIELD.encode() + b": not today\r\n\r\n")
    assert (refused.value.smtp_code, refused.value.smtp_error) == (550, b"5.7.1 not today")


def test_a_postfix_of_ones_own(certificates: Certificates, dovecot: Dovecot, account: Account) -> None:
    with Postfix.start(
        certificates.good,
        dovecot,
        message_size_limit=2000,
        recipients={"full@example.test": "452 4.2.2 full"},
        settings={"smtpd_recipient_limit": "1", "smtpd_delay_reject": "no"},
    ) as postfix:
        with logged_in(postfix, account) as client:
            client.ehlo()
            assert client.esmtp_features["size"] == "2000"
            assert client.mail(REFUSED_SENDER)[0] == 550
            client.mail(account.address)
            assert client.rcpt("full@example.test")[0] == 452
            client.rcpt(account.address)
            assert client.data(MESSAGE)[0] == 552
            client.mail(account.address)
            client.rcpt(account.address)
            assert client.rcpt("bob@example.test")[0] == 452


# Start and stop


def test_nothing_is_left_of_a_stopped_dovecot(certificates: Certificates) -> None:
    with Dovecot.start(certificates.good) as dovecot:
        folder, leader = dovecot.auth_socket.parent, dovecot.pids[0]
        client = poplib.POP3(dovecot.plain_host, dovecot.pop3_port, timeout=SECONDS)
        client.user("bob")
        client.pass_(dovecot.accounts["bob"].password)
        dovecot.stop()
        assert members(leader) == []
        client.close()
    assert not folder.exists()
    assert not answers(dovecot.imaps_port)


def test_killed_servers_come_back_on_their_ports_with_their_mail(certificates: Certificates) -> None:
    with Dovecot.start(certificates.good) as dovecot, Postfix.start(certificates.good, dovecot) as postfix:
        bob = dovecot.accounts["bob"]
        ports = dovecot.imaps_port, postfix.smtps_port
        dovecot.add_message("bob", MESSAGE)
        for server in (dovecot, postfix):
            leader = server.pids[0]
            server.kill()
            assert members(leader) == []
            server.start_again()
        assert (dovecot.imaps_port, postfix.smtps_port) == ports
        with logged_in(postfix, bob) as client:
            client.sendmail("", [bob.address], MESSAGE)
        assert len(dovecot.wait_for_messages("bob", 2)) == 2


def test_a_frozen_server_answers_when_it_is_thawed(certificates: Certificates) -> None:
    with Dovecot.start(certificates.good) as dovecot:
        dovecot.freeze()
        assert {psutil.Process(pid).status() for pid in dovecot.pids} == {psutil.STATUS_STOPPED}
        dovecot.thaw()
        assert dovecot.messages("bob") == []


def test_nothing_is_left_of_a_stopped_postfix(certificates: Certificates, dovecot: Dovecot, account: Account) -> None:
    with Postfix.start(certificates.good, dovecot) as postfix:
        leader = postfix.pids[0]
        with logged_in(postfix, account) as client:
            client.sendmail("", [account.address], MESSAGE)
            postfix.stop()
            assert members(leader) == []
            client.close()
    assert not answers(postfix.smtps_port)


@pytest.fixture
def offers(dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ports that servers were offered as free. One of the first offer is taken before the server can bind it."""
    look, offered = processes.free_ports, list[list[int]]()

    def offer(count: int) -> list[int]:
        ports = look(count)
        offered.append(ports if offered else [*ports[1:], dovecot.imaps_port])
        return offered[-1]

    monkeypatch.setattr(processes, "free_ports", offer)
    return offered


def test_dovecot_takes_other_ports_if_one_is_taken(certificates: Certificates, offers: list[list[int]]) -> None:
    with Dovecot.start(certificates.good) as dovecot:
        assert dovecot.messages("alice") == []
    assert len(offers) == 2


def test_postfix_takes_other_ports_if_one_is_taken(
    certificates: Certificates, dovecot: Dovecot, account: Account, offers: list[list[int]]
) -> None:
    with Postfix.start(certificates.good, dovecot) as postfix, logged_in(postfix, account) as client:
        assert client.noop()[0] == 250
    assert len(offers) == 2


def test_dovecot_that_does_not_start_says_why(certificates: Certificates) -> None:
    with pytest.raises(DidNotStart, match="Unknown setting: nonsense"):
        Dovecot.start(certificates.good, settings="nonsense = yes")


def test_postfix_that_does_not_start_says_why(certificates: Certificates, dovecot: Dovecot) -> None:
    with pytest.raises(DidNotStart, match="bad numerical configuration: message_size_limit = many"):
        Postfix.start(certificates.good, dovecot, settings={"message_size_limit": "many"})


def test_a_server_does_not_outlive_killed_tests(tmp_path: Path) -> None:
    script = """
import os, sys
from contextlib import suppress
from pathlib import Path
from realservers.processes import Daemon
daemon = Daemon.start(
    ["/bin/sh", "-c", "echo up; sleep 600; :"], log_file=Path(sys.argv[1]), started="up", ports=[]
)
print(daemon.pid, *daemon.members, flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "log"],
        env=environment,
        stdout=subprocess.PIPE,
        timeout=SECONDS,
        check=False,
    )
    assert killed.returncode == -9
    leader, *running = map(int, killed.stdout.split())
    assert leader in running
    wait_until(lambda: leader not in members(leader), "the server has ended", SECONDS)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_program_is_a_skip_and_in_ci_a_failure(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("NOTHING_MAY_BE_MISSING", ci)
    with pytest.raises(outcome, match="no-such-program is not installed: it would read mail"):
        require("no-such-program", "would read mail")
