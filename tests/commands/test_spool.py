"""The real command, with a spool in it: what proxy/docs/spool.md says of `kill -9` and of the `spool` command."""

from __future__ import annotations

import json
import signal
import smtplib
import socket
import stat
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from interop.proxy import Proxy, run, running
from legacy_email_proxy.commands.spool import _selected
from legacy_email_proxy.contracts import Failure, SettingsMistake, Unreachable
from realservers.processes import wait_until
from spool.support import CONTENT, RECIPIENT, SENDER, Backend, listed, operate, raises, send, spool_to, spooling
from spool.support import until_states as until_states_of


def spool(variables: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
    done = run("spool", *arguments, "--json", **variables)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def down(tmp_path: Path) -> dict[str, str]:
    """A spool before a backend at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return {
        "STATE_DIR": str(tmp_path / "state"),
        "MAILDROP_PLUGIN": "none",
        "RELAY_PLUGIN": "spool",
        "BACKEND_SMTP_HOST": "127.0.0.1",
        "BACKEND_SMTP_PORT": str(port),
        "SMTP_ADD_RECEIVED": "false",
        "SMTP_ADD_MISSING": "false",
    }


def up(down: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The same spool before one that takes everything."""
    return down | {"SPOOL_RELAY": "maildir", "RELAY_MAILDIR_PATH": str(tmp_path / "mail")}


def submit(proxy: Proxy, *recipients: str) -> None:
    with smtplib.SMTP(*proxy.smtp, timeout=50) as device:
        device.sendmail(SENDER, recipients or [RECIPIENT], CONTENT)


class _Killed(Exception):
    pass


def take_two_and_die(variables: dict[str, str], state_dir: Path) -> None:
    """Two messages, the second one held, and then SIGKILL."""
    with running(variables) as proxy:
        submit(proxy)
        submit(proxy)
        wait_until(lambda: any(item["tries"] for item in spool(variables, "list")), "the backend was tried", 20)
        second = run("serve", **variables, SMTP_BIND_ADDR="127.0.0.1", SMTP_BIND_PORT="0")
        assert second.returncode == 2
        assert second.stderr.splitlines()[-1].startswith("legacy-email-proxy: STATE_DIR: process")
        assert "Traceback" not in second.stderr
        assert stat.S_IMODE((state_dir / "control.sock").stat().st_mode) == 0o600
        _, waiting = spool(variables, "list")
        spool(variables, "hold", str(waiting["number"]))
        proxy.process.send_signal(signal.SIGKILL)
        proxy.process.wait(10)
        raise _Killed


@pytest.mark.long
@pytest.mark.timeout(120)
def test_mail_arrives_after_an_outage_and_a_crash(down: dict[str, str], tmp_path: Path) -> None:
    down["SPOOL_RETRY_SECONDS"] = "1"
    with pytest.raises(_Killed):
        take_two_and_die(down, tmp_path / "state")
    # Nobody runs now: the command opens the file itself.
    first, waiting = spool(down, "list")
    assert (first["state"], waiting["state"]) == ("queued", "held")
    assert "111" in first["recipients"][0]["reply"] or "refused" in first["recipients"][0]["reply"]
    exported = run("spool", "export", str(first["number"]), **down).stdout
    assert exported.splitlines() == CONTENT.decode().splitlines()
    shown = run("spool", "show", str(first["number"]), **down).stdout
    assert f"to <{RECIPIENT}> waiting at" in shown
    mail = tmp_path / "mail" / "new"
    with running(up(down, tmp_path)):
        wait_until(lambda: mail.exists() and len(list(mail.iterdir())) == 1, "the first arrived", 20)
        spool(down, "release", str(waiting["number"]))
        wait_until(lambda: len(list(mail.iterdir())) == 2, "the second arrived", 20)
        wait_until(lambda: spool(down, "list") == [], "nothing waits", 20)
    assert [file.read_bytes() for file in mail.iterdir()] == [CONTENT, CONTENT]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("list",), 0, ""),
        (("migrate",), 0, ""),
        (("show", "7"), 1, "there is no message 7"),
        (("drop", "7"), 1, "there is no message 7"),
        (("show",), 2, "name the messages by their numbers"),
        (("export", "1", "2"), 2, "name one message"),
    ],
)
def test_what_the_command_says(down: dict[str, str], arguments: tuple[str, ...], status: int, said: str) -> None:
    done = run("spool", *arguments, **down)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_is_for_the_spool(down: dict[str, str]) -> None:
    done = run("spool", "list", **(down | {"RELAY_PLUGIN": "smtps"}))
    assert done.returncode == 2
    assert "RELAY_PLUGIN: this relay keeps nothing" in done.stderr


class Named:
    """A queue of which only the name counts."""

    def __init__(self, name: str) -> None:
        self.queue_name = name


QUEUES: Any = {"a": Named("one"), "b": Named("one"), "c": Named("two")}


@pytest.mark.parametrize(
    ("action", "account", "meant"),
    [("list", None, ["one", "two"]), ("list", "b", ["one"]), ("show", "c", ["two"]), ("drop", "a", ["one"])],
)
def test_which_spool_is_meant(action: str, account: str | None, meant: list[str]) -> None:
    options = Namespace(action=action, account=account)
    assert [queue.queue_name for queue in _selected(QUEUES, options)] == meant


@pytest.mark.parametrize(
    ("queues", "action", "account", "said"),
    [
        (QUEUES, "drop", None, "--account: there are several spools; say whose is meant: a, b, c"),
        (QUEUES, "list", "d", "--account: 'd' is no account with a spool; there is a, b, c"),
        ({"": Named("one")}, "list", "d", "--account: 'd' is no account with a spool; there is none with a name"),
        ({}, "list", None, "RELAY_PLUGIN: this relay keeps nothing; the spool command is for `spool`"),
    ],
)
def test_no_spool_is_meant(queues: Any, action: str, account: str | None, said: str) -> None:
    with pytest.raises(SettingsMistake) as caught:
        _selected(queues, Namespace(action=action, account=account))
    assert caught.value.lines == (said,)


def test_mistakes_of_the_next_relay_are_told(down: dict[str, str]) -> None:
    for name, said in (("nobody", "SPOOL_RELAY: there is no relay plugin"), ("maildir", "RELAY_MAILDIR_PATH: not set")):
        done = run("serve", **(down | {"SPOOL_RELAY": name}))
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


async def test_the_operator_of_a_running_spool(tmp_path: Path) -> None:
    async with spooling(Backend(sender=raises([Unreachable("away")] * 100)), tmp_path) as service:
        await send(service)
        await until_states_of(service, "queued")
        # As the service does it for the command: a relay that is not started, in the same process.
        other = spool_to(Backend(), tmp_path)
        (item,) = await listed(other)
        assert item["client"] == "192.0.2.9"
        assert b"".join(await operate(other, "export", item["number"])) == CONTENT
        for action, state in (("hold", "held"), ("release", "queued"), ("retry", "queued")):
            assert await operate(other, action, item["number"]) == [{"number": item["number"], "done": action}]
            assert [each["state"] for each in await listed(other)] == [state]
        with pytest.raises(Failure, match="not held"):
            await operate(other, "release", item["number"])
        await operate(other, "drop", item["number"])
        assert await listed(service) == []
        with pytest.raises(Failure, match="knows no 'dance'"):
            await operate(other, "dance")


async def test_many_messages_at_once(tmp_path: Path) -> None:
    async with spooling(Backend(), tmp_path) as service:
        for asked in (service, spool_to(Backend(), tmp_path)):
            with pytest.raises(Failure, match="there is no message 1000001"):
                await operate(asked, "drop", *range(1_000_001, 1_020_000))


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**30])
async def test_numbers_that_no_message_has(tmp_path: Path, number: int) -> None:
    async with spooling(Backend(), tmp_path) as service:
        for action in ("show", "retry", "drop", "export"):
            with pytest.raises(Failure, match=f"there is no message {number}"):
                await operate(service, action, number)
