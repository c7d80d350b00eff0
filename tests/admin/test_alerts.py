"""The alert rules and the dashboard: that they fire when they should, and name only what there is."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from admin.test_metrics import NAMES
from pages import ROOT
from realservers.processes import ask
from realservers.prometheus import promtool

RULES = ROOT / "proxy/docs/monitoring/alerts.yml"
DASHBOARD = ROOT / "proxy/docs/monitoring/dashboard.json"
P = "legacy_email_proxy_"
LABELS = 'instance="a",job="legacy-email-proxy"'

CASES: dict[str, tuple[list[dict[str, str]], str, bool]] = {
    "down": ([{"series": f"up{{{LABELS}}}", "values": "0x60"}], "MailProxyDown", True),
    "up": ([{"series": f"up{{{LABELS}}}", "values": "1x60"}], "MailProxyDown", False),
    "silent": (
        [{"series": f'{P}refusals_total{{{LABELS},leg="smtp",reply="451"}}', "values": "0+1x60"}],
        "MailProxyBackendSilent", True,
    ),
    "only the device is wrong": (
        [{"series": f'{P}refusals_total{{{LABELS},leg="smtp",reply="550"}}', "values": "0+1x60"}],
        "MailProxyBackendSilent", False,
    ),
    "silent behind the spool, and worked before": (
        [
            {"series": f'{P}messages_total{{{LABELS},leg="smtp",verdict="not_delivered"}}', "values": "0+1x60"},
            {"series": f'{P}last_success_timestamp_seconds{{{LABELS},leg="smtp"}}', "values": "0x60"},
        ],
        "MailProxyBackendSilent", True,
    ),
    "some mail goes through": (
        [
            {"series": f'{P}refusals_total{{{LABELS},leg="smtp",reply="451"}}', "values": "0+1x60"},
            {"series": f'{P}last_success_timestamp_seconds{{{LABELS},leg="smtp"}}', "values": "0+60x60"},
        ],
        "MailProxyBackendSilent", False,
    ),
    "old mail": ([{"series": f"{P}spool_oldest_seconds{{{LABELS}}}", "values": "3601x60"}], "MailProxySpoolOld", True),
    "young mail": ([{"series": f"{P}spool_oldest_seconds{{{LABELS}}}", "values": "60x60"}], "MailProxySpoolOld", False),
    "dead mail": (
        [{"series": f'{P}spool_messages{{{LABELS},state="dead"}}', "values": "1x60"}], "MailProxySpoolStuck", True,
    ),
    "mail that waits": (
        [{"series": f'{P}spool_messages{{{LABELS},state="queued"}}', "values": "1x60"}], "MailProxySpoolStuck", False,
    ),
    "a provider that refuses many recipients": (
        [{"series": f'{P}messages_total{{{LABELS},leg="smtp",verdict="failed"}}', "values": "0+1x60"}],
        "MailProxyMailFailed", True,
    ),
    "a mistyped address": (
        [{"series": f'{P}messages_total{{{LABELS},leg="smtp",verdict="failed"}}', "values": "0x30 1x30"}],
        "MailProxyMailFailed", False,
    ),
    "a token that ended": (
        [
            {"series": f"{P}token_expiry_timestamp_seconds{{{LABELS}}}", "values": "0x120"},
            {"series": f'{P}last_success_timestamp_seconds{{{LABELS},leg="smtp"}}', "values": "0x120"},
        ],
        "MailProxyTokenExpired", True,
    ),
    "a token that nobody needs": (
        [
            {"series": f"{P}token_expiry_timestamp_seconds{{{LABELS}}}", "values": "0x120"},
            {"series": f'{P}last_success_timestamp_seconds{{{LABELS},leg="smtp"}}', "values": "0+60x120"},
        ],
        "MailProxyTokenExpired", False,
    ),
    "a certificate that ends": (
        [{"series": f"{P}credential_expiry_timestamp_seconds{{{LABELS}}}", "values": "2000000x60"}],
        "MailProxyCredentialEnds", True,
    ),
    "a certificate that is good": (
        [{"series": f"{P}credential_expiry_timestamp_seconds{{{LABELS}}}", "values": "9000000x60"}],
        "MailProxyCredentialEnds", False,
    ),
    "guessing": (
        [{"series": f'{P}login_failures_total{{{LABELS},leg="pop3"}}', "values": "0+5x60"}], "MailProxyGuessing", True,
    ),
    "a mistyped password": (
        [{"series": f'{P}login_failures_total{{{LABELS},leg="pop3"}}', "values": "0x50 1x60"}],
        "MailProxyGuessing", False,
    ),
    "too few connections": (
        [{"series": f'{P}backend_connections{{{LABELS},leg="smtp",state="waiting"}}', "values": "2x60"}],
        "MailProxyConnectionsShort", True,
    ),
    "a log that nobody reads": (
        [{"series": f"{P}log_dropped_total{{{LABELS}}}", "values": "0+5x60"}], "MailProxyLogDropped", True,
    ),
}  # fmt: skip


@pytest.mark.long
def test_each_rule_fires_when_it_should_and_not_else(tmp_path: Path) -> None:
    ask(promtool(), "check", "rules", str(RULES))
    for case, (series, alert, fires) in CASES.items():
        minutes = 110 if "120" in series[0]["values"] else 55
        # Labels and words are the rule's own: what is wanted is only that it fires.
        expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
        samples = [{"labels": "{}", "value": 1}] if fires else []
        asked = {"expr": expression, "eval_time": f"{minutes}m", "exp_samples": samples}
        test: dict[str, Any] = {"interval": "1m", "input_series": series, "promql_expr_test": [asked]}
        file = tmp_path / "test.yml"
        # YAML takes JSON.
        file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
        done = subprocess.run([promtool(), "test", "rules", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{case}: {done.stdout}{done.stderr}"
    assert {alert for _, alert, fires in CASES.values() if fires} == set(re.findall(r"alert: (\w+)", RULES.read_text()))


@pytest.mark.parametrize("file", [RULES, DASHBOARD])
def test_only_figures_that_there_are(file: Path) -> None:
    named = set(re.findall(rf"{P}(\w+)", file.read_text()))
    assert named
    assert named <= set(NAMES)


def test_the_dashboard_shows_every_figure() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = {
        name for panel in panels for target in panel["targets"] for name in re.findall(rf"{P}(\w+)", target["expr"])
    }
    assert set(NAMES) - shown == {"build_info", "backend_seconds_count", "backend_seconds_sum"}
    assert len({panel["id"] for panel in panels}) == len(panels)
