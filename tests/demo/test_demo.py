"""The whole demo as its user runs it: a process, its printed instructions, both legs, the end by a signal."""

from __future__ import annotations

import poplib
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from legacy_email_proxy.demo.samples import MESSAGES

_DEADLINE = 50.0
_LAST_LINE = "Ctrl-C ends the demo"
_CONTENT = b"From: scanner@example.com\r\nSubject: Scan\r\n\r\n.\r\n..dots, and \xe2\x9c\x93\r\nlast line\r\n"


@dataclass
class Demo:
    """The running process. Its folder for temporary files is its own, so that a test can see what it left there."""

    process: subprocess.Popen[str]
    text: str
    folder: Path
    log: Path

    def port(self, leg: str) -> int:
        found = re.search(rf"plain {leg} at 127\.0\.0\.1:(\d+)", self.text)
        assert found is not None, self.text
        return int(found[1])

    def commands(self, word: str) -> list[str]:
        return [line.strip() for line in self.text.splitlines() if line.startswith("    ") and word in line]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(_DEADLINE)

    def stored(self) -> list[bytes]:
        with _pop3(self) as client:
            return [
                b"".join(line + b"\r\n" for line in client.retr(number + 1)[1]) for number in range(client.stat()[0])
            ]


class _Pop3(poplib.POP3):
    def __enter__(self) -> _Pop3:
        self.user("anybody")
        self.pass_("anything")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pop3(demo: Demo) -> _Pop3:
    return _Pop3("127.0.0.1", demo.port("POP3"), timeout=_DEADLINE)


def _started(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], Path, Path]:
    folder = tmp_path / "tmp"
    folder.mkdir()
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "legacy_email_proxy", "demo", *arguments],
            # The reader's own variables have no say in the demo; these would stop it.
            env={"TMPDIR": str(folder), "BACKEND_IMAP_PORT": "nonsense", "RELAY_PLUGIN": "nonsense"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    return process, folder, log


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    process, folder, log = _started(tmp_path, "--pop3-port", "0", "--smtp-port", "0")
    assert process.stdout is not None
    with process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith(_LAST_LINE):
                    break
            assert lines, log.read_text()
            yield Demo(process, "".join(lines), folder, log)
        finally:
            process.kill()


def test_the_samples_can_be_listed_and_read(demo: Demo) -> None:
    with _pop3(demo) as client:
        assert [int(line.split()[1]) for line in client.list()[1]] == [len(message) for message in MESSAGES]
    assert demo.stored() == list(MESSAGES)


def _send(demo: Demo) -> None:
    with smtplib.SMTP("127.0.0.1", demo.port("SMTP"), timeout=_DEADLINE) as client:
        assert client.sendmail("scanner@example.com", ["office@example.org"], _CONTENT) == {}


def test_what_is_sent_is_read_back_octet_for_octet(demo: Demo) -> None:
    _send(demo)
    *before, sent = demo.stored()
    assert before == list(MESSAGES)
    assert re.sub(rb"\A(?:(?:Received|Date|Message-ID): [^\n]*\n(?:\t[^\n]*\n)*)*", b"", sent) == _CONTENT


def test_a_deleted_message_is_gone(demo: Demo) -> None:
    with _pop3(demo) as client:
        client.dele(2)
        client.quit()
    assert demo.stored() == [MESSAGES[0], MESSAGES[2]]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_printed_curl_commands_work(demo: Demo) -> None:
    listing, reading, sending = demo.commands("curl ")
    assert _shell(listing).split() == [
        str(word) for number, message in enumerate(MESSAGES, 1) for word in (number, len(message))
    ]
    assert _shell(reading).encode() == MESSAGES[0]
    _shell(sending)
    assert demo.stored()[-1].endswith(b"\r\nSubject: Scan 42\r\n\r\nHello from an old device.\r\n")


def test_the_printed_python_commands_work(demo: Demo) -> None:
    listing, sending = (line.replace("python3", sys.executable, 1) for line in demo.commands("python3 "))
    _shell(sending)
    assert demo.stored()[-1].endswith(b"\r\nSubject: Scan 42\r\n\r\nHello from an old device.\r\n")
    assert f"b'4 {len(demo.stored()[-1])}'" in _shell(listing)


def _shell(command: str) -> str:
    # Not as text: that would turn CRLF into LF.
    done = subprocess.run(command, shell=True, check=False, capture_output=True, timeout=_DEADLINE)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_nothing_is_left(demo: Demo, number: signal.Signals) -> None:
    assert [path.name for path in demo.folder.glob("*/*")] == ["ca.pem"]
    _send(demo)
    demo.stored()
    assert demo.end(number) == 0
    assert list(demo.folder.iterdir()) == []
    log = demo.log.read_text()
    assert "Traceback" not in log
    assert " stopped" in log.splitlines()[-1]
    # Every line is one of ours, none of the libraries': no warning, no debug output.
    assert {line.split()[1] for line in log.splitlines()} == {"info"}


def test_the_page_opens_with_something_to_see(tmp_path: Path) -> None:
    process, folder, log = _started(tmp_path, "--page", "--pop3-port", "0", "--smtp-port", "0")
    assert process.stdout is not None
    with process:
        try:
            found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in process.stdout)))
            address = found[0]
            _until(lambda: "notification failed for good" in log.read_text())

            def page(path: str) -> str:
                with urlopen(address + path, timeout=_DEADLINE) as answer:
                    text: str = answer.read().decode()
                return text

            assert "192.0.2.22" in page("overview")
            devices = page("devices")
            assert "probably Brother" in devices
            assert "switch its login off" in devices
            # What the demo has sent itself is written a little later.
            _until(lambda: "archive@busy.example" in page("messages"))
            spool = page("spool")
            assert "450 4.2.1 This mailbox is busy" in spool
            assert "550 5.1.2 There is no such domain" in spool
            assert ">Dead</span>" in spool
            process.send_signal(signal.SIGINT)
            assert process.wait(_DEADLINE) == 0
        finally:
            process.kill()
    assert list(folder.iterdir()) == []
    assert "Traceback" not in log.read_text()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signal_ends_it_while_a_session_is_open(demo: Demo) -> None:
    with _pop3(demo) as client:
        client.dele(1)
        assert demo.end(signal.SIGINT) == 0
    assert list(demo.folder.iterdir()) == []
    assert "Traceback" not in demo.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_it_is_ready_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process, folder, log = _started(tmp_path, "--pop3-port", "0", "--smtp-port", "0")
    with process:
        try:
            deadline = time.monotonic() + _DEADLINE
            while not any(folder.glob("*/*")):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.001)
            process.send_signal(number)
            assert process.wait(_DEADLINE) == 0, log.read_text()
        finally:
            process.kill()
    assert list(folder.iterdir()) == []
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(("option", "variable"), [("--pop3-port", "POP3_BIND_PORT"), ("--smtp-port", "SMTP_BIND_PORT")])
def test_a_port_in_use_is_one_line(tmp_path: Path, option: str, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, lines, left = _refused(tmp_path, "--pop3-port", "0", "--smtp-port", "0", option, port)
    assert code == 2
    assert len(lines) == 1
    assert f"{variable}: 127.0.0.1 port {port} is in use" in lines[0]
    assert left == []


def test_nonsense_for_a_port_is_one_line(tmp_path: Path) -> None:
    code, lines, left = _refused(tmp_path, "--pop3-port", "eleven", "--smtp-port", "0")
    assert code == 2
    assert len(lines) == 1
    assert "POP3_BIND_PORT" in lines[0]
    assert left == []


@pytest.mark.parametrize("missing", ["pymap", "trustme"])
def test_without_the_extra_it_says_how_to_install_it(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from legacy_email_proxy.cli import main; sys.exit(main(['demo', '--pop3-port', '0', '--smtp-port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=_DEADLINE, env={}
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "pip install 'legacy-email-proxy[demo]'" in line
    assert missing in line


def test_only_the_command_imports_the_extra() -> None:
    program = "import sys, legacy_email_proxy.cli as cli; cli.parser(); print({'pymap', 'trustme'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=_DEADLINE
    )
    assert done.stdout == "set()\n"


def _refused(tmp_path: Path, *arguments: str) -> tuple[int, list[str], list[Path]]:
    process, folder, log = _started(tmp_path, *arguments)
    with process:
        try:
            code = process.wait(_DEADLINE)
        finally:
            process.kill()
    lines = [line for line in log.read_text().splitlines() if not re.match(r"\S+ info ", line)]
    return code, lines, list(folder.iterdir())
