"""Real clients from Debian's packages, as people use them, through the proxy into Postfix and Dovecot."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from interop.proxy import Proxy
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.processes import require, short_folder

BODY = "Subject: from a real client\r\nFrom: scanner@example.test\r\n\r\nhello\r\n.starts with a dot\r\n"
MESSAGES = [b"Subject: %d\r\nFrom: a@example.test\r\n\r\n.dot\r\nbody %d\r\n" % (number, number) for number in range(3)]


def client(*command: str, text: str | None = None, statuses: Sequence[int] = (0,), user: str | None = None) -> str:
    """Run a client that must end with one of these statuses; returns what it printed. Only root can be another user."""
    other = pwd.getpwnam(user) if user and os.geteuid() == 0 else None
    done = subprocess.run(
        command,
        input=None if text is None else text.encode(),
        capture_output=True,
        timeout=40,
        check=False,
        user=other.pw_uid if other else None,
        group=other.pw_gid if other else None,
    )
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode in statuses, output
    return output


def sent(dovecot: Dovecot, account: Account) -> bytes:
    """The one message that has arrived."""
    (message,) = dovecot.wait_for_messages(account.name, 1)
    assert b"Subject: from a real client\r\n" in message
    assert message.endswith(b"hello\r\n.starts with a dot\r\n")
    return message


# Sending


def test_curl_sends(proxy: Proxy, dovecot: Dovecot, account: Account, tmp_path: Path) -> None:
    curl = require("curl", "sends as a real client")
    (tmp_path / "mail").write_bytes(BODY.encode())
    url = "smtp://{}:{}".format(*proxy.smtp)
    envelope = ("--mail-from", "scanner@example.test", "--mail-rcpt", account.address)
    client(curl, "-sS", url, *envelope, "-T", str(tmp_path / "mail"))
    sent(dovecot, account)


@pytest.mark.parametrize("options", [(), ("--pipeline",), ("--protocol", "SMTP")])
def test_swaks_sends(options: Sequence[str], proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    swaks = require("swaks", "sends as a real client")
    output = client(
        swaks, "--server", proxy.smtp[0], "--port", str(proxy.smtp[1]), "--from", "scanner@example.test",
        "--to", account.address, "--data", "Subject: from a real client\n\nhello\n.starts with a dot", *options,
    )  # fmt: skip
    assert "250 2.0.0 OK, the message is taken over" in output
    (message,) = dovecot.wait_for_messages(account.name, 1)
    assert b"hello\r\n.starts with a dot\r\n" in message


def test_swaks_is_told_the_backends_verdict(proxy: Proxy) -> None:
    swaks = require("swaks", "sends as a real client")
    output = client(
        swaks, "--server", proxy.smtp[0], "--port", str(proxy.smtp[1]), "--from", "scanner@example.test",
        "--to", "nobody@example.test", statuses=(24,),
    )  # fmt: skip
    assert "550 5.1.1" in output


def test_msmtp_sends(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    msmtp = require("msmtp", "sends as a real client")
    client(
        msmtp, "--host", proxy.smtp[0], "--port", str(proxy.smtp[1]), "--tls=off", "--auth=off",
        "--from", "scanner@example.test", account.address, text=BODY.replace("\r\n", "\n"),
    )  # fmt: skip
    sent(dovecot, account)


def test_mutt_sends(proxy: Proxy, dovecot: Dovecot, account: Account, tmp_path: Path) -> None:
    mutt = require("mutt", "sends as a real client")
    (tmp_path / "muttrc").write_text(
        "set smtp_url=smtp://{}:{}\n".format(*proxy.smtp)
        + "set ssl_starttls=no\nset ssl_force_tls=no\nset from=scanner@example.test\nset copy=no\nset use_domain=no\n"
        "set hostname=example.test\n"
    )
    client(mutt, "-n", "-F", str(tmp_path / "muttrc"), "-s", "from a real client", account.address,
           text="hello\n.starts with a dot\n")  # fmt: skip
    sent(dovecot, account)


def test_netcat_with_the_whole_session_in_a_file(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    nc = require("nc", "pipes a session, as scripts do")
    session = (
        f"HELO x\r\nMAIL FROM:<scanner@example.test>\r\nRCPT TO:<{account.address}>\r\nDATA\r\n"
        f"{BODY.replace(chr(10) + '.', chr(10) + '..')}.\r\nQUIT\r\n"
    )
    output = client(nc, "-N", proxy.smtp[0], str(proxy.smtp[1]), text=session)
    taken, bye = output.splitlines()[-2:]
    assert re.fullmatch(r"250 2\.0\.0 OK, the message is taken over as s[a-z2-9]{5}-\d+", taken)
    assert bye == "221 2.0.0 Bye"
    sent(dovecot, account)


# Reading


def test_curl_reads(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    curl = require("curl", "reads POP3 as a real client")
    dovecot.add_messages(account.name, MESSAGES)
    url = "pop3://{}:{}/".format(*proxy.pop3)
    listed = client(curl, "-sS", "-u", "any:thing", url)
    assert listed.splitlines() == [f"{number} {len(message)}" for number, message in enumerate(MESSAGES, 1)]
    done = subprocess.run([curl, "-sS", "-u", "any:thing", f"{url}2"], capture_output=True, timeout=40, check=True)
    assert done.stdout == MESSAGES[1]
    top = subprocess.run([curl, "-sS", "-u", "a:b", "-X", "TOP 3 0", url], capture_output=True, timeout=40, check=True)
    assert top.stdout.startswith(b"Subject: 2\r\n")
    assert b"body" not in top.stdout


def test_fetchmail_takes_all_and_leaves_nothing(
    proxy: Proxy, dovecot: Dovecot, account: Account, tmp_path: Path
) -> None:
    dovecot.add_messages(account.name, MESSAGES)
    fetchmail(proxy, tmp_path, "--nokeep")
    assert spooled(tmp_path) == 3
    assert dovecot.messages(account.name) == []


def test_fetchmail_keeps_and_takes_each_once(proxy: Proxy, dovecot: Dovecot, account: Account, tmp_path: Path) -> None:
    dovecot.add_messages(account.name, MESSAGES[:2])
    fetchmail(proxy, tmp_path, "--keep", "--uidl")
    assert spooled(tmp_path) == 2
    fetchmail(proxy, tmp_path, "--keep", "--uidl", statuses=(1,))
    assert spooled(tmp_path) == 2
    dovecot.add_messages(account.name, MESSAGES[2:])
    fetchmail(proxy, tmp_path, "--keep", "--uidl")
    assert spooled(tmp_path) == 3
    assert len(dovecot.messages(account.name)) == 3


def fetchmail(proxy: Proxy, folder: Path, *options: str, statuses: Sequence[int] = (0,)) -> None:
    """Fetch into a file, without a configuration of its own beyond the password."""
    program = require("fetchmail", "reads POP3 as a real client")
    configuration = folder / "fetchmailrc"
    configuration.write_text(
        f'poll {proxy.pop3[0]} protocol POP3 port {proxy.pop3[1]} user "any" password "thing" sslproto ""'
        f' mda "cat >> {folder}/spool"\n'
    )
    configuration.chmod(0o600)
    client(program, "-f", str(configuration), "--pidfile", str(folder / "pid"), "-i", str(folder / "ids"), "--nosyslog",
           *options, statuses=statuses)  # fmt: skip


def spooled(folder: Path) -> int:
    spool = folder / "spool"
    return spool.read_bytes().count(b"Subject: ") if spool.exists() else 0


def test_getmail_takes_each_once_and_deletes(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    program = require("getmail", "reads POP3 as a real client")
    dovecot.add_messages(account.name, MESSAGES)
    with short_folder("getmail-") as folder:
        for name in ("cur", "new", "tmp"):
            (folder / "mail" / name).mkdir(parents=True)

        def fetch(delete: bool) -> int:
            (folder / "getmailrc").write_text(
                "[retriever]\ntype = SimplePOP3Retriever\n"
                f"server = {proxy.pop3[0]}\nport = {proxy.pop3[1]}\nusername = any\npassword = thing\n"
                f"[destination]\ntype = Maildir\npath = {folder}/mail/\n"
                f"[options]\ndelete = {str(delete).lower()}\nread_all = false\n"
            )
            if os.geteuid() == 0:
                # getmail refuses to deliver as root, rightly.
                for path in (folder, *folder.rglob("*")):
                    shutil.chown(path, "nobody")
            client(program, "--getmaildir", str(folder), "--rcfile", "getmailrc", "-q", user="nobody")
            return len(list((folder / "mail" / "new").iterdir()))

        assert fetch(delete=False) == 3
        assert fetch(delete=False) == 3
        assert len(dovecot.messages(account.name)) == 3
        assert fetch(delete=True) == 3
        assert dovecot.messages(account.name) == []
