"""One event is one line, whatever a peer has put into it."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from legacy_email_proxy import log
from legacy_email_proxy.admin.outcomes import Outcomes
from legacy_email_proxy.alerts.devices import Events
from legacy_email_proxy.contracts import Refused, Unreachable, bound

CODE = """
import logging
from legacy_email_proxy import log
log.configure("info", {form!r})
logger = logging.getLogger("legacy_email_proxy.smtp")
forged = "x\\r\\nforged \\x1b[31m"
log.event(logger, logging.INFO, "smtp session ended", client="10.0.0.7", helo=forged, octets=7, empty="")
logger.debug("hidden")
logging.getLogger("mail.log").info("aiosmtpd's chatter")
logging.getLogger("other").warning("a library's %s", "warning")
"""


def logged(form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(form=form)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_text() -> None:
    lines = logged("text")
    assert [line.partition(" ")[2] for line in lines] == [
        'info smtp session ended client=10.0.0.7 helo="x forged [31m" octets=7 empty=""',
        "warning a library's warning",
    ]
    assert len(lines[0].partition(" ")[0]) == len("2026-01-31T12:00:00+0100")


@pytest.mark.fault("D16")
def test_a_value_can_not_look_like_another_fact_nor_an_exception_like_an_event() -> None:
    facts = {"helo": 'x" verdict="q'}
    record = logging.makeLogRecord({"msg": "smtp session ended", "levelname": "INFO", "facts": facts})
    try:
        raise ValueError("boom\n2026-01-31T12:00:00+0100 info forged\x1b[31m")
    except ValueError:
        record.exc_info = sys.exc_info()
    lines = log.KeyValueFormatter().format(record).splitlines()
    assert lines[0].endswith(r' helo="x\" verdict=\"q"')
    assert all(line.startswith("    ") and "\x1b" not in line for line in lines[1:])


@given(st.text(max_size=40) | st.text(' ab"\\\\=\u2028\x7f', max_size=9))
@example("a" * 2001)
@example("a " * 1000)
def test_however_a_value_is_written_it_is_quoted_where_it_has_to_be(value: str) -> None:
    line = log._one_line(value)
    assert log._shown(value) == (json.dumps(line) if not line or set(line) & set(' ="') else line)


def test_an_event_is_a_record_like_any_other_for_a_handler_of_the_site(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("legacy_email_proxy.test")
    logger.setLevel(logging.INFO)
    log.event(logger, logging.INFO, "100% done", octets=1)
    logger.info("100%% %s", "done")
    ours, ordinary = caplog.records
    assert set(vars(ordinary)) <= set(vars(ours))
    form = logging.Formatter("%(name)s %(levelname)s %(message)s %(threadName)s %(filename)s:%(lineno)d %(asctime)s")
    assert form.format(copy.copy(ours)).startswith("legacy_email_proxy.test INFO 100% done None ")
    assert 0 <= ours.msecs < 1000
    assert abs(ours.relativeCreated - ordinary.relativeCreated) < 3_600_000


def test_json() -> None:
    first, second = map(json.loads, logged("json"))
    assert {key: first[key] for key in ("level", "event", "client", "octets")} == {
        "level": "info", "event": "smtp session ended", "client": "10.0.0.7", "octets": 7,
    }  # fmt: skip
    assert second["event"] == "a library's warning"


def test_failures_come_at_their_level(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("legacy_email_proxy.test")
    for error in (Unreachable("no route", look_at="BACKEND_SMTP_HOST"), Refused(550, "5.1.1", "no"), ValueError("x")):
        log.failure(logger, "it failed", error, client="c")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "ERROR"]
    assert [record.__dict__["facts"]["cause"] for record in caplog.records] == [
        "no route (see BACKEND_SMTP_HOST)", "550 5.1.1 no", "ValueError: x",
    ]  # fmt: skip
    assert [bool(record.exc_info) for record in caplog.records] == [False, False, True]


def test_what_is_bound_stands_on_every_line_of_the_task_and_of_its_threads() -> None:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(log.KeyValueFormatter().format(record).partition(" info ")[2])

    logger = logging.getLogger("legacy_email_proxy.bound")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler := Lines())

    async def session(name: str) -> None:
        with bound(session=name):
            log.event(logger, logging.INFO, "begins", octets=1)
            await asyncio.to_thread(logger.info, "a library's line")
            with bound(account="shop"):
                logger.info("a plugin's line", extra={"facts": {"x": 1}})

    async def both() -> None:
        await asyncio.gather(session("s1"), session("s2"))
        logger.info("of nobody")

    try:
        asyncio.run(both())
    finally:
        logger.removeHandler(handler)
    for name in ("s1", "s2"):
        assert [line for line in lines if f"session={name}" in line] == [
            f"begins session={name} octets=1",
            f"a library's line session={name}",
            f"a plugin's line session={name} account=shop x=1",
        ]
    assert lines[-1] == "of nobody"


def test_addresses_are_readable_and_lists_are_lists_in_both_forms() -> None:
    facts = {"recipients": ["jürgen@bücher.example", "b@example.com"], "helo": "a\u2028b\u202ec\ud800"}
    record = logging.makeLogRecord({"msg": "message relayed", "levelname": "INFO", "facts": facts})
    text = log.KeyValueFormatter().format(record)
    assert text.endswith(' recipients=jürgen@bücher.example,b@example.com helo="a b c"')
    line = log.json_formatter().format(record)
    assert json.loads(line)["recipients"] == ["jürgen@bücher.example", "b@example.com"]
    assert "jürgen" in line
    assert json.loads(line)["helo"] == "a b c"


def test_session_names_are_those_of_this_process_only() -> None:
    names = {log.new_session("smtp") for _ in range(1000)} | {log.new_session("pop3") for _ in range(1000)}
    assert len(names) == 2000
    code = "from legacy_email_proxy import log; print(log.new_session('smtp'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert re.fullmatch(r"s[a-z2-9]{5}-1", done.stdout.strip())
    assert done.stdout.partition("-")[0] not in {name.partition("-")[0] for name in names}


def test_who_looks_all_day_gets_one_line_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    looks = log.Looks(logging.getLogger("legacy_email_proxy.smtp"), "smtp", lambda: now)
    for second in range(0, 7199, 10):
        now = float(second)
        looks.count("10.0.0.7")
        if second % 60 == 0:
            looks.count("10.0.0.8")
    (line,) = (vars(record)["facts"] for record in caplog.records)
    assert (line["leg"], line["connections"], line["clients"]) == ("smtp", 421, ["10.0.0.7 (361)", "10.0.0.8 (60)"])
    for number in range(5000):
        looks.count(f"10.1.{number >> 8}.{number & 255}")
    assert len(looks._seen) == 1000


def test_observers_get_events_that_are_not_written() -> None:
    code = """
import logging
from legacy_email_proxy import log
log.configure("error", "text")
seen = []
class Seen(logging.Handler):
    def emit(self, record):
        seen.append((record.getMessage(), log.facts_of(record)))
ours = logging.getLogger("legacy_email_proxy.smtp")
log.event(ours, logging.INFO, "before")
assert not ours.isEnabledFor(logging.WARNING)
everything, news = Seen(), Seen()
log.observe(news)
log.event(ours, logging.INFO, "message relayed", octets=1)
ours.debug("C: NOOP")
log.observe(everything, logging.DEBUG)
ours.debug("C: RSET")
log.unobserve(everything)
log.unobserve(news)
log.event(ours, logging.INFO, "after")
log.event(ours, logging.ERROR, "written")
assert seen == [("message relayed", {"octets": 1}), ("C: RSET", {})], seen
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert [line.partition(" ")[2] for line in done.stderr.splitlines()] == ["error written"]
    assert done.returncode == 0


@pytest.mark.parametrize("said", [{"no": "text"}, ["neither"], "a text"])
def test_whatever_is_logged_an_observer_never_fails_who_logs(said: object, capsys: pytest.CaptureFixture[str]) -> None:
    class Wrong(log.Observer):
        def take(self, record: logging.LogRecord) -> None:
            raise ValueError(record.msg)

    observers = [Outcomes(), Events(), Wrong()]
    for each in observers:
        log.observe(each)
    try:
        logging.getLogger("legacy_email_proxy.plugin").info(said)
    finally:
        for each in observers:
            log.unobserve(each)
    # The mistake is told, and only that of the observer which makes one.
    assert capsys.readouterr().err.count("Logging error") == isinstance(said, str)
