"""`trace` shows one device's dialogue with both sides while it happens, without passwords."""

from __future__ import annotations

import json
import poplib
import signal
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from interop.proxy import Proxy, backends, clean_environment, command, run, running
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import wait_until

MESSAGE = b"Subject: the scan\r\n\r\nnobody's business\r\n"


@contextmanager
def watching(state_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = clean_environment(STATE_DIR=str(state_dir)) | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command("trace", *arguments), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("watching 127.0.0.")
            yield process
        finally:
            process.kill()


@pytest.fixture
def proxy(tmp_path: Path, dovecot: Dovecot, postfix: Postfix, account: Account) -> Iterator[Proxy]:
    with running(backends(dovecot, postfix, account) | {"STATE_DIR": str(tmp_path / "state")}) as proxy:
        yield proxy


def use(proxy: Proxy, account: Account) -> None:
    with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
        smtp.ehlo("scanner")
        assert smtp.docmd("AUTH", "PLAIN AGEAaHVudGVyMg==")[0] == 502
        assert smtp.docmd("aHVudGVyMg==")[0] == 500
        smtp.sendmail("scanner@example.test", [account.address], MESSAGE)
    client = poplib.POP3(*proxy.pop3, timeout=50)
    client.user("anybody")
    client.pass_("hunter2")
    client.quit()


def read(process: subprocess.Popen[str], last: str) -> list[dict[str, Any]]:
    assert process.stdout is not None
    lines: list[dict[str, Any]] = []
    while not lines or lines[-1]["text"] != last:
        lines.append(json.loads(process.stdout.readline()))
    return lines


def test_one_device_live(tmp_path: Path, proxy: Proxy, account: Account) -> None:
    with watching(tmp_path / "state", "127.0.0.1", "--json") as process:
        use(proxy, account)
        lines = read(process, "pop3 session ended")
    said = [(line["from"], line["text"]) for line in lines]
    for expected in (
        ("device", "C: EHLO scanner"),
        ("device", "C: AUTH PLAIN ***"),
        ("device", "S: 502 5.5.1 Command not implemented"),
        ("device", "C: (no SMTP command)"),
        ("device", "content: Subject: the scan"),
        ("device", "message relayed"),
        ("device", "C: PASS"),
    ):
        assert expected in said
    backend = [text for side, text in said if side == "backend"]
    assert f"C: RCPT TO:<{account.address}>" in backend or any("RCPT TO" in text for text in backend)
    assert any("SELECT" in text for text in backend)
    # The backend's side of a message stands between the device's commands and our reply.
    assert said.index(("device", "C: DATA")) < [side for side, _ in said].index(
        "backend", said.index(("device", "C: DATA"))
    )
    everything = json.dumps(lines)
    for secret in ("hunter2", "aHVudGVyMg", account.password, "nobody's business"):
        assert secret not in everything
    # While nobody watches, LOG_LEVEL=info writes none of it.
    assert not proxy.lines("C: EHLO")
    assert "content=no" in proxy.wait_for("trace begins")[0]
    proxy.wait_for("trace ended")


def test_whole_messages_only_where_that_is_said(tmp_path: Path, proxy: Proxy, account: Account) -> None:
    with watching(tmp_path / "state", "127.0.0.1", "--json", "--content") as process:
        use(proxy, account)
        lines = read(process, "pop3 session ended")
    assert "content: nobody's business" in [line["text"] for line in lines]
    assert "content=yes" in proxy.wait_for("trace begins")[0]
    assert " warning " in proxy.lines("trace begins")[0]


def test_other_devices_are_not_shown(tmp_path: Path, proxy: Proxy, account: Account) -> None:
    with watching(tmp_path / "state", "127.0.0.1") as mine, watching(tmp_path / "state", "127.0.0.99/32") as other:
        use(proxy, account)
        assert mine.stdout is not None
        while "pop3 session ended" not in (line := mine.stdout.readline()):
            assert line.count("\n") == 1
        other.send_signal(signal.SIGINT)
        assert other.communicate(timeout=50)[0] == ""
        assert other.returncode == 130


def test_who_asks_wrongly_is_told(tmp_path: Path, proxy: Proxy) -> None:
    state_dir = str(tmp_path / "state")
    wait_until((tmp_path / "state" / "control.sock").exists, "the socket is there", 50)
    assert (tmp_path / "state" / "control.sock").stat().st_mode & 0o777 == 0o600
    done = run("trace", "scanner", STATE_DIR=state_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert "that is no address" in done.stderr
    done = run("trace", "127.0.0.1", STATE_DIR=str(tmp_path / "nowhere"))
    assert (done.returncode, "no service is running" in done.stderr) == (1, True)
    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(50) == 0
    assert not (tmp_path / "state" / "control.sock").exists()
