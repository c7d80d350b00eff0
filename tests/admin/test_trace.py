"""What a watcher is shown, without a service."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import aclosing

import pytest

from legacy_email_proxy import log
from legacy_email_proxy.admin.socket import Answers
from legacy_email_proxy.admin.trace import MAX_CHARACTERS, trace
from legacy_email_proxy.contracts import bound

_log = logging.getLogger("legacy_email_proxy.smtp")


async def text(answers: Answers) -> str:
    answer = await anext(answers)
    assert isinstance(answer, Mapping)
    return str(answer["text"])


async def test_a_line_of_any_length_is_bounded() -> None:
    async with aclosing(trace({"address": "192.0.2.1", "content": True}, "somebody")) as answers:
        assert "watching" in (await anext(answers))
        with bound(client="192.0.2.1"):
            log.octets(_log, log.CONTENT, "content", b"x" * 1_000_000)
            log.octets(_log, log.CONTENT, "content", b"short")
        assert await text(answers) == ("content: " + "x" * 1_000_000)[:MAX_CHARACTERS] + "…"
        assert await text(answers) == "content: short"


async def test_messages_of_other_devices_make_no_events() -> None:
    made: list[logging.LogRecord] = []
    _log.addFilter(made.append)  # type: ignore[arg-type]  # it returns None, so no handler gets them
    try:
        async with aclosing(trace({"address": "192.0.2.1", "content": True}, "somebody")) as answers:
            assert "watching" in (await anext(answers))
            for client in ("192.0.2.1", "192.0.2.2"):
                with bound(client=client):
                    log.octets(_log, log.CONTENT, "content", b"one\r\ntwo\r\n")
                    log.octets(_log, log.HEADER, "content", b"Subject: scan\r\n")
            log.octets(_log, log.CONTENT, "content", b"of no device")
    finally:
        _log.removeFilter(made.append)  # type: ignore[arg-type]
    assert len(made) == 3


async def test_a_plugins_broken_line_disturbs_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    async with aclosing(trace({"address": "192.0.2.1"}, "somebody")) as answers:
        await anext(answers)
        record = logging.makeLogRecord({"name": _log.name, "levelno": logging.INFO, "msg": "%d", "args": ("x",)})
        watch = next(iter(log._observers))
        with bound(client="192.0.2.1"):
            watch.handle(record)
            _log.info("whole")
        assert await text(answers) == "whole"
    assert "Logging error" in capsys.readouterr().err
