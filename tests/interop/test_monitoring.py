"""The running command watched as its operator would: a real Prometheus scrapes it, and an alert fires."""

from __future__ import annotations

import json
import poplib
import re
import signal
import smtplib
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest

from interop.proxy import START_SECONDS, Proxy, backends, run, running
from pages import ROOT
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import wait_until
from realservers.prometheus import Prometheus

RULES = ROOT / "proxy/docs/monitoring/alerts.yml"
DASHBOARD = ROOT / "proxy/docs/monitoring/dashboard.json"
ADMIN = {"ADMIN_BIND_PORT": "0"}
P = "legacy_email_proxy_"


def admin(proxy: Proxy) -> str:
    found = re.search(r" admin=([^ ]+)", proxy.lines(" started ")[0])
    assert found
    return found[1]


def get(proxy: Proxy, path: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{admin(proxy)}{path}", headers=headers), timeout=50
        ) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def use(proxy: Proxy, account: Account) -> None:
    with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
        smtp.sendmail(account.address, [account.address], b"Subject: scan\r\n\r\nx\r\n")
    client = poplib.POP3(*proxy.pop3, timeout=50)
    client.user("anybody")
    client.pass_("anything")
    for number in range(1, client.stat()[0] + 1):
        client.retr(number)
    client.quit()


@pytest.mark.long
def test_prometheus_reads_what_happened(dovecot: Dovecot, postfix: Postfix, account: Account, tmp_path: Path) -> None:
    dovecot_mail = {**backends(dovecot, postfix, account), **ADMIN}
    with running(dovecot_mail) as proxy:
        use(proxy, account)
        proxy.wait_for("pop3 session ended")
        status, body = get(proxy, "/readyz", Accept="application/json")
        assert (status, json.loads(body)["ready"]) == (200, True), body
        with Prometheus.start([admin(proxy)], RULES) as prometheus:

            def value(name: str) -> float | None:
                return prometheus.value(f"{P}{name}")

            wait_until(lambda: value("build_info") == 1, "the first scrape", START_SECONDS)
            assert set(prometheus.rules().values()) <= {"ok", "unknown"}
            assert value('messages_total{leg="smtp",verdict="relayed"}') == 1
            assert value('sessions_total{protocol="pop3",result="quit"}') == 1
            assert (value('last_success_timestamp_seconds{leg="pop3"}') or 0) > 1e9
            timed = {"smtp": "connect tls hello login mail content", "pop3": "connect tls login list"}
            for leg, steps in timed.items():
                for step in steps.split():
                    assert (value(f'backend_seconds_count{{leg="{leg}",step="{step}"}}') or 0) >= 1, step
            assert value('backend_connections{leg="smtp",state="idle"}') == 1
            assert prometheus.firing() == {}
            wait_until(lambda: without_data(prometheus) == EMPTY, "each panel shows it", START_SECONDS)


EMPTY = {"In the spool", "Oldest in the spool", "Tokens end in", "Refusals a minute"}
"""Panels without data for a proxy that has no spool and no tokens, and has refused nothing."""


def without_data(prometheus: Prometheus) -> set[str]:
    """The dashboard's panels that would be empty. A query that Prometheus does not understand is an error."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    answered = {
        (panel["title"], prometheus.value(target["expr"].replace("$instance", ".*")) is not None)
        for panel in panels for target in panel["targets"]
    }  # fmt: skip
    return {panel["title"] for panel in panels} - {title for title, data in answered if data}


@pytest.mark.long
def test_an_alert_fires_for_a_backend_that_is_down(account: Account, tmp_path: Path) -> None:
    # As shipped, but without the patience: it would need a quarter of an hour.
    rules = tmp_path / "alerts.yml"
    rules.write_text(re.sub(r"for: \d+m", "for: 0s", RULES.read_text()))
    closed = {"MAILDROP_PLUGIN": "none", "BACKEND_SMTP_HOST": "127.0.0.1", "BACKEND_SMTP_PORT": "1"}
    password = {"ADMIN_PASSWORD": "s3cret"}
    with (
        running({**closed, **ADMIN, **password}) as proxy,
        Prometheus.start(
            [admin(proxy)], rules, basic_auth={"username": "prometheus", "password": "s3cret"}
        ) as prometheus,
    ):
        wait_until(lambda: prometheus.value(f"{P}build_info") == 1, "the first scrape", START_SECONDS)

        def fires() -> bool:
            with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
                smtp.ehlo("scanner")
                assert smtp.mail("scanner@firm.example")[0] == 451
            return "MailProxyBackendSilent" in prometheus.firing()

        wait_until(fires, "the alert fires", START_SECONDS)
        assert get(proxy, "/readyz") == (503, "not ready\n")
        assert get(proxy, "/metrics")[0] == 401


@pytest.mark.long
def test_ready_from_the_shell(dovecot: Dovecot, postfix: Postfix, account: Account, tmp_path: Path) -> None:
    state = {"STATE_DIR": str(tmp_path / "state")}
    done = run("healthcheck", "--ready", **state)
    assert (done.returncode, done.stderr) == (
        1, "legacy-email-proxy: no service is running with this STATE_DIR\n",
    )  # fmt: skip
    variables = {**backends(dovecot, postfix, account), **state}
    with running(variables):
        done = run("healthcheck", "--ready", **state)
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line.partition(":")[0] for line in done.stdout.splitlines()]
        assert lines == ["ready", "ok     backend pop3", "ok     backend smtp", "ok     disk"]
    with running({**variables, "BACKEND_SMTP_PASS": "wrong"}) as proxy:
        done = run("healthcheck", "--ready", "--json", **state)
        assert done.returncode == 1
        report = json.loads(done.stdout)
        (backend,) = [check for check in report["checks"] if not check["ok"]]
        assert (backend["what"], backend["leg"]) == ("backend", "smtp")
        assert "535" in backend["says"]
        # The refused password is not tried again, however often somebody asks.
        for _ in range(3):
            assert run("healthcheck", "--ready", **state).returncode == 1
        assert len(proxy.lines("the same password or token is not tried again")) == 1


def test_a_start_that_would_show_the_figures_to_strangers() -> None:
    done = run("serve", MAILDROP_PLUGIN="none", BACKEND_SMTP_HOST="x", ADMIN_BIND_PORT="0", ADMIN_BIND_ADDR="0.0.0.0")
    assert done.returncode == 2
    assert "ADMIN_PASSWORD: not set, and ADMIN_BIND_ADDR has 0.0.0.0" in done.stderr


def test_it_is_not_ready_while_it_drains(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for folder in ("cur", "new", "tmp"):
        (out / folder).mkdir(parents=True)
    maildir = {"MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "maildir", "RELAY_MAILDIR_PATH": str(out)}
    with running({**maildir, **ADMIN, "DRAIN_SECONDS": "50"}) as proxy:
        assert get(proxy, "/readyz")[0] == 200
        smtp = smtplib.SMTP(*proxy.smtp, timeout=50)
        smtp.ehlo("scanner")
        assert smtp.mail("scanner@firm.example")[0] == 250
        proxy.send(signal.SIGTERM)
        proxy.wait_for(" stopping ")
        wait_until(lambda: get(proxy, "/readyz")[0] == 503, "it is not ready", START_SECONDS)
        assert get(proxy, "/livez") == (200, "ok\n")
        # The device's message goes through nevertheless.
        assert smtp.rcpt("ann@firm.example")[0] == 250
        assert smtp.data(b"Subject: scan\r\n\r\nx\r\n")[0] == 250
        smtp.close()


def test_each_account_has_its_own_state(dovecot: Dovecot, postfix: Postfix, account: Account, tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(
        "[accounts.good]\n[accounts.bad]\nBACKEND_SMTP_PASS = 'wrong'\n"
        "[[rules]]\naccount = 'bad'\nsender = 'bad@firm.example'\n[[rules]]\naccount = 'good'\n"
    )
    variables = {**backends(dovecot, postfix, account), "MAILDROP_PLUGIN": "none", "ACCOUNTS_FILE": str(file), **ADMIN}
    with running(variables) as proxy:
        with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
            smtp.ehlo("scanner")
            assert smtp.mail("bad@firm.example")[0] == 451
            smtp.rset()
            smtp.sendmail(account.address, [account.address], b"Subject: scan\r\n\r\nx\r\n")
        (refused,) = proxy.wait_for("smtp sender refused")
        assert " account=bad " in refused
        status, body = get(proxy, "/readyz", Accept="application/json")
        assert status == 503
        backend = {check["account"]: check["ok"] for check in json.loads(body)["checks"] if check["what"] == "backend"}
        assert backend == {"good": True, "bad": False}
        assert f'{P}last_success_timestamp_seconds{{account="good",leg="smtp"}}' in get(proxy, "/metrics")[1]
