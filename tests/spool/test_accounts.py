"""The real command with two accounts that spool: each one's mail waits for its own backend, over a reload too."""

from __future__ import annotations

import json
import re
import signal
import smtplib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync

from fakes.smtp import FakeSMTPServer
from interop.proxy import Proxy, run, running
from legacy_email_proxy.build import compose
from legacy_email_proxy.relays.rate_limit import RateLimitedRelay
from realservers.processes import free_ports, wait_until

RECIPIENT = "bob@example.test"


def backend(account: str) -> FakeSMTPServer:
    server = FakeSMTPServer(encryption="none", accounts={account: f"password of {account}"})
    (server.port,) = free_ports(1)
    return server


def text_of(backends: Mapping[str, FakeSMTPServer]) -> str:
    """The accounts file; each account's filter names the one sender that its provider would take."""
    return "".join(
        f"[accounts.{account}]\n"
        f"BACKEND_SMTP_PORT = {server.port}\n"
        f'BACKEND_SMTP_USER = "{account}"\n'
        f'BACKEND_SMTP_PASS = "password of {account}"\n'
        f'SMTP_SENDER = "{account}@provider.test"\n'
        f"SMTP_SENDER_REPLY_TO = true\n"
        f'[[rules]]\nsender = "@{account}.test"\naccount = "{account}"\n'
        for account, server in backends.items()
    )


def submit(proxy: Proxy, account: str) -> None:
    sender = f"scanner@{account}.test"
    with smtplib.SMTP(*proxy.smtp, timeout=50) as device:
        device.sendmail(sender, [RECIPIENT], f"From: {sender}\r\nSubject: x\r\n\r\nx\r\n".encode())


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_two_accounts_with_backends_that_come_and_go(tmp_path: Path) -> None:
    backends = {account: backend(account) for account in ("north", "south")}
    file = tmp_path / "accounts.toml"
    file.write_text(text_of(backends))
    variables = {
        "ACCOUNTS_FILE": str(file),
        "STATE_DIR": str(tmp_path / "state"),
        "MAILDROP_PLUGIN": "none",
        "RELAY_PLUGIN": "spool",
        "BACKEND_SMTP_HOST": "127.0.0.1",
        "BACKEND_SMTP_USE_SSL": "false",
        "SPOOL_RETRY_SECONDS": "1",
    }

    async def spool(*arguments: str) -> list[dict[str, Any]]:
        done = await run_sync(lambda: run("spool", *arguments, "--json", **variables))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def tried(proxy: Proxy, account: str) -> bool:
        return any(f" account={account} " in line for line in proxy.lines(" delivery paused"))

    async def said(proxy: Proxy, condition: Callable[[], bool], what: str) -> None:
        await run_sync(lambda: wait_until(condition, what, 20))
        assert "Traceback" not in proxy.log

    def reload(proxy: Proxy, without: str = "") -> None:
        file.write_text(text_of({account: server for account, server in backends.items() if account != without}))
        proxy.process.send_signal(signal.SIGHUP)

    with running(variables) as proxy:
        for account in backends:
            await run_sync(submit, proxy, account)
            await said(proxy, lambda account=account: tried(proxy, account), "it was tried")  # type: ignore[misc]
        waiting = await spool("list")
        assert [(item["account"], item["sender"]) for item in waiting] == [
            (account, f"{account}@provider.test") for account in backends
        ]
        assert [item["account"] for item in await spool("list", "--account", "south")] == ["south"]
        shown = (await run_sync(lambda: run("spool", "list", **variables))).stdout
        assert "queued of account north since" in shown

        async with backends["north"] as north:
            await north.until(lambda server: server.messages, 20)
            (message,) = north.messages
            assert message.mail.startswith("MAIL FROM:<north@provider.test>")
            # What the filter does it has done once, however often the message was tried.
            assert message.content.count(b"Reply-To: scanner@north.test\r\n") == 1
            assert {connection.user for connection in north.connections} == {"north"}
            # A second message, with nothing in the way of it.
            await run_sync(submit, proxy, "north")
            await north.until(lambda server: len(server.messages) == 2, 20)
        assert [item["account"] for item in await spool("list")] == ["south"]

        reload(proxy, without="south")
        await said(proxy, lambda: bool(proxy.lines(" mail stays in the spool")), "whose mail stays")
        assert "account=south messages=1" in proxy.lines(" mail stays in the spool")[0]
        with pytest.raises(smtplib.SMTPSenderRefused):
            await run_sync(submit, proxy, "south")

        async with backends["south"] as south:
            assert south.messages == []
            reload(proxy)
            await south.until(lambda server: server.messages, 20)
            assert {connection.user for connection in south.connections} == {"south"}
            (message,) = south.messages
            assert message.mail.startswith("MAIL FROM:<south@provider.test>")
            async with backends["north"]:
                checked = await run_sync(lambda: run("check", **variables))
                assert checked.returncode == 0, checked.stdout
                words = r"^ok +north relay spool: the service that is running has 0 messages in"
                assert re.search(words, checked.stdout, re.M)
        place = {"SMTP_BIND_ADDR": "127.0.0.1", "SMTP_BIND_PORT": str(proxy.smtp[1])}
        assert (await run_sync(lambda: run("healthcheck", **variables, **place))).returncode == 0
        assert len(backends["north"].messages) == 2
        assert "password of" not in proxy.log
    assert await spool("list") == []


@pytest.mark.parametrize("relay", ["spool", "smtps"])
def test_it_is_the_backend_that_is_spared(tmp_path: Path, relay: str) -> None:
    """And not the device that has to wait, where there is a spool between them."""
    made = compose(
        {
            "STATE_DIR": str(tmp_path),
            "MAILDROP_PLUGIN": "none",
            "RELAY_PLUGIN": relay,
            "BACKEND_SMTP_HOST": "127.0.0.1",
            "BACKEND_SMTP_MESSAGES_PER_MINUTE": "1",
        }
    ).relay
    backends: Any = getattr(made, "_next", None) if relay == "spool" else made
    assert isinstance(made, RateLimitedRelay) == (relay == "smtps")
    assert isinstance(backends, RateLimitedRelay)
