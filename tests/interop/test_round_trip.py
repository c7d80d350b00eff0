"""The whole way: a device mails through the proxy into Postfix and Dovecot, and fetches the same octets by POP3."""

from __future__ import annotations

import poplib
import signal
import smtplib
import socket
import subprocess

import pytest

from interop.proxy import Proxy, backends, running
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix

LINE = b"x" * 900 + b"\r\n"
MESSAGES = {
    "plain": b"Subject: scan\r\n\r\nhello\r\n",
    "dots": b"Subject: dots\r\n\r\n.\r\n..\r\n.a\r\n. \r\n",
    "eight_bit": b"Subject: \xe9t\xe9\r\n\r\nna\xefve \xff\xfe\r\n",
    "header_only": b"Subject: nothing else\r\n\r\n",
    "two_megabytes": b"Subject: big\r\n\r\n" + LINE * 2300,
}


def pop3(proxy: Proxy) -> poplib.POP3:
    client = poplib.POP3(*proxy.pop3, timeout=50)
    client.user("anybody")
    client.pass_("anything")
    return client


def retrieve(client: poplib.POP3, number: int) -> bytes:
    return b"".join(line + b"\r\n" for line in client.retr(number)[1])


@pytest.mark.parametrize("name", MESSAGES)
def test_what_a_device_sends_it_reads_back(name: str, proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    message = MESSAGES[name]
    with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
        assert smtp.sendmail("scanner@example.test", [account.address], message) == {}
    stored = dovecot.wait_for_messages(account.name, 1)
    assert stored[0].endswith(message)
    client = pop3(proxy)
    assert client.stat() == (1, len(stored[0]))
    assert client.list()[1] == [b"1 %d" % len(stored[0])]
    assert retrieve(client, 1) == stored[0]
    unique_id = client.uidl()[1][0].split()[1]
    assert len(unique_id) == 16
    client.dele(1)
    client.quit()
    assert dovecot.messages(account.name) == []


def test_recipients_are_judged_by_the_backend(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
        smtp.ehlo()
        assert smtp.mail("scanner@example.test")[0] == 250
        assert smtp.rcpt("nobody@example.test")[0] == 550
        assert smtp.rcpt("later@example.test")[0] == 450
        assert smtp.rcpt(account.address)[0] == 250
        assert smtp.data(b"Subject: one\r\n\r\nx\r\n")[0] == 250
    assert len(dovecot.wait_for_messages(account.name, 1)) == 1
    assert "User unknown" in proxy.wait_for("smtp recipient refused", 2)[0]


@pytest.mark.fault("C19")
def test_a_dropped_session_deletes_nothing(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    dovecot.add_messages(account.name, [b"Subject: %d\r\n\r\nx\r\n" % number for number in range(3)])
    client = pop3(proxy)
    client.dele(1)
    client.dele(2)
    client.sock.shutdown(socket.SHUT_RDWR)
    client.close()
    proxy.wait_for("pop3 session ended")
    assert len(dovecot.messages(account.name)) == 3
    assert dovecot.flags(account.name) == [set(), set(), set()] or all(
        "\\Deleted" not in flags for flags in dovecot.flags(account.name)
    )


def test_only_marked_messages_go_and_foreign_marks_stay(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    dovecot.add_messages(account.name, [b"Subject: %d\r\n\r\nx\r\n" % number for number in range(4)])
    with dovecot.connect(account.name) as imap:
        imap.select()
        imap.store("4", "+FLAGS", "\\Deleted")
    client = pop3(proxy)
    client.dele(1)
    client.dele(3)
    client.rset()
    client.dele(2)
    client.quit()
    assert [message.split(b"\r\n")[0] for message in dovecot.messages(account.name)] == [
        b"Subject: 0", b"Subject: 2", b"Subject: 3",
    ]  # fmt: skip
    assert "\\Deleted" in dovecot.flags(account.name)[2]


def test_unique_ids_are_the_same_in_the_next_session(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    dovecot.add_messages(account.name, [b"Subject: %d\r\n\r\nx\r\n" % number for number in range(3)])
    first = pop3(proxy)
    before = [line.split()[1] for line in first.uidl()[1]]
    first.dele(2)
    first.quit()
    second = pop3(proxy)
    assert [line.split()[1] for line in second.uidl()[1]] == [before[0], before[2]]
    second.quit()


def test_users_of_their_own(dovecot: Dovecot, postfix: Postfix) -> None:
    accounts = [dovecot.add_account() for _ in range(2)]
    for account in accounts:
        dovecot.add_message(account.name, b"To: %s\r\n\r\nx\r\n" % account.name.encode())
    variables = backends(dovecot, postfix, accounts[0]) | {"POP3_LOGIN": "backend", "BACKEND_IMAP_USER": ""}
    with running(variables | {"BACKEND_IMAP_PASS": ""}) as proxy:
        for account in accounts:
            client = poplib.POP3(*proxy.pop3, timeout=50)
            client.user(account.name)
            client.pass_(account.password)
            assert retrieve(client, 1) == b"To: %s\r\n\r\nx\r\n" % account.name.encode()
            client.quit()
        wrong = poplib.POP3(*proxy.pop3, timeout=50)
        wrong.user(accounts[0].name)
        with pytest.raises(poplib.error_proto, match=r"-ERR \[AUTH\] "):
            wrong.pass_(accounts[1].password)
        wrong.close()
        assert not any(account.password in proxy.log for account in accounts)


@pytest.mark.parametrize("upgrade", [True, False])
def test_starttls_and_plain_backends(upgrade: bool, dovecot: Dovecot, postfix: Postfix, account: Account) -> None:
    variables = backends(dovecot, postfix, account) | {
        "BACKEND_IMAP_PORT": str(dovecot.imap_port),
        "BACKEND_SMTP_PORT": str(postfix.submission_port),
        "BACKEND_SMTP_USE_TLS": "true",
    }
    variables |= {"BACKEND_IMAP_USE_STARTTLS": "true"} if upgrade else {"BACKEND_IMAP_USE_SSL": "false"}
    if not upgrade:
        # Dovecot takes a password in the clear from its own machine only under another address than localhost's ::1.
        variables["BACKEND_IMAP_HOST"] = "127.0.0.1"
    dovecot.add_message(account.name, MESSAGES["plain"])
    with running(variables) as proxy:
        with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
            smtp.sendmail("scanner@example.test", [account.address], MESSAGES["dots"])
        dovecot.wait_for_messages(account.name, 2)
        client = pop3(proxy)
        assert MESSAGES["plain"] in [retrieve(client, number) for number in (1, 2)]
        client.quit()
        assert ("in the clear" in proxy.log) is not upgrade


@pytest.mark.fault("D8")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping(number: signal.Signals, proxy: Proxy) -> None:
    idle = socket.create_connection(proxy.smtp, timeout=50)
    reading = pop3(proxy)
    with idle:
        idle.recv(1000)
        assert proxy.stop(number) == 0
        assert idle.recv(1000).startswith(b"421 4.3.2 ")
    reading.close()
    assert len(proxy.lines(" stopping ")) == len(proxy.lines(" stopped")) == 1


@pytest.mark.fault("D9")
def test_a_transaction_may_finish_while_stopping(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    smtp = smtplib.SMTP(*proxy.smtp, timeout=50)
    smtp.ehlo()
    smtp.mail("scanner@example.test")
    smtp.rcpt(account.address)
    proxy.send(signal.SIGTERM)
    proxy.wait_for(" stopping ")
    assert smtp.data(MESSAGES["plain"])[0] == 250
    smtp.close()
    assert proxy.stop() == 0
    assert len(dovecot.wait_for_messages(account.name, 1)) == 1


@pytest.mark.fault("C31")
def test_no_secret_in_the_log_at_debug(dovecot: Dovecot, postfix: Postfix, account: Account) -> None:
    import base64

    dovecot.add_message(account.name, MESSAGES["plain"])
    with running(backends(dovecot, postfix, account) | {"LOG_LEVEL": "debug"}) as proxy:
        with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
            smtp.sendmail("scanner@example.test", [account.address], MESSAGES["plain"])
        client = pop3(proxy)
        client.retr(1)
        client.quit()
        proxy.wait_for("session ended", 2)
        secret = account.password
        plain = f"\0{account.name}\0{secret}"
        for text in (secret, *(base64.b64encode(each.encode()).decode() for each in (secret, plain))):
            assert text not in proxy.log
            assert text.rstrip("=")[:-2] not in proxy.log


def test_healthcheck(dovecot: Dovecot, postfix: Postfix, account: Account, proxy: Proxy) -> None:
    from interop.proxy import run

    ports = {"POP3_BIND_PORT": str(proxy.pop3[1]), "SMTP_BIND_PORT": str(proxy.smtp[1])}
    done: subprocess.CompletedProcess[str] = run("healthcheck", **ports)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    proxy.stop()
    done = run("healthcheck", **ports)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "does not answer: Connection refused" in done.stderr
