"""What a device reads at QUIT, and what it is shown afterwards, by the settings that a site has for it."""

from __future__ import annotations

import poplib
from pathlib import Path

import pytest

from interop.proxy import Proxy, backends, running
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix

MESSAGES = [b"Subject: %d\r\n\r\nx\r\n" % number for number in range(1, 5)]


def pop3(proxy: Proxy) -> poplib.POP3:
    client = poplib.POP3(*proxy.pop3, timeout=50)
    client.user("anybody")
    client.pass_("anything")
    return client


POLICIES = [
    ("expunge", MESSAGES[2:], []),
    ("trash", MESSAGES[2:], MESSAGES[:2]),
    ("flag", MESSAGES, []),
    ("keep", MESSAGES, []),
]


@pytest.mark.long
@pytest.mark.parametrize(("policy", "left", "trash"), POLICIES)
def test_deleted_means_not_shown_again(
    policy: str,
    left: list[bytes],
    trash: list[bytes],
    dovecot: Dovecot,
    postfix: Postfix,
    account: Account,
    tmp_path: Path,
) -> None:
    dovecot.add_messages(account.name, MESSAGES)
    variables = backends(dovecot, postfix, account) | {"BACKEND_IMAP_DELETE": policy, "STATE_DIR": str(tmp_path)}
    with running(variables) as proxy:
        client = pop3(proxy)
        client.dele(1)
        client.dele(2)
        assert client.quit().startswith(b"+OK")
        assert dovecot.messages(account.name) == left
        assert dovecot.messages(account.name, "Trash") == trash
    with running(variables) as proxy:
        client = pop3(proxy)
        assert client.stat()[0] == 2
        assert client.retr(1)[1][0] == b"Subject: 3"
        client.quit()


def test_nothing_may_be_deleted(dovecot: Dovecot, postfix: Postfix, account: Account) -> None:
    dovecot.add_messages(account.name, MESSAGES)
    limits = {"POP3_READ_ONLY": "true", "POP3_NEWEST_MESSAGES": "3", "POP3_UIDL_FORMAT": "cyrus"}
    with running(backends(dovecot, postfix, account) | limits) as proxy:
        client = pop3(proxy)
        assert client.stat() == (3, sum(map(len, MESSAGES[1:])))
        uids = [line.split()[1].partition(b".")[2] for line in client.uidl()[1]]
        assert uids == [b"2", b"3", b"4"]
        client.dele(1)
        with pytest.raises(poplib.error_proto, match="-ERR"):
            client.quit()
        client.close()
        proxy.wait_for("POP3_READ_ONLY")
    assert dovecot.messages(account.name) == MESSAGES
