"""`alert test`: one message by every way that is set, and what became of it; and what `check` hears of a service."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from alerts.receiver import receiving
from alerts.test_channels import python
from fakes.smtp import FakeSMTPServer
from interop import proxy
from interop.proxy import command, run, running
from realservers.certificates import Certificates
from smtps.support import PASSWORD, USER, server_tls
from waiting import until


def variables(folder: Path, port: int, certificates: Certificates, **given: str) -> dict[str, str]:
    return {
        "STATE_DIR": str(folder / "state"),
        "MAILDROP_PLUGIN": "none",
        "SMTP_BIND_ADDR": "127.0.0.1",
        "SMTP_BIND_PORT": "0",
        "BACKEND_SMTP_HOST": "localhost",
        "BACKEND_SMTP_PORT": str(port),
        "BACKEND_SMTP_USER": USER,
        "BACKEND_SMTP_PASS": PASSWORD,
        "BACKEND_SMTP_CA_FILE": str(certificates.ca_file),
        **given,
    }


@asynccontextmanager
async def backend(certificates: Certificates) -> AsyncIterator[FakeSMTPServer]:
    async with FakeSMTPServer(tls=server_tls(certificates.good), accounts={USER: PASSWORD}) as server:
        yield server


async def test_every_way_is_tried(tmp_path: Path, certificates: Certificates) -> None:
    """With a spool the mail goes past it: an alert about the spool must not wait in it."""
    command = python(tmp_path, "(here / 'out').write_text(sys.stdin.read())")
    async with backend(certificates) as server:
        with receiving() as receiver:
            given = variables(
                tmp_path, server.port, certificates, RELAY_PLUGIN="spool", ALERT_WEBHOOK_URL=receiver.url,
                ALERT_MAIL_TO="admin@firm.example", ALERT_COMMAND=command,
            )  # fmt: skip
            done = await asyncio.to_thread(run, "alert", "test", **given)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [line.split()[:2] for line in done.stdout.splitlines()] == [
            ["ok", "ALERT_WEBHOOK_URL:"], ["ok", "ALERT_COMMAND:"], ["ok", "ALERT_MAIL_TO:"]
        ]  # fmt: skip
        assert len(server.messages) == 1
    assert "This is a test" in receiver.received[0]["text"]
    assert (tmp_path / "out").read_text() == f"{receiver.received[0]['text']}\n"
    assert not list((tmp_path / "state").rglob("spool.db"))


async def test_what_does_not_work_is_said(tmp_path: Path, certificates: Certificates) -> None:
    async with backend(certificates) as server:
        given = variables(
            tmp_path, server.port, certificates, ALERT_COMMAND="/nowhere/alert", ALERT_MAIL_TO="a@x.example"
        )
        given["BACKEND_SMTP_PASS"] = "wrong"
        done = await asyncio.to_thread(run, "alert", "test", **given)
    assert done.returncode == 1
    command, mail = done.stdout.splitlines()
    assert command == "FAILED   ALERT_COMMAND: it can not be run: No such file or directory (see ALERT_COMMAND)"
    assert mail.startswith("FAILED   ALERT_MAIL_TO: ")
    assert "535" in mail


def test_with_nothing_set_nobody_would_be_told(tmp_path: Path, certificates: Certificates) -> None:
    done = run("alert", "test", **variables(tmp_path, 465, certificates))
    assert (done.returncode, done.stdout) == (2, "")
    assert "nobody would be told" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALERT_WEBHOOK_URL", "chat.firm.example/s3cret", "ALERT_WEBHOOK_URL: that is no address"),
        ("ALERT_WEBHOOK_URL", "ftp://s3cret.example/", "ALERT_WEBHOOK_URL: that is no address"),
        ("ALERT_WEBHOOK_URL", "http://s3cret.example:port/", "ALERT_WEBHOOK_URL: that is no address"),
        ("ALERT_MAIL_TO", "admin", "ALERT_MAIL_TO: 'admin' is no address"),
        ("ALERT_COMMAND", "alert 'one", "ALERT_COMMAND: it can not be split into words: no closing quotation"),
    ],
)
def test_a_mistake_stops_the_start(
    tmp_path: Path, certificates: Certificates, variable: str, value: str, words: str
) -> None:
    given = variables(tmp_path, 465, certificates, **{variable: value})
    for words_of_command in (("serve",), ("alert", "test")):
        done = run(*words_of_command, **given)
        assert done.returncode == 2
        assert words in done.stderr
        assert "s3cret" not in done.stderr


QUICK = """
from legacy_email_proxy import cli
from legacy_email_proxy.alerts import watch
watch.LOOK_SECONDS = 0.01
cli.main([])
"""


async def test_a_service_tells_its_trouble_and_check_hears_of_it(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real service, whose certificate ends tomorrow; only the minute between two looks is shorter."""
    monkeypatch.setattr(
        proxy, "command", lambda *given: [sys.executable, "-c", QUICK] if not given else command(*given)
    )
    file = tmp_path / "certificate.pem"
    trustme.CA().issue_cert(
        "localhost", not_after=datetime.now(UTC) + timedelta(days=1)
    ).private_key_and_cert_chain_pem.write_to_path(file)
    async with backend(certificates) as server:
        with receiving() as receiver:
            given = variables(
                tmp_path, server.port, certificates, TLS_CERT_FILE=str(file), ALERT_WEBHOOK_URL=receiver.url
            )
            service = running(given)
            await asyncio.to_thread(service.__enter__)
            try:
                await until(lambda: receiver.received)
                (trouble,) = receiver.received[0]["troubles"]
                assert (trouble["condition"], trouble["step"]) == ("certificate", "begun")
                checked = await asyncio.to_thread(run, "check", **given)
                assert checked.returncode == 0, checked.stdout + checked.stderr
                assert "warning  service: the certificate that devices are shown ends on" in checked.stdout
            finally:
                await asyncio.to_thread(service.__exit__, None, None, None)
    assert len(receiver.received) == 1
    assert (tmp_path / "state" / "alerts.json").exists()
