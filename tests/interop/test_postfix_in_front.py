"""A real Postfix that hands its mail to the proxy as its smarthost, and another behind: what it is told at first."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager

from interop.proxy import Proxy, backends, running
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix


@contextmanager
def in_front(proxy: Proxy, certificates: Certificates, dovecot: Dovecot) -> Iterator[Postfix]:
    settings = {
        "virtual_mailbox_domains": "",
        "default_transport": "smtp",
        "relayhost": f"[127.0.0.1]:{proxy.smtp[1]}",
        "mynetworks": "127.0.0.0/8",
        "smtpd_tls_security_level": "may",
        "smtpd_sasl_auth_enable": "no",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
    }
    with Postfix.start(certificates.good, dovecot, settings=settings) as postfix:
        yield postfix


def fate(postfix: Postfix, recipient: str, sender: str, *options: str) -> str:
    """What Postfix's log says became of the message at its smarthost."""
    with smtplib.SMTP("127.0.0.1", postfix.submission_port, timeout=50) as smtp:
        smtp.ehlo()
        smtp.command_encoding = "utf-8"
        smtp.sendmail(sender, [recipient], "Subject: \u00e4\r\n\r\nx\r\n".encode(), options)
    return postfix.logged(rf"to=<{recipient}>, .*?(status=.*)")[0]


def test_the_first_message_may_be_an_international_one(
    dovecot: Dovecot, postfix: Postfix, certificates: Certificates, account: Account
) -> None:
    with running(backends(dovecot, postfix, account)) as proxy, in_front(proxy, certificates, dovecot) as front:
        told = fate(front, account.address, "j\u00fcrgen@example.test", "SMTPUTF8")
        assert told.startswith("status=sent (250 2.0.0 ")


def test_a_provider_that_does_not_take_it_says_so_itself(
    dovecot: Dovecot, certificates: Certificates, account: Account
) -> None:
    settings = {"smtpd_discard_ehlo_keywords": "smtputf8"}
    with Postfix.start(certificates.good, dovecot, settings=settings) as behind:
        with running(backends(dovecot, behind, account)) as proxy, in_front(proxy, certificates, dovecot) as front:
            told = fate(front, account.address, "j\u00fcrgen@example.test", "SMTPUTF8")
            assert re.match(r"status=bounced \(host 127\.0\.0\.1\[127\.0\.0\.1\] said: 550 5\.6\.7 ", told)


def test_while_the_provider_can_not_be_asked_it_waits(
    dovecot: Dovecot, certificates: Certificates, account: Account, postfix: Postfix
) -> None:
    down = backends(dovecot, postfix, account) | {"BACKEND_SMTP_PORT": "1"}
    with running(down) as proxy, in_front(proxy, certificates, dovecot) as front:
        told = fate(front, account.address, "j\u00fcrgen@example.test", "SMTPUTF8")
        assert re.match(r"status=deferred \(host 127\.0\.0\.1\[127\.0\.0\.1\] said: 451 4\.4\.1 ", told)
