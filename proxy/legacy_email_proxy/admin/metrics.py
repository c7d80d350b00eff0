"""What Prometheus reads: counters from the log's events, durations from the plugins, and figures as they are now.

The events are the one source, so the figures tell the same story as the log. Each label has few values, and none is an
address: Prometheus keeps every value for ever.

It is imported only where the admin listener is open.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import platform
import re
from collections.abc import Callable, Container, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .. import __version__, log
from ..build import Account, Composition
from ..contracts import TIMINGS, Credentials, Failure, Figure, LoginRefused, Maildrop, Relay
from ..history.events import FAILED_FOR_GOOD, NOTIFICATION_FAILED
from ..relays.wrapper import figures
from .outcomes import Outcomes

__all__ = ("CONTENT_TYPE", "Metrics")

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_PREFIX = "legacy_email_proxy_"
_OTHER = "other"
_Counted = TypeVar("_Counted", Counter, Histogram)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STEPS = frozenset({"connect", "tls", "hello", "login", "mail", "content", "list", "fetch", "delete"})
_LEGS = frozenset({"smtp", "pop3"})

_RESULTS = {
    "quit": "quit", "drained": "drained", "idle": "idle", "dropped": "dropped", "failed": "failed", "errors": "errors",
    "too many errors": "errors", "refused": "refused", "no TLS": "no_tls", "spoke": "wrong_protocol",
}  # fmt: skip
"""How the verdict on a session begins → what it counts as."""

_POP3_CODES = re.compile(r"-ERR \[(AUTH|IN-USE|LOGIN-DELAY|SYS/TEMP|SYS/PERM)\]")
_SPOKE = re.compile(r"spoke (TLS|HTTP)")

_FIGURES: dict[str, tuple[tuple[str, ...], str, Callable[[Iterable[float]], float]]] = {
    "backend_connections": (("leg", "state"), "Connections to backends, and who waits for one.", sum),
    "spool_messages": (("state",), "Messages in the spool.", sum),
    "spool_oldest_seconds": ((), "How long the oldest message has waited in the spool.", max),
    "token_expiry_timestamp_seconds": (("account",), "When the access token ends.", min),
    "credential_expiry_timestamp_seconds": (("account",), "When what tokens are got with ends.", min),
}
"""A plugin's figure → its labels, its sentence, and what becomes of several with the same labels."""


class _Now(Collector):
    """What is read at the moment of the question, and not counted before."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self.figures: Mapping[str, Mapping[tuple[str, ...], float]] = {}
        self.accounts: Container[str] = ()

    def collect(self) -> Iterator[Metric]:
        for name, (labels, sentence, _) in _FIGURES.items():
            family = GaugeMetricFamily(_PREFIX + name, sentence, labels=labels)
            for values, value in self.figures.get(name, {}).items():
                family.add_metric(values, value)
            yield family
        successes = GaugeMetricFamily(
            f"{_PREFIX}last_success_timestamp_seconds", "When mail last went through.", labels=("account", "leg")
        )
        for backend, moment in list(self._outcomes.successes.items()):
            # One that a reload has removed would look as if its mail had stopped.
            if backend.account in self.accounts:
                successes.add_metric((backend.account, backend.leg), moment)
        yield successes
        dropped = sum(writer.dropped for writer in logging.getLogger().handlers if isinstance(writer, log.Writer))
        yield CounterMetricFamily(f"{_PREFIX}log_dropped", "Lines that the log's reader did not take.", value=dropped)


class Metrics:
    """Counts from :meth:`start` to :meth:`close`."""

    def __init__(self, outcomes: Outcomes) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        # The metric with these values of its labels: to look one up there costs as much as to count it.
        self._one = functools.cache(_labelled)
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._now = _Now(outcomes)
        registry.register(self._now)
        build = Info(f"{_PREFIX}build", "The version that runs.", registry=registry)
        build.info({"version": __version__, "python": platform.python_version()})

        def counter(name: str, sentence: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, sentence, labels, registry=registry)

        self._sessions = counter("sessions", "Sessions of devices that ended.", "protocol", "result")
        self._messages = counter("messages", "What became of messages.", "leg", "verdict")
        self._octets = counter("octets", "Octets of messages that were taken or handed out.", "leg")
        self._refusals = counter("refusals", "Refusals that devices read, by their code.", "leg", "reply")
        self._login_failures = counter("login_failures", "Logins of devices that were refused.", "leg")
        self._wrong_protocol = counter("wrong_protocol", "Devices that spoke another protocol.", "leg", "protocol")
        self._seconds = Histogram(
            f"{_PREFIX}backend_seconds", "How long a step with a backend took.", ("leg", "step"),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._blocked = counter("event_loop_blocked_seconds", "For how long the event loop stood still.")
        for leg in _LEGS:
            # Seen from the start, so that the first one is an increase.
            self._one(self._login_failures, leg)
            self._one(self._octets, leg)
        for verdict in ("failed", "not_delivered", "set_aside"):
            self._one(self._messages, "smtp", verdict)
        self._events = _Observer(self._event)
        self._of: dict[str, Callable[[Mapping[str, Any], logging.LogRecord], None]] = {
            "message relayed": self._taken,
            "message spooled": self._taken,
            "message delivered": lambda facts, _: self._one(self._messages, "smtp", "delivered").inc(),
            "message not delivered": lambda facts, _: self._one(self._messages, "smtp", "not_delivered").inc(),
            "message set aside": lambda facts, _: self._one(self._messages, "smtp", "set_aside").inc(),
            **dict.fromkeys(FAILED_FOR_GOOD, lambda facts, _: self._one(self._messages, "smtp", "failed").inc()),
            NOTIFICATION_FAILED: lambda facts, _: self._one(self._messages, "smtp", "notification_failed").inc(),
            "message refused": self._message_refused,
            "smtp sender refused": self._refused,
            "smtp recipient refused": self._refused,
            "smtp transaction given up": self._refused,
            "smtp command refused": self._refused,
            "pop3 command refused": self._refused,
            "smtp login failed": self._login_failed,
            "pop3 login failed": self._login_failed,
            "pop3 connection refused": self._connection_refused,
            "smtp session ended": self._session_ended,
            "pop3 session ended": self._pop3_session_ended,
            "event loop goes on": self._loop_was_blocked,
            "event loop was blocked again": self._loop_was_blocked,
        }

    def start(self) -> None:
        """Count from now on."""
        log.observe(self._events)
        TIMINGS.append(self._timing)

    def close(self) -> None:
        """Count no more."""
        log.unobserve(self._events)
        TIMINGS.remove(self._timing)

    async def exposed(self, composition: Composition) -> bytes:
        """All of it in Prometheus's text format."""
        self._now.figures = await _figures(composition.accounts)
        self._now.accounts = {account.name for account in composition.accounts}
        return prometheus_client.generate_latest(self._registry)

    # From events

    def _event(self, record: logging.LogRecord) -> None:
        count = self._of.get(record.msg)
        if count is not None:
            count(log.facts_of(record), record)

    def _timing(self, leg: str, step: str, seconds: float) -> None:
        if leg in _LEGS and step in _STEPS:
            self._one(self._seconds, leg, step).observe(seconds)

    def _taken(self, facts: Mapping[str, Any], record: logging.LogRecord) -> None:
        self._one(self._messages, "smtp", record.msg.removeprefix("message ")).inc()
        self._one(self._octets, "smtp").inc(facts["octets"])

    def _message_refused(self, facts: Mapping[str, Any], record: logging.LogRecord) -> None:
        self._one(self._messages, "smtp", "refused").inc()
        self._refused(facts, record)

    def _refused(self, facts: Mapping[str, Any], record: logging.LogRecord) -> None:
        leg = "pop3" if record.msg.startswith("pop3") else "smtp"
        self._one(self._refusals, leg, _code(leg, str(facts.get("reply", "")))).inc()

    def _login_failed(self, facts: Mapping[str, Any], record: logging.LogRecord) -> None:
        # Where the backend can not be asked, nobody has judged the device's password.
        if isinstance(getattr(record, "failure", None), LoginRefused):
            self._one(self._login_failures, record.msg.partition(" ")[0]).inc()

    def _connection_refused(self, facts: Mapping[str, Any], record: logging.LogRecord) -> None:
        self._one(self._sessions, "pop3", "refused").inc()

    def _session_ended(self, facts: Mapping[str, Any], record: logging.LogRecord) -> None:
        leg = record.msg.partition(" ")[0]
        verdict = str(facts.get("verdict", ""))
        spoke = _SPOKE.match(str(facts.get("reason", ""))) or _SPOKE.match(verdict)
        if spoke:
            self._one(self._wrong_protocol, leg, spoke[1]).inc()
            result = "wrong_protocol"
        else:
            result = next((result for words, result in _RESULTS.items() if verdict.startswith(words)), _OTHER)
        self._one(self._sessions, leg, result).inc()

    def _pop3_session_ended(self, facts: Mapping[str, Any], record: logging.LogRecord) -> None:
        self._session_ended(facts, record)
        for verdict in ("retrieved", "failed", "deleted"):
            if facts.get(verdict):
                self._one(self._messages, "pop3", verdict).inc(facts[verdict])
        self._one(self._octets, "pop3").inc(facts.get("octets", 0))

    def _loop_was_blocked(self, facts: Mapping[str, Any], record: logging.LogRecord) -> None:
        self._blocked.inc(facts["seconds"])


class _Observer(log.Observer):
    """Gives each event to a function."""

    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._take = take

    def take(self, record: logging.LogRecord) -> None:
        """See :meth:`log.Observer.take`."""
        self._take(record)


def _labelled(metric: _Counted, *values: str) -> _Counted:
    return metric.labels(*values)


def _code(leg: str, reply: str) -> str:
    """The reply's code. Of those there are few, and of texts any number."""
    if leg == "pop3":
        found = _POP3_CODES.match(reply)
        return found[1] if found else "-ERR"
    return reply[:3] if re.match(r"[45][0-5][0-9](?![0-9])", reply) else _OTHER


async def _figures(accounts: Iterable[Account]) -> dict[str, dict[tuple[str, ...], float]]:
    """The figures of all plugins, as one value for each set of labels."""
    asked: list[Coroutine[Any, Any, Sequence[tuple[Figure, dict[str, str]]]]] = []
    for account in accounts:
        legs = (("pop3", account.maildrop), ("smtp", account.relay))
        for leg, plugin in (*legs, *(("", credentials) for credentials in account.credentials.values())):
            if plugin is not None:
                asked.append(_told(plugin, {"leg": leg, "account": account.name}))
    told: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for one, labels in chain.from_iterable(await asyncio.gather(*asked)):
        if one.name in _FIGURES:
            values = tuple(str({**one.labels, **labels}.get(label, "")) for label in _FIGURES[one.name][0])
            told.setdefault(one.name, {}).setdefault(values, []).append(one.value)
    return {name: {key: _FIGURES[name][2](values) for key, values in each.items()} for name, each in told.items()}


async def _told(
    plugin: Maildrop | Relay | Credentials, labels: dict[str, str]
) -> Sequence[tuple[Figure, dict[str, str]]]:
    """A plugin's figures with the labels that the core knows; none where they can't be told, as ``/readyz`` says."""
    try:
        return [(one, labels) for one in await figures(plugin)]
    except (Failure, TimeoutError):
        return ()
