"""Events become counters, durations a histogram, and plugins' figures gauges; under the names that are promised."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from admin.support import LOGGER, ProbedRelay, Token, composition
from legacy_email_proxy import log
from legacy_email_proxy.admin.metrics import Metrics
from legacy_email_proxy.admin.outcomes import Outcomes
from legacy_email_proxy.build import Composition
from legacy_email_proxy.contracts import TIMINGS, Figure, LoginRefused, LoginsLimited, Unreachable, timed, took
from legacy_email_proxy.history.events import FAILED_FOR_GOOD, NOTIFICATION_FAILED

POP3 = logging.getLogger("legacy_email_proxy.pop3")
INFO = logging.INFO

NAMES = {
    "sessions_total": {"protocol", "result"},
    "messages_total": {"leg", "verdict"},
    "octets_total": {"leg"},
    "refusals_total": {"leg", "reply"},
    "backend_seconds_bucket": {"leg", "step", "le"},
    "backend_seconds_count": {"leg", "step"},
    "backend_seconds_sum": {"leg", "step"},
    "backend_connections": {"leg", "state"},
    "spool_messages": {"state"},
    "spool_oldest_seconds": set(),
    "token_expiry_timestamp_seconds": {"account"},
    "credential_expiry_timestamp_seconds": {"account"},
    "login_failures_total": {"leg"},
    "last_success_timestamp_seconds": {"account", "leg"},
    "wrong_protocol_total": {"leg", "protocol"},
    "event_loop_blocked_seconds_total": set(),
    "log_dropped_total": set(),
    "build_info": {"version", "python"},
}


@pytest.fixture
async def metrics() -> AsyncIterator[Metrics]:
    outcomes = Outcomes(lambda: 4000.0)
    log.observe(outcomes)
    made = Metrics(outcomes)
    made.start()
    yield made
    made.close()
    log.unobserve(outcomes)


@pytest.fixture
def relay() -> ProbedRelay:
    return ProbedRelay()


@pytest.fixture
def composed(tmp_path: Path, relay: ProbedRelay) -> Composition:
    return composition(tmp_path, relay, "ann", token=Token())


async def told(metrics: Metrics, composed: Composition) -> dict[str, float]:
    """``name{label="value"}`` → value, without the prefix and without what is 0."""
    text = (await metrics.exposed(composed)).decode()
    rows = dict(row.rsplit(" ", 1) for row in text.splitlines() if not row.startswith("#"))
    ours = {name.removeprefix("legacy_email_proxy_"): float(value) for name, value in rows.items() if "legacy" in name}
    left_out = re.compile("build_|backend_seconds_bucket")
    return {name: value for name, value in ours.items() if value and not left_out.match(name)}


async def test_a_message(metrics: Metrics, composed: Composition) -> None:
    for words in ("message relayed", "message spooled"):
        log.event(LOGGER, INFO, words, client="10.0.0.7", account="ann", recipients=["x@y"], octets=100)
    for words in ("message delivered", "message not delivered", "message set aside"):
        LOGGER.info(words, extra={"facts": {"account": "ann", "octets": 7}})
    for words in FAILED_FOR_GOOD:
        LOGGER.warning(words, extra={"facts": {"account": "ann", "recipient": "x@y"}})
    LOGGER.warning(NOTIFICATION_FAILED, extra={"facts": {"account": "ann", "recipient": "x@y"}})
    log.failure(LOGGER, "message refused", Unreachable("down"), octets=3, reply="451 4.4.1 later")
    assert await told(metrics, composed) == {
        'messages_total{leg="smtp",verdict="relayed"}': 1,
        'messages_total{leg="smtp",verdict="spooled"}': 1,
        'messages_total{leg="smtp",verdict="delivered"}': 1,
        'messages_total{leg="smtp",verdict="not_delivered"}': 1,
        'messages_total{leg="smtp",verdict="set_aside"}': 1,
        'messages_total{leg="smtp",verdict="failed"}': 3,
        'messages_total{leg="smtp",verdict="notification_failed"}': 1,
        'messages_total{leg="smtp",verdict="refused"}': 1,
        'octets_total{leg="smtp"}': 200,
        'refusals_total{leg="smtp",reply="451"}': 1,
        'last_success_timestamp_seconds{account="ann",leg="smtp"}': 4000,
        'token_expiry_timestamp_seconds{account="ann"}': 5000,
    }


async def test_an_account_that_a_reload_has_removed_is_told_no_more(
    metrics: Metrics, composed: Composition, relay: ProbedRelay, tmp_path: Path
) -> None:
    log.event(LOGGER, INFO, "message relayed", account="ann", octets=1)
    success = 'last_success_timestamp_seconds{account="ann",leg="smtp"}'
    assert success in await told(metrics, composed)
    assert success not in await told(metrics, composition(tmp_path, relay, "bob"))


async def test_a_pop3_session(metrics: Metrics, composed: Composition) -> None:
    counts = {"messages": 9, "retrieved": 3, "failed": 1, "deleted": 2, "octets": 500, "account": "ann"}
    log.event(POP3, INFO, "pop3 session ended", **counts, verdict="quit")
    found = await told(metrics, composed)
    assert found["last_success_timestamp_seconds" + '{account="ann",leg="pop3"}'] == 4000
    assert {name: value for name, value in found.items() if name.startswith(("mess", "oct", "sess"))} == {
        'messages_total{leg="pop3",verdict="retrieved"}': 3,
        'messages_total{leg="pop3",verdict="failed"}': 1,
        'messages_total{leg="pop3",verdict="deleted"}': 2,
        'octets_total{leg="pop3"}': 500,
        'sessions_total{protocol="pop3",result="quit"}': 1,
    }


@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        ("quit", "quit"), ("dropped", "dropped"), ("dropped: no TLS", "dropped"), ("idle: no message ended", "idle"),
        ("drained", "drained"), ("too many errors", "errors"), ("errors", "errors"), ("failed: cancelled", "failed"),
        ("refused: MAX_CONNECTIONS reached", "refused"), ("no TLS: bad", "no_tls"), ("sent too much", "other"),
    ],
)  # fmt: skip
async def test_how_a_session_ended(metrics: Metrics, composed: Composition, verdict: str, result: str) -> None:
    log.event(LOGGER, INFO, "smtp session ended", verdict=verdict)
    assert f'sessions_total{{protocol="smtp",result="{result}"}}' in await told(metrics, composed)


async def test_a_wrong_protocol(metrics: Metrics, composed: Composition) -> None:
    log.event(LOGGER, INFO, "smtp session ended", verdict="spoke TLS to the plain SMTP port")
    log.event(POP3, INFO, "pop3 session ended", verdict="refused", reason="spoke HTTP to the POP3 port", octets=0)
    found = await told(metrics, composed)
    assert found['wrong_protocol_total{leg="smtp",protocol="TLS"}'] == 1
    assert found['wrong_protocol_total{leg="pop3",protocol="HTTP"}'] == 1


@pytest.mark.parametrize(
    ("leg", "reply", "code"),
    [
        ("smtp", "550 5.1.1 no such user", "550"), ("smtp", "451-4.3.0 two\r\n451 lines", "451"),
        ("smtp", "5500 hm", "other"), ("smtp", "", "other"), ("smtp", "999 x", "other"),
        ("pop3", "-ERR [SYS/TEMP] later", "SYS/TEMP"), ("pop3", "-ERR [INVENTED] x", "-ERR"), ("pop3", "-ERR", "-ERR"),
    ],
)  # fmt: skip
async def test_refusals_by_their_code(metrics: Metrics, composed: Composition, leg: str, reply: str, code: str) -> None:
    log.event(LOGGER, INFO, f"{leg} command refused", command="RCPT TO:<x@y>", reply=reply)
    assert f'refusals_total{{leg="{leg}",reply="{code}"}}' in await told(metrics, composed)


async def test_only_a_login_that_was_judged_is_a_failed_one(metrics: Metrics, composed: Composition) -> None:
    log.failure(LOGGER, "smtp login failed", LoginRefused("no"))
    log.failure(POP3, "pop3 login failed", Unreachable("down"))
    log.failure(POP3, "pop3 login failed", LoginsLimited("too many"))
    found = await told(metrics, composed)
    assert {name for name in found if name.startswith("login")} == {'login_failures_total{leg="smtp"}'}


async def test_durations(metrics: Metrics, composed: Composition) -> None:
    took("smtp", "login", 0.5)
    took("somewhere", "else", 1)
    with timed("pop3", "list"):
        pass
    with pytest.raises(ValueError, match="x"), timed("pop3", "fetch"):
        raise ValueError("x")
    found = await told(metrics, composed)
    assert found['backend_seconds_sum{leg="smtp",step="login"}'] == 0.5
    assert {name for name in found if name.startswith("backend_seconds_count")} == {
        'backend_seconds_count{leg="smtp",step="login"}', 'backend_seconds_count{leg="pop3",step="list"}',
    }  # fmt: skip


async def test_nobody_listens_to_durations_but_the_open_listener() -> None:
    assert TIMINGS == []
    metrics = Metrics(Outcomes())
    metrics.start()
    assert len(TIMINGS) == 1
    metrics.close()
    assert TIMINGS == []


async def test_figures_of_plugins(metrics: Metrics, tmp_path: Path) -> None:
    one, other = ProbedRelay(), ProbedRelay()
    one.told = [
        Figure("backend_connections", 2, {"state": "idle"}), Figure("spool_oldest_seconds", 7),
        Figure("backend_paused_seconds", 60), Figure("invented", 1),
    ]  # fmt: skip
    other.told = [Figure("backend_connections", 3, {"state": "idle"}), Figure("spool_oldest_seconds", 9)]
    first, second = composition(tmp_path, one, "ann"), composition(tmp_path, other, "bob", token=Token())
    both = Composition(first.settings, None, None, accounts=(*first.accounts, *second.accounts))
    assert await told(metrics, both) == {
        'backend_connections{leg="smtp",state="idle"}': 5,
        "spool_oldest_seconds": 9,
        'token_expiry_timestamp_seconds{account="bob"}': 5000,
    }
    nonsense: list[Any] = [ValueError("broken"), None, [("backend_connections", 2)]]
    for one.told in nonsense:
        assert (await told(metrics, both))['backend_connections{leg="smtp",state="idle"}'] == 3


async def test_exactly_the_promised_names_and_labels(metrics: Metrics, composed: Composition) -> None:
    took("smtp", "login", 0.5)
    log.event(LOGGER, INFO, "message relayed", account="ann", octets=1)
    log.event(LOGGER, INFO, "smtp session ended", verdict="spoke TLS to the plain SMTP port")
    log.failure(LOGGER, "message refused", Unreachable("down"), octets=3, reply="451 4.4.1 later")
    relay = composed.accounts[0].relay
    assert isinstance(relay, ProbedRelay)
    names = ("backend_connections", "spool_messages", "spool_oldest_seconds", "credential_expiry_timestamp_seconds")
    relay.told = [Figure(name, 1, {"state": "idle"}) for name in names]
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families((await metrics.exposed(composed)).decode()):
        for sample in family.samples:
            if not sample.name.startswith("process_"):
                found[sample.name.removeprefix("legacy_email_proxy_")] = set(sample.labels)
    assert found == NAMES


async def test_the_page_names_them_all() -> None:
    from pages import text

    page = text("monitoring.md")
    for name, labels in NAMES.items():
        if name != "backend_seconds_bucket" and name != "backend_seconds_sum":
            short = name.removesuffix("_count")
            (row,) = re.findall(rf"^\| `{short}` \| (.*?) \|", page, re.MULTILINE)
            assert set(re.findall(r"`(\w+)`", row)) == labels, name
