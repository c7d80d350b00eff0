"""What a service manager hears of the service, and the sockets that it hands over, as systemd would."""

from __future__ import annotations

import os
import poplib
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest

from interop.proxy import STOP_SECONDS, clean_environment
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.service_manager import ServiceManager
from waiting import until

# Puts the descriptors where a service manager puts them, as the process that becomes the service.
STARTED = """
import os, sys
count = int(sys.argv[1])
for place in range(count):
    os.dup2(int(sys.argv[2 + place]), 100 + place)
for place in range(count):
    os.dup2(100 + place, 3 + place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "WATCHDOG_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "legacy_email_proxy", "serve"])
"""


class Heard:
    """A service manager's ear."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(STOP_SECONDS)

    def next(self) -> dict[str, str]:
        facts = self._socket.recv(4096).decode().splitlines()
        return dict(fact.split("=", 1) for fact in facts)

    def until(self, fact: str) -> dict[str, str]:
        while fact not in (found := self.next()):
            pass
        return found

    def close(self) -> None:
        self._socket.close()


@contextmanager
def heard(address: str | Path) -> Iterator[Heard]:
    ear = Heard(str(address))
    try:
        yield ear
    finally:
        ear.close()


def test_the_service_tells_how_it_stands_and_serves_on_the_sockets_that_it_was_given() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        manager = stack.enter_context(heard(folder / "notify"))
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        variables = {
            "MAILDROP_PLUGIN": "maildir", "MAILDROP_MAILDIR_PATH": f"{folder}/mail",
            "RELAY_PLUGIN": "maildir", "RELAY_MAILDIR_PATH": f"{folder}/mail",
            "STATE_DIRECTORY": f"{folder}/state:{folder}/other",
            "NOTIFY_SOCKET": f"{folder}/notify", "WATCHDOG_USEC": "300000", "LISTEN_FDNAMES": "smtp:pop3",
        }  # fmt: skip
        numbers = [sock.fileno() for sock in sockets]
        process = subprocess.Popen(
            [sys.executable, "-c", STARTED, str(len(numbers)), *map(str, numbers)],
            env=clean_environment(**variables), pass_fds=numbers, stderr=subprocess.PIPE,
        )  # fmt: skip
        stack.callback(process.kill)
        smtp, pop3 = (int(sock.getsockname()[1]) for sock in sockets)
        assert manager.until("READY") == {
            "READY": "1", "STATUS": f"serving: pop3=127.0.0.1:{pop3} smtp=127.0.0.1:{smtp}",
        }  # fmt: skip
        with smtplib.SMTP("127.0.0.1", smtp, timeout=STOP_SECONDS) as device:
            device.sendmail("a@example.test", ["b@example.test"], b"Subject: x\r\n\r\nx\r\n")
        reader = poplib.POP3("127.0.0.1", pop3, timeout=STOP_SECONDS)
        reader.user("a")
        reader.pass_("b")
        assert reader.stat()[0] == 1
        reader.quit()
        for _ in range(2):
            assert manager.until("WATCHDOG") == {"WATCHDOG": "1"}
        process.send_signal(signal.SIGHUP)
        assert int(manager.until("RELOADING")["MONOTONIC_USEC"]) > 0
        manager.until("READY")
        process.send_signal(signal.SIGTERM)
        assert manager.until("STOPPING")["STOPPING"] == "1"
        _, said = process.communicate(timeout=STOP_SECONDS)
        assert process.returncode == 0, said
        assert (folder / "state").is_dir()
        assert not (folder / "other").exists()
        # They are the service manager's: for the next start of the service.
        assert [sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in sockets] == [1, 1]


async def test_an_address_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"legacy-email-proxy-test-{os.getpid()}"
    with heard(f"\0{name}") as ear:
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready("all is well")
        assert ear.next() == {"READY": "1", "STATUS": "all is well"}


def test_other_programs_do_not_hear_of_it() -> None:
    environ = {
        "NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "LISTEN_PID": "1", "LISTEN_FDS": "3",
        "LISTEN_FDNAMES": "smtp", "PATH": "/bin",
    }  # fmt: skip
    # What is meant for another process is not taken either: these descriptors are pytest's own.
    assert ServiceManager(environ).sockets("SMTP") == []
    assert environ == {"PATH": "/bin"}


def test_a_service_manager_that_does_not_listen_is_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager({"NOTIFY_SOCKET": f"{tmp_path}/nobody"}).stopping()
    assert "the service manager can not be told" in caplog.text


async def test_no_beat_once_a_listener_has_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alive = True
    with heard(tmp_path / "notify") as ear:
        manager = ServiceManager({"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "30000"})
        async with anyio.create_task_group() as group:
            group.start_soon(manager.beat, lambda: alive)
            assert await anyio.to_thread.run_sync(ear.next) == {"WATCHDOG": "1"}
            alive = False
            # It ends by itself.
        await until(lambda: "a listener has failed" in caplog.text)


async def test_without_a_watchdog_there_is_no_beat() -> None:
    with anyio.fail_after(50):
        await ServiceManager({}).beat(lambda: True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smtp", "LISTEN_FDNAMES: smtp: there are sockets of that name, but the settings leave SMTP closed"),
        ("legacy.socket", "LISTEN_FDNAMES: legacy.socket: FileDescriptorName= must be one of pop3, smtp"),
    ],
)
def test_a_socket_that_nobody_serves_is_a_mistake(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr("legacy_email_proxy.service_manager._FIRST_DESCRIPTOR", sock.detach())
    manager = ServiceManager({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": name})
    assert manager.sockets("POP3") == []
    with pytest.raises(SettingsMistake, match=words):
        manager.check_all_taken(("POP3", "SMTP"))
