"""Every refusal that a device reads has its line in the log, with what to change; and no password is in it."""

from __future__ import annotations

import base64
import logging

import pytest

from smtp.conftest import StartLeg
from smtp.test_session import facts
from waiting import until

LOGIN = "it wants to log in: switch its login off, or set SMTP_AUTH=any"
ADDRESS = "its sender address is no e-mail address: set one like scanner@example.com"
REFUSALS = (
    (b"EHLO x\r\nAUTH LOGIN\r\n", "AUTH LOGIN", "502 5.5.1 Command not implemented", LOGIN),
    (b"EHLO x\r\nAUTH PLAIN AGEAaHVudGVyMg==\r\n", "AUTH PLAIN ***", "502 5.5.1 Command not implemented", LOGIN),
    (b"EHLO x\r\nAUTH PLAIN\tAGEAaHVudGVyMg==\r\n", "AUTH PLAIN ***", "502 5.5.1 Command not implemented", LOGIN),
    (b"EHLO x\r\nAUTH\tPLAIN\tAGEAaHVudGVyMg==\r\n", "AUTH PLAIN ***", "502 5.5.1 Command not implemented", LOGIN),
    (b"EHLO x\r\nAUTH aHVudGVyMg==\r\n", "AUTH ***", "502 5.5.1 Command not implemented", LOGIN),
    (b"EHLO x\r\nAUTH cram-md5\r\n", "AUTH CRAM-MD5", "502 5.5.1 Command not implemented", LOGIN),
    (
        b"EHLO x\r\nSTARTTLS\r\n", "STARTTLS", "502 5.5.1 Command not implemented",
        "it wants TLS: set its encryption to none, or set TLS_CERT_FILE",
    ),
    (b"HELO x\r\nMAIL FROM:<a b>\r\n", "MAIL FROM:<a b>", "553 5.1.7 That is no address", ADDRESS),
    (b"MAIL FROM:<a@b.example>\r\n", "MAIL FROM:<a@b.example>", "503 5.5.1 Send HELO or EHLO first", None),
    (b"HELO x\r\nDATA\r\n", "DATA", "503 5.5.1 Bad sequence of commands", None),
    (b"HELO x\r\naHVudGVyMg==\r\n", "(no SMTP command)", "500 5.5.1 Command not recognized", None),
    (b"HELO x\r\nVERB hunter2\r\n", "(no SMTP command)", "500 5.5.1 Command not recognized", None),
    (b"HELO x\r\n" + b"x" * 5000 + b"\r\n", "(no SMTP command)", "500 5.5.2 Line too long", None),
    (
        "HELO x\r\nMAIL FROM:<bÿ@b>\r\n".encode("latin-1"), "MAIL FROM:<bÿ@b>", "500 5.5.2 Commands are ASCII",
        "its sender address is in no encoding that mail knows: use letters a to z",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("said", "command", "reply", "advice"), REFUSALS)
async def test_a_refusal_has_its_line(
    start_leg: StartLeg, caplog: pytest.LogCaptureFixture, said: bytes, command: str, reply: str, advice: str | None
) -> None:
    caplog.set_level(logging.INFO)
    leg = await start_leg()
    assert reply.encode() in await leg.exchange(said)
    await until(lambda: bool(facts(caplog, "smtp session ended")))
    (refused,) = facts(caplog, "smtp command refused")
    (ended,) = facts(caplog, "smtp session ended")
    assert (refused["command"], refused["reply"], refused.get("advice")) == (command, reply, advice)
    assert (refused["client"], refused["session"]) == ("127.0.0.1", ended["session"])


async def test_a_password_behind_a_refused_login_is_not_logged(
    start_leg: StartLeg, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    leg = await start_leg()
    secrets = [base64.b64encode(each).decode() for each in (b"scanner", b"hunter2")]
    await leg.exchange("\r\n".join(["EHLO x", "AUTH LOGIN", *secrets, "QUIT", ""]).encode())
    await until(lambda: bool(facts(caplog, "smtp session ended")))
    assert len(facts(caplog, "smtp command refused")) == 3
    text = caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert not any(each in text for each in secrets)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (b"\x16\x03\x01\x00\x05hello", "it speaks TLS: set its SMTP encryption"),
        (b"GET / HTTP/1.1\r\n", "a web browser or a monitoring program"),
    ],
)
async def test_a_session_that_is_cut_says_what_to_change(
    start_leg: StartLeg, caplog: pytest.LogCaptureFixture, said: bytes, advice: str
) -> None:
    caplog.set_level(logging.INFO)
    leg = await start_leg()
    await leg.exchange(said)
    await until(lambda: bool(facts(caplog, "smtp session ended")))
    (ended,) = facts(caplog, "smtp session ended")
    assert str(ended["reply"]).startswith("421 4.7.0")
    assert str(ended["advice"]).startswith(advice)
