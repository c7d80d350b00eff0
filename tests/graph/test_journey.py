"""The real command in front of an account that has nothing but Graph, set up as the page says."""

from __future__ import annotations

import poplib
import signal
import smtplib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from anyio.to_thread import run_sync

from fakes.graph import FakeGraph, Hang, Status
from fakes.oauth2 import FakeAuthorizationServer, Token
from graph.support import SENDER, server_tls
from interop.proxy import Proxy, run, running
from oauth2.support import SECRET
from pages import blocks
from realservers.certificates import Certificates
from realservers.processes import wait_until

(PAGE,) = [
    block.text for block in blocks("env") if "PROVIDER=microsoft365-graph\n" in block.text
]  # the whole env file of the page


class Issued(set[str]):
    """The tokens that the authorization server has issued and that are still good."""

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__()
        self._tokens = tokens

    def __contains__(self, token: object) -> bool:
        return any(each.active and each.text == token for each in self._tokens)


@asynccontextmanager
async def account(certificates: Certificates, folder: Path) -> AsyncIterator[tuple[FakeGraph, dict[str, str]]]:
    tls = server_tls(certificates.good)
    async with FakeAuthorizationServer(tls=tls, client_secret=SECRET) as tokens, FakeGraph(tls=tls) as graph:
        graph.tokens = Issued(tokens.tokens)
        (folder / "client-secret").write_text(SECRET)
        given = dict(line.split("=", 1) for line in PAGE.splitlines()[1:]) | {
            "STATE_DIR": str(folder / "state"),
            "OAUTH2_TOKEN_URL": tokens.url("token"),
            "OAUTH2_CLIENT_ID": tokens.client_id,
            "OAUTH2_CLIENT_SECRET_FILE": str(folder / "client-secret"),
            "OAUTH2_CA_FILE": str(certificates.ca_file),
            "GRAPH_URL": graph.url,
            "GRAPH_CA_FILE": str(certificates.ca_file),
        }
        yield graph, given


def sends(proxy: Proxy, number: int, octets: int = 10) -> None:
    with smtplib.SMTP(*proxy.smtp, timeout=50) as device:
        body = "x" * 76 + "\r\n"
        device.sendmail(SENDER, ["one@x.example"], f"Subject: {number}\r\n\r\n" + body * (octets // 78 + 1))


def reads(proxy: Proxy, *, delete: bool) -> list[bytes]:
    reader = poplib.POP3(*proxy.pop3, timeout=50)
    reader.user("anybody")
    reader.pass_("anything")
    found = []
    for number in range(1, reader.stat()[0] + 1):
        found.append(reader.retr(number)[1][0])
        if delete:
            reader.dele(number)
    reader.quit()
    return found


async def test_an_old_device_sends_and_an_old_client_reads(certificates: Certificates, tmp_path: Path) -> None:
    async with account(certificates, tmp_path) as (graph, given):
        for number in range(5):
            graph.mailbox.add(b"Subject: m%d\r\n\r\nhello\r\n" % number)
        checked = await run_sync(lambda: run("check", **given))
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert f"may send from {SENDER}" in checked.stdout
        assert "has 5 messages" in checked.stdout

        def journey() -> str:
            with running(given) as proxy:
                assert reads(proxy, delete=True) == [b"Subject: m%d" % number for number in range(5)]
                assert reads(proxy, delete=False) == []
                sends(proxy, 1)
                sends(proxy, 2, octets=4_000_000)
                return proxy.log

        log = await run_sync(journey)
        small, large = graph.mailbox.sent
        assert small.recipients == large.recipients == ("one@x.example",)
        assert b"\r\nSubject: 1\r\n" in small.delivered
        assert large.message["subject"] == "2"
        assert not graph.mailbox.held()
        assert SECRET not in log
        assert not any(token.text in log for token in graph.tokens._tokens)  # type: ignore[attr-defined]
        assert graph.most_at_once <= 4


@pytest.mark.long
@pytest.mark.fault("E3")
async def test_a_throttled_server_gets_each_message_once(certificates: Certificates, tmp_path: Path) -> None:
    async with account(certificates, tmp_path) as (graph, given):
        given |= {
            "RELAY_PLUGIN": "spool",
            "SPOOL_RELAY": "graph",
            "SPOOL_RETRY_SECONDS": "1",
            "MAILDROP_PLUGIN": "none",
        }
        graph.script = {
            ("sendMail", number): Status(429, "ApplicationThrottled", retry_after=0) for number in (2, 3, 9)
        }
        graph.script |= {
            ("sendMail", 6): Status(503, "ErrorServerBusy", retry_after=5),
            ("sendMail", 8): Status(500, "x"),
        }

        def journey() -> None:
            with running(given) as proxy:
                for number in range(12):
                    sends(proxy, number)
                proxy.wait_for("message delivered", 12)

        await run_sync(journey)
        subjects = [sent.delivered.partition(b"Subject: ")[2].partition(b"\r\n")[0] for sent in graph.mailbox.sent]
    assert sorted(map(int, subjects)) == list(range(12))


@pytest.mark.long
@pytest.mark.fault("E6")
@pytest.mark.parametrize("size", [100, 4_000_000])
async def test_what_the_spool_had_outlives_a_kill(certificates: Certificates, tmp_path: Path, size: int) -> None:
    async with account(certificates, tmp_path) as (graph, given):
        given |= {
            "RELAY_PLUGIN": "spool",
            "SPOOL_RELAY": "graph",
            "SPOOL_RETRY_SECONDS": "1",
            "MAILDROP_PLUGIN": "none",
        }
        step = "sendMail" if size == 100 else "upload"
        graph.script = {(step, 1): Hang()}

        def killed() -> int:
            with suppress(AssertionError), running(given) as proxy:  # which it raises as this does not end well
                sends(proxy, 7, size)
                wait_until(lambda: graph.times(step) > 0, "the message is on its way", 50)
                proxy.send(signal.SIGKILL)
            return proxy.process.wait(50)

        assert await run_sync(killed) == -signal.SIGKILL
        assert not graph.mailbox.sent

        def again() -> None:
            with running(given) as proxy:
                proxy.wait_for("message delivered")

        await run_sync(again)
        assert len(graph.mailbox.sent) == 1
