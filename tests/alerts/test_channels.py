"""The ways by which the operator is told, each with a real receiver: a web server, a command, a mail server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from functools import partial
from pathlib import Path

import pytest

from admin.support import composition
from alerts.receiver import receiving
from fakes.smtp import Action, FakeSMTPServer, Hang
from legacy_email_proxy.alerts.alert import Alert, of_changes, trial_alert
from legacy_email_proxy.alerts.channels import Command, Webhook
from legacy_email_proxy.alerts.conditions import Change, Step, Trouble
from legacy_email_proxy.alerts.mail import Mail, Sender, senders_of
from legacy_email_proxy.contracts import Failure, Secret
from realservers.certificates import Certificates
from smtp.relays import MemoryRelay
from smtps.support import SHORT, relay_to, relaying
from waiting import until

TROUBLE = Trouble("backend", "smtp", "mail can not be sent: 421 4.7.0 später", 1000.0)
ALERT = of_changes([Change(Step.BEGUN, TROUBLE)])
ADMIN = "admin@firm.example"

# What is told.


def test_the_text_is_ready_to_be_shown() -> None:
    title, line = ALERT.text.splitlines()
    assert title == ALERT.title
    assert line.startswith("NEW: mail can not be sent: 421 4.7.0 sp ter -> run `legacy-email-proxy check`")
    assert (ALERT.severity, ALERT.plain["troubles"][0]["step"]) == ("critical", "begun")


def test_a_backend_can_not_forge_a_line() -> None:
    forged = Trouble("backend", "smtp", "mail can not be sent: no\r\nOVER: all is well", 1000.0)
    assert len(of_changes([Change(Step.BEGUN, forged)]).text.splitlines()) == 2


def test_what_is_over_needs_no_advice() -> None:
    alert = of_changes([Change(Step.OVER, TROUBLE)])
    assert "->" not in alert.text
    assert alert.severity == "ok"


def test_a_crowd_is_cut_short() -> None:
    crowd = [Trouble("device", f"10.0.0.{number}", f"nothing was sent by 10.0.0.{number}", 0.0) for number in range(99)]
    lines = of_changes([Change(Step.BEGUN, one) for one in crowd]).text.splitlines()
    assert lines[0].endswith(": 99 new troubles")
    assert (len(lines), lines[-1]) == (22, "... and 79 more")


# Webhook.


async def test_a_webhook() -> None:
    with receiving() as receiver:
        assert await Webhook(Secret(receiver.url)).send(ALERT) == "status 204"
        (received,) = receiver.received
        assert received["text"] == ALERT.text
        assert (received["severity"], received["troubles"][0]["condition"]) == ("critical", "backend")
        assert receiver.types == ["application/json"]


async def test_a_webhook_that_takes_nothing_but_the_text() -> None:
    with receiving(statuses=[400]) as receiver:
        await Webhook(Secret(receiver.url)).send(ALERT)
        assert receiver.received[1] == {"text": ALERT.text}


@pytest.mark.parametrize("status", [302, 403, 404, 500])
async def test_a_webhook_that_refuses(status: int) -> None:
    with receiving(statuses=[status]) as receiver:
        with pytest.raises(Failure, match=f"localhost answered with status {status}") as raised:
            await Webhook(Secret(receiver.url)).send(ALERT)
        assert "s3cret" not in str(raised.value)
        assert len(receiver.received) == 1


async def test_a_webhook_that_does_not_answer() -> None:
    with receiving() as receiver:
        receiver.go_on.clear()
        with pytest.raises(Failure, match="localhost did not answer within"):
            await Webhook(Secret(receiver.url), SHORT).send(ALERT)


async def test_a_webhook_with_nobody_behind_it() -> None:
    with receiving() as receiver:
        url = receiver.url
    with pytest.raises(Failure, match="no connection to localhost") as raised:
        await Webhook(Secret(url)).send(ALERT)
    assert "s3cret" not in str(raised.value)


async def test_a_webhook_is_verified(
    server_tls: ssl.SSLContext, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(tls=server_tls) as receiver:
        with pytest.raises(Failure, match="the certificate does not verify"):
            await Webhook(Secret(receiver.url)).send(ALERT)
        assert receiver.received == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
        await Webhook(Secret(receiver.url)).send(ALERT)
        assert len(receiver.received) == 1


# Command.


def python(folder: Path, code: str) -> str:
    file = folder / "alert script.py"
    file.write_text(f"import json, os, pathlib, sys, time\nhere = pathlib.Path({str(folder)!r})\n{code}\n")
    return f"{sys.executable} '{file}' 'one word'"


async def test_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_SMTP_PASS", "hunter2")
    monkeypatch.setenv("BACKEND_IMAP_PASS_FILE", "/run/secrets/imap")
    monkeypatch.setenv("CHAT_ROOM", "ops")
    code = "(here / 'out').write_text(json.dumps([sys.argv[1:], sys.stdin.read(), dict(os.environ)]))"
    command = Command(python(tmp_path, code), {"BACKEND_SMTP_PASS", "BACKEND_IMAP_PASS"})
    assert await command.send(ALERT) == "exit status 0"
    arguments, said, environ = json.loads((tmp_path / "out").read_text())
    assert arguments == ["one word"]
    assert said == f"{ALERT.text}\n"
    assert (environ["TROUBLE_TEXT"], environ["TROUBLE_TITLE"], environ["TROUBLE_SEVERITY"]) == (
        ALERT.text, ALERT.title, "critical"
    )  # fmt: skip
    assert json.loads(environ["TROUBLE_JSON"])["troubles"]
    assert environ["CHAT_ROOM"] == "ops"
    assert not {"BACKEND_SMTP_PASS", "BACKEND_IMAP_PASS_FILE"} & set(environ)


async def test_a_command_that_fails(tmp_path: Path) -> None:
    code = "print('x' * 1_000_000, file=sys.stderr); sys.exit('no such room')"
    with pytest.raises(Failure, match=r"exit status 1: x+ no such room \(see ALERT_COMMAND\)") as raised:
        await Command(python(tmp_path, code), ()).send(ALERT)
    assert len(str(raised.value)) < 500


async def test_a_command_that_is_not_there() -> None:
    with pytest.raises(Failure, match="it can not be run: No such file"):
        await Command("/nowhere/alert", ()).send(ALERT)


async def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    code = "child = os.fork(); (here / f'{os.getpid()}.pid').touch(); time.sleep(600)"
    command = Command(python(tmp_path, code), (), seconds=50.0)
    sending = asyncio.create_task(command.send(ALERT))
    await until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    for file in list(tmp_path.glob("*.pid")):  # noqa: ASYNC240
        await until(partial(_is_gone, int(file.stem)))


async def test_a_command_that_leaves_a_process_behind_has_ended_all_the_same(tmp_path: Path) -> None:
    # In a session of its own, with our pipe for errors still open.
    child = "os.setsid(); (here / 'pid').write_text(str(os.getpid())); os.write(there, b'.'); time.sleep(600)"
    code = f"back, there = os.pipe()\nif os.fork() == 0: {child}\nos.read(back, 1)"
    try:
        with pytest.raises(Failure, match=r"exit status 1: no such room"):
            await Command(python(tmp_path, f"{code}\nsys.exit('no such room')"), (), seconds=50.0).send(ALERT)
        os.kill(left_behind(tmp_path), signal.SIGKILL)
        assert await Command(python(tmp_path, code), (), seconds=50.0).send(ALERT) == "exit status 0"
    finally:
        os.kill(left_behind(tmp_path), signal.SIGKILL)


async def test_a_command_that_is_killed_is_not_waited_for_because_of_what_it_left_behind(tmp_path: Path) -> None:
    child = "os.setsid(); (here / 'pid').write_text(str(os.getpid())); time.sleep(600)"
    command = Command(python(tmp_path, f"if os.fork() == 0: {child}\ntime.sleep(600)"), (), seconds=50.0)
    sending = asyncio.create_task(command.send(ALERT))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    try:
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(sending, 50)
    finally:
        os.kill(left_behind(tmp_path), signal.SIGKILL)


def left_behind(folder: Path) -> int:
    return int((folder / "pid").read_text())


async def test_a_command_has_little_time(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"took longer than 0\.3 s and was killed"):
        await Command(python(tmp_path, "time.sleep(600)"), (), SHORT).send(ALERT)


def _is_gone(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    # An orphan that nobody has waited for yet.
    return ") Z " in Path(f"/proc/{number}/stat").read_text()


# Mail.


async def test_mail_from_the_null_reverse_path(certificates: Certificates) -> None:
    async with relaying(certificates.good) as (server, relay):
        mail = Mail([ADMIN, "boss@firm.example"], [Sender("", relay, "scan@firm.example")])
        assert (await mail.send(ALERT)).startswith("250 ")
        (message,) = server.messages
        assert message.mail.startswith("MAIL FROM:<> ")
        assert message.rcpt == (f"RCPT TO:<{ADMIN}>", "RCPT TO:<boss@firm.example>")
        header, _, body = message.content.decode().partition("\r\n\r\n")
        assert "From: Mail proxy <scan@firm.example>\r\n" in header
        assert f"To: {ADMIN}, boss@firm.example\r\n" in header
        assert "Auto-Submitted: auto-generated\r\n" in header
        assert "NEW: mail can not be sent" in body


async def test_mail_where_the_null_reverse_path_is_refused(certificates: Certificates) -> None:
    script: dict[str | tuple[str, int], Action] = {("MAIL", 1): "550 5.7.60 SendAsDenied"}
    async with relaying(certificates.good, script) as (server, relay):
        await Mail([ADMIN], [Sender("", relay, "scan@firm.example")]).send(ALERT)
        assert [message.mail.split()[1] for message in server.messages] == ["FROM:<scan@firm.example>"]


async def test_mail_that_one_of_two_refuses_goes_to_the_other(certificates: Certificates) -> None:
    async with relaying(certificates.good, {("RCPT", 1): "550 5.1.1 unknown"}) as (server, relay):
        await Mail([ADMIN, "boss@firm.example"], [Sender("", relay, None)]).send(ALERT)
        assert [message.rcpt for message in server.messages] == [("RCPT TO:<boss@firm.example>",)]


async def test_mail_that_everybody_refuses(certificates: Certificates) -> None:
    async with relaying(certificates.good, {"RCPT": "550 5.1.1 unknown"}) as (_, relay):
        with pytest.raises(Failure, match=r"550 5\.1\.1 unknown through account a"):
            await Mail([ADMIN], [Sender("a", relay, None)]).send(ALERT)


async def test_mail_goes_through_another_account_where_the_first_is_down(certificates: Certificates) -> None:
    async with FakeSMTPServer() as gone:
        port = gone.port
    down = relay_to(port, certificates.ca_file)
    async with relaying(certificates.good) as (server, relay):
        mail = Mail([ADMIN], [Sender("a", down, None), Sender("b", relay, None)])
        assert (await mail.send(ALERT)).endswith(" through account b")
        assert len(server.messages) == 1
    await down.aclose()


async def test_only_the_accounts_that_are_tried_get_a_relay_for_it(tmp_path: Path) -> None:
    environ = {"BACKEND_SMTP_HOST": "smtp.example", "BACKEND_SMTP_USER": "u", "BACKEND_SMTP_PASS": "p"}
    made = [composition(tmp_path, MemoryRelay(), name, environ=environ) for name in "abcd"]
    senders = senders_of(account for one in made for account in one.accounts)
    assert [sender.account for sender in senders] == ["a", "b", "c"]


async def test_mail_has_little_time(certificates: Certificates) -> None:
    async with relaying(certificates.good, {"MAIL": Hang()}) as (_, relay):
        with pytest.raises(Failure, match=r"not taken within 0\.3 s"):
            await Mail([ADMIN], [Sender("", relay, None)], SHORT).send(ALERT)


def test_the_test_says_that_it_is_one() -> None:
    alert: Alert = trial_alert()
    assert "This is a test" in alert.text
    assert alert.title in alert.text
