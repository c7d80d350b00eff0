"""Imports from Postfix: `main.cf` as people have it for a smarthost, and its table of passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from legacy_email_proxy.build import compose
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.setup.draft import Draft
from legacy_email_proxy.setup.postfix import read_config
from realservers.accounts import Account
from realservers.postfix import Postfix
from setup.support import set_up, settings_of

USUAL = """\
# See /usr/share/postfix/main.cf.dist
smtpd_banner = $myhostname ESMTP
biff = no
compatibility_level = 3.6
myhostname = scans.firm.example
relayhost = [smtp.provider.example]:587
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128,
  # a comment in the middle
  192.168.1.0/24
inet_interfaces = all
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = hash:$config_directory/sasl_passwd
smtp_sasl_security_options = noanonymous
smtp_tls_security_level = encrypt
smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt
message_size_limit = 20480000
maximal_queue_lifetime = 2d
"""
PASSWORDS = "# the relay\n[smtp.provider.example]:587\tscanner@firm.example:pass word:with colon\n"


def imported(tmp_path: Path, text: str = USUAL, passwords: str = PASSWORDS) -> Draft:
    (tmp_path / "sasl_passwd").write_text(passwords)
    file = tmp_path / "main.cf"
    file.write_text(text)
    return read_config(file)


def test_a_usual_one(tmp_path: Path) -> None:
    draft = imported(tmp_path)
    assert draft.values == {
        "MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "spool", "BACKEND_SMTP_HOST": "smtp.provider.example",
        "BACKEND_SMTP_PORT": "587", "BACKEND_SMTP_USE_TLS": "true", "BACKEND_SMTP_USER": "scanner@firm.example",
        "BACKEND_SMTP_PASS": "pass word:with colon", "ALLOWED_NETWORKS": "127.0.0.0/8,::1/128,192.168.1.0/24",
        "SMTP_MAX_OCTETS": "20480000", "SPOOL_GIVE_UP_SECONDS": "172800",
    }  # fmt: skip
    assert [line.partition(":")[0] for line in draft.left_out] == ["smtp_tls_security_level = encrypt", "master.cf"]
    assert compose(draft.environment(STATE_DIR=str(tmp_path))).relay


@pytest.mark.parametrize(
    ("relayhost", "more", "expected"),
    [
        ("[h.example]:465", "", {"BACKEND_SMTP_PORT": "465", "BACKEND_SMTP_USE_SSL": "true"}),
        ("[h.example]:submission", "", {"BACKEND_SMTP_PORT": "587"}),
        (
            "h.example",
            "",
            {"BACKEND_SMTP_HOST": "h.example", "BACKEND_SMTP_PORT": "25", "BACKEND_SMTP_USE_TLS": "true"},
        ),
        ("[h.example]:2465", "smtp_tls_wrappermode = yes", {"BACKEND_SMTP_USE_SSL": "true"}),
        ("[h.example]", "smtp_tls_security_level =", {"BACKEND_SMTP_USE_SSL": "false"}),
        ("[2001:db8::1]:587", "", {"BACKEND_SMTP_HOST": "2001:db8::1"}),
        ("$other", "other = [${third}]:25\nthird = h.example", {"BACKEND_SMTP_HOST": "h.example"}),
        ("[h.example]", "sender_canonical_maps = static:a@b.example", {"SMTP_SENDER": "a@b.example"}),
        ("[h.example]", "smtp_tls_CAfile = /ca.pem", {"BACKEND_SMTP_CA_FILE": "/ca.pem"}),
        ("[h.example]", "inet_interfaces = loopback-only", {"SMTP_BIND_ADDR": "127.0.0.1"}),
        ("[h.example]", "smtp_helo_name = x.example", {"BACKEND_SMTP_EHLO_NAME": "x.example"}),
        ("[h.example]", "smtp_sasl_password_maps = static:u:p", {"BACKEND_SMTP_USER": "u", "BACKEND_SMTP_PASS": "p"}),
        (
            "[h.example]",
            "smtpd_use_tls = yes\nsmtpd_tls_cert_file = /c\nsmtpd_tls_key_file = /k",
            {"TLS_KEY_FILE": "/k"},
        ),
    ],
)
def test_parameters(relayhost: str, more: str, expected: dict[str, str], tmp_path: Path) -> None:
    draft = imported(tmp_path, f"{USUAL}relayhost = {relayhost}\n{more}\n")
    assert expected.items() <= draft.values.items(), draft.values


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("relayhost = h.example:25", "the MX record of h.example is not asked for"),
        ("relayhost = [a.example] [b.example]", "relayhost: the second host"),
        ("smtp_sasl_password_maps = ldap:/etc/x", "a table of type ldap"),
        ("smtp_sasl_mechanism_filter = xoauth2", "tokens of sasl-xoauth2"),
        ("sender_canonical_maps = regexp:/etc/x", "sender_canonical_maps = regexp:/etc/x: SMTP_SENDER"),
        ("header_checks = regexp:/etc/x", "header_checks = regexp:/etc/x"),
        ("mynetworks = /etc/postfix/nets, !10.0.0.1", "mynetworks: !10.0.0.1"),
        ("message_size_limit = 0", "message_size_limit = 0, no limit"),
        ("smtp_tls_CApath = /etc/own", "smtp_tls_CApath = /etc/own"),
        ("relayhost = [other.example]", "the login: no entry for [other.example] was found"),
        ("a = $a$b$a\nb = $a$a", "master.cf"),
    ],
)
def test_what_is_not_taken_over_is_told(more: str, words: str, tmp_path: Path) -> None:
    draft = imported(tmp_path, f"{USUAL}{more}\n")
    assert any(words in line for line in draft.left_out), draft.left_out


def test_a_login_for_each_sender(tmp_path: Path) -> None:
    passwords = PASSWORDS + "ann@firm.example ann:x\n@other.example other:y\n"
    draft = imported(tmp_path, f"{USUAL}smtp_sender_dependent_authentication = yes\n", passwords)
    assert [(rule.get("sender"), rule["account"]) for rule in draft.rules] == [
        ("ann@firm.example", "ann"), ("@other.example", "other-example"), (None, "others"),
    ]  # fmt: skip
    assert draft.accounts["ann"]["BACKEND_SMTP_USER"] == "ann"
    assert not any(name.startswith("BACKEND_SMTP") for name in draft.values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("myhostname = x\n", "relayhost is not set"),
        ("relayhost = [x]]\n", "can not be read"),
        ("relayhost = [x]:nosuchservice\n", "there is no service 'nosuchservice'"),
        (
            "relayhost = [x]:25\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = hash:/none\n",
            "can not read '/none'",
        ),
    ],
)
def test_what_can_not_be_used(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsMistake, match=words):
        imported(tmp_path, text)


def test_the_command_tries_it_at_a_real_server(postfix: Postfix, account: Account, tmp_path: Path) -> None:
    place = f"[localhost]:{postfix.submission_port}"
    text = f"relayhost = {place}\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = texthash:sasl_passwd\n"
    text += f"smtp_tls_security_level = secure\nsmtp_tls_CAfile = {postfix.ca_file}\n"
    imported(tmp_path, text, f"{place} {account.name}:{account.password}\n")
    done = set_up(tmp_path, "--from", "postfix", "main.cf")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "logged in as" in done.stdout
    found = settings_of(tmp_path / "mail-proxy.env")
    assert (found["RELAY_PLUGIN"], found["BACKEND_SMTP_PASS"]) == ("spool", account.password)
    wrong = set_up(tmp_path, "--from", "postfix", "main.cf", "--overwrite", "--set", "BACKEND_SMTP_USER=nobody")
    assert wrong.returncode == 1
