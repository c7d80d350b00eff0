"""Programs that send with a login, with TLS or without, through the real command and Postfix into Dovecot."""

from __future__ import annotations

import json
import os
import smtplib
import ssl
import subprocess
from collections.abc import Iterator

import pytest

from interop.proxy import Proxy, backends, running
from interop.test_clients import BODY, client, sent
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import require, unavailable

SENDER = "scanner@example.test"


@pytest.fixture
def proxy(dovecot: Dovecot, postfix: Postfix, account: Account, certificates: Certificates) -> Iterator[Proxy]:
    """A proxy for this test's own account that offers TLS and logins."""
    variables = {
        **backends(dovecot, postfix, account),
        "TLS_CERT_FILE": str(certificates.good.certificate_file),
        "TLS_KEY_FILE": str(certificates.good.key_file),
        "SMTPS_BIND_ADDR": "127.0.0.1",
        "SMTPS_BIND_PORT": "0",
        "SMTP_AUTH": "any",
    }
    with running(variables) as proxy:
        yield proxy
        assert "hunter2-xyz" not in proxy.log


def test_smtplib_with_each_login_and_starttls(
    proxy: Proxy, dovecot: Dovecot, account: Account, client_tls: ssl.SSLContext
) -> None:
    for count, mechanism in enumerate(("PLAIN", "LOGIN"), 1):
        with smtplib.SMTP("localhost", proxy.smtp[1], timeout=50) as smtp:
            smtp.starttls(context=client_tls)
            smtp.ehlo()
            assert {"PLAIN", "LOGIN"} <= set(smtp.esmtp_features["auth"].split())
            smtp.user, smtp.password = "scanner", "hunter2-xyz"
            authobject = {"PLAIN": smtp.auth_plain, "LOGIN": smtp.auth_login}[mechanism]
            assert smtp.auth(mechanism, authobject)[0] == 235
            smtp.sendmail(SENDER, [account.address], BODY.encode())
        assert len(dovecot.wait_for_messages(account.name, count)) == count
    assert all("tls=TLSv1.3 user=scanner verdict=quit" in line for line in proxy.wait_for("smtp session ended", 2))


def test_perls_net_smtp(proxy: Proxy, dovecot: Dovecot, account: Account) -> None:
    perl = require("perl", "sends with Net::SMTP, as many scripts on old servers do")
    script = """
        use Net::SMTP;
        my ($port, $from, $to, $body) = @ARGV;
        my $smtp = Net::SMTP->new('127.0.0.1', Port => $port, Timeout => 20) or die "no greeting: $@";
        $smtp->mail($from) && $smtp->to($to) && $smtp->data() && $smtp->datasend($body) && $smtp->dataend()
            or die $smtp->message;
        print $smtp->message;
        $smtp->quit or die $smtp->message;
    """
    output = client(perl, "-e", script, str(proxy.smtp[1]), SENDER, account.address, BODY)
    assert "the message is taken over" in output
    sent(dovecot, account)


def test_msmtp_with_a_login_and_starttls(
    proxy: Proxy, dovecot: Dovecot, account: Account, certificates: Certificates
) -> None:
    msmtp = require("msmtp", "speaks STARTTLS and AUTH as a real client")
    client(
        msmtp, "--host", "localhost", "--port", str(proxy.smtp[1]), "--tls=on", "--tls-starttls=on",
        "--tls-trust-file", str(certificates.ca_file), "--auth=login", "--user", "scanner",
        "--passwordeval", "echo hunter2-xyz", "--from", SENDER, account.address, text=BODY.replace("\r\n", "\n"),
    )  # fmt: skip
    sent(dovecot, account)
    assert "tls=TLSv1.3 user=scanner" in proxy.wait_for("smtp session ended")[0]


NODE = """
    const [mail, ...ways] = process.argv.slice(1).map(JSON.parse);
    (async () => {
        for (const way of ways) {
            const transport = require("nodemailer").createTransport({host: "localhost", ...way});
            console.log((await transport.sendMail(mail)).response);
            transport.close();
        }
    })().catch((error) => { console.error(error); process.exit(1); });
"""


def test_nodemailer(proxy: Proxy, dovecot: Dovecot, account: Account, certificates: Certificates) -> None:
    node = require("node", "sends with nodemailer")
    # Where Debian's package puts it; a node of another origin doesn't look there of its own accord.
    environment = {**os.environ, "NODE_PATH": "/usr/share/nodejs", "NODE_EXTRA_CA_CERTS": str(certificates.ca_file)}
    there = subprocess.run([node, "-e", 'require("nodemailer")'], env=environment, capture_output=True, check=False)
    if there.returncode:
        unavailable("nodemailer is not installed (Debian: node-nodemailer): it sends as programs for node.js do")
    auth = {"user": "scanner", "pass": "hunter2-xyz"}
    ways = [
        {"port": proxy.smtp[1], "ignoreTLS": True},
        {"port": proxy.smtp[1], "requireTLS": True, "auth": auth},
        {"port": proxy.place("smtps")[1], "secure": True, "auth": auth, "authMethod": "LOGIN"},
    ]
    mail = {
        "from": f"Scanner <{SENDER}>", "to": account.address, "subject": "from nodemailer", "text": ".dot\nGrüße\n",
    }  # fmt: skip
    done = subprocess.run(
        [node, "-e", NODE, "--", json.dumps(mail), *map(json.dumps, ways)],
        env=environment, capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("250 2.0.0 OK, the message is taken over") == 3
    messages = dovecot.wait_for_messages(account.name, 3)
    assert all(b"Subject: from nodemailer\r\n" in message for message in messages)
