"""One event is one line, whatever a peer has put into it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from legacy_email_proxy import log
from legacy_email_proxy.contracts import Refused, Unreachable

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
