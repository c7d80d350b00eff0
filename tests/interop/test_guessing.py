"""A crowd of wrong passwords in front of a real Dovecot, which counts the failed logins that reach it."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from interop.proxy import backends, running
from interop.test_accounts import POP3
from legacy_email_proxy.guessing import FREE
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix

GUESSER, HONEST = "127.0.0.66", "127.0.0.7"


@pytest.mark.long
@pytest.mark.fault("C30")
def test_wrong_passwords_stay_here(dovecot: Dovecot, postfix: Postfix) -> None:
    victim, other = dovecot.add_account(), dovecot.add_account()
    variables = backends(dovecot, postfix, victim) | {"POP3_LOGIN": "backend", "BACKEND_IMAP_USER": ""}
    with running(variables | {"BACKEND_IMAP_PASS": ""}) as proxy, ExitStack() as stack:
        guessers = []
        for number in range(60):
            guesser = stack.enter_context(socket.create_connection(proxy.pop3, 50, (GUESSER, 0)))
            guesser.sendall(b"USER %s\r\nPASS wrong %d\r\n" % (victim.name.encode(), number))
            guessers.append(guesser)
        for account in (victim, other):
            # The victim too: a stranger's guesses don't lock it out.
            client = POP3(proxy.pop3, HONEST)
            client.user(account.name)
            client.pass_(account.password)
            client.quit()
        answers = []
        for guesser in guessers:
            lines = guesser.makefile("rb")
            assert [lines.readline()[:3] for _ in range(2)] == [b"+OK", b"+OK"]
            answers.append(lines.readline())
        refused = sum(answer.startswith(b"-ERR [AUTH] ") for answer in answers)
        put_off = sum(answer.startswith(b"-ERR [SYS/TEMP] too many failed logins") for answer in answers)
        # The guesser's patience is long enough for two pauses.
        assert FREE <= refused <= FREE + 3
        assert refused + put_off == 60
        # Each is a connection of its own. A password that was refused one way is tried another way once.
        tries = dovecot.logged(rf"auth failed, (\d+) attempts.*user=<{victim.name}>", times=refused)
        assert refused <= sum(map(int, tries)) <= 2 * refused
        assert len(proxy.wait_for("password guessing")) == 1
        assert GUESSER in proxy.lines("password guessing")[0]
