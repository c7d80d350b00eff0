"""Every -ERR for a mistake of the client has its line in the log, without passwords."""

from __future__ import annotations

import logging

import pytest

from pop3.conftest import StartLeg
from pop3.test_server import LOGIN, two


@pytest.mark.parametrize(
    ("said", "command", "reply"),
    [
        (b"APOP u 0123456789abcdef\r\n", "APOP", "-ERR unknown command"),
        (b"AUTH CRAM-MD5\r\n", "AUTH CRAM-MD5", "-ERR"),
        (b"AUTH aHVudGVyMg==\r\n", "AUTH ***", "-ERR"),
        (b"AUTH aHVudGVyMg\r\n", "AUTH ***", "-ERR"),
        (b"AUTH KERBEROS_V4 aHVudGVyMg==\r\n", "AUTH KERBEROS_V4 ***", "-ERR"),
        (b"AUTH\taHVudGVyMg==\r\n", "AUTH ***", "-ERR unknown command"),
        (b"PASS hunter2\r\n", "PASS", "-ERR"),
        (b"hunter2\r\n", "(no POP3 command)", "-ERR unknown command"),
        (b"PASShunter2\r\n", "(no POP3 command)", "-ERR unknown command"),
        (b"LIST 1\r\n", "LIST 1", "-ERR LIST is not valid"),
        (LOGIN + b"RETR 9\r\n", "RETR 9", "-ERR"),
        (b"x" * 5000 + b"\r\n", "(no POP3 command)", "-ERR line too long"),
    ],
)
async def test_a_refusal_has_its_line(
    start_leg: StartLeg, caplog: pytest.LogCaptureFixture, said: bytes, command: str, reply: str
) -> None:
    caplog.set_level(logging.INFO)
    leg = await start_leg(two())
    await leg.exchange(said)
    await leg.ended()
    records = {record.getMessage(): vars(record)["facts"] for record in caplog.records if "facts" in vars(record)}
    refused = records["pop3 command refused"]
    assert refused["command"] == command
    assert refused["reply"].startswith(reply)
    assert refused["session"] == records["pop3 session ended"]["session"]
    assert "hunter2" not in caplog.text + repr(records)
    assert "aHVudGVyMg" not in caplog.text + repr(records)
