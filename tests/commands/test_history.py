"""The commands `history` and `devices`: at a terminal, in a pipe, and while a real service runs."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import smtplib
import subprocess
import time
from pathlib import Path

import pytest

from history.support import ANN, BOB, CLIENT, SENDER, event, relayed, spooled, written
from interop.proxy import clean_environment, command, run, running
from legacy_email_proxy.commands.history import _since
from realservers.processes import wait_until

NOW = 1_900_000_000.0


@pytest.fixture
def recorded(tmp_path: Path) -> dict[str, str]:
    """The variables of a service that has recorded something."""
    advice = "switch its login off"
    events = [
        relayed(NOW, ANN, BOB),
        event("smtp command refused", NOW + 1, command="AUTH LOGIN", reply="502 5.5.1 No", advice=advice),
        event("message refused", NOW + 2, sender="", recipients=[ANN], octets=152_093, cause="x" * 300),
        event("pop3 session ended", NOW + 3, client="192.168.1.41", user="ann", verdict="quit", retrieved=3, deleted=2),
        event("smtp session ended", NOW + 4, helo="NPI12AB34", verdict="quit"),
    ]
    written(tmp_path / "history.db", events)
    return {"STATE_DIR": str(tmp_path), "TZ": "UTC"}


def lines(recorded: dict[str, str], *arguments: str) -> list[str]:
    done = run(*arguments, **recorded)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def at_a_terminal(recorded: dict[str, str], *arguments: str, columns: int = 100) -> list[str]:
    """What a terminal of so many columns shows."""
    ours, theirs = pty.openpty()
    environment = clean_environment(**recorded, COLUMNS=str(columns))
    process = subprocess.Popen(command(*arguments), env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while read := os.read(ours, 65536):
            shown += read
    except OSError:
        pass  # the other end is closed: the command has ended
    os.close(ours)
    assert process.wait(50) == 0
    return shown.decode().splitlines()


def test_in_a_pipe_an_entry_is_one_whole_line(recorded: dict[str, str]) -> None:
    first, second, third, fourth = lines(recorded, "history")
    assert first == (
        f"2030-03-17T17:46:40+00:00  {CLIENT}     relayed             {SENDER} → {ANN}, {BOB}  1000 octets"
        "  250 2.0.0 Ok: queued"
    )
    assert second.endswith("  command refused     AUTH LOGIN  502 5.5.1 No  (switch its login off)")
    assert third.endswith("  <> → ann@firm.example  152 kB  " + "x" * 300)
    assert fourth.endswith("  192.168.1.41     read mail, quit     user ann: 3 read, 2 deleted")


def test_at_a_terminal_lines_are_as_wide_as_it_is(recorded: dict[str, str]) -> None:
    shown = at_a_terminal(recorded, "history")
    assert shown[:2] == [
        f"2030-03-17 17:46:40  {CLIENT}     relayed             {SENDER} → {ANN}, {BOB}"[:99] + "…",
        " " * 21 + "250 2.0.0 Ok: queued",
    ]
    assert shown[3] == " " * 21 + "(switch its login off)"
    assert max(map(len, shown)) <= 100
    assert "".join(shown).count("x") >= 300 + 2  # nothing of what went wrong is cut off
    assert shown[-1] == "4 entries"


def test_at_a_terminal_it_says_that_there_is_more(recorded: dict[str, str]) -> None:
    assert at_a_terminal(recorded, "history", "--limit", "1")[-1] == (
        "1 entry; there are older ones, --limit 10 shows more"
    )


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ((), [1, 2, 3, 4]),
        (("--client", "192.168.1.41"), [4]),
        (("--recipient", "bob"), [1]),
        (("--sender", "<>"), [3]),
        (("--sender", SENDER.upper()), [1]),
        (("--failed",), [2, 3]),
        (("--failed", "--limit", "1"), [3]),
        (("--limit", "2"), [3, 4]),
        (("--limit", "0"), [1, 2, 3, 4]),
        (("--account", "office"), []),
        (("--since", "2030-03-17T17:46:42"), [3, 4]),
    ],
    ids=str,
)
def test_what_is_asked_for_is_what_is_told(
    recorded: dict[str, str], arguments: tuple[str, ...], ids: list[int]
) -> None:
    found = [json.loads(line) for line in lines(recorded, "history", "--json", *arguments)]
    assert [entry["id"] for entry in found] == ids


def test_devices(recorded: dict[str, str]) -> None:
    reader, printer = lines(recorded, "devices")
    assert reader == (
        "192.168.1.41  first 2030-03-17T17:46:43+00:00, last 2030-03-17T17:46:43+00:00"
        "  last success 2030-03-17T17:46:43+00:00; 3 read in 1 sessions, 2 deleted"
    )
    assert printer.startswith(f"{CLIENT}  calls itself NPI12AB34, probably HP  first 2030-03-17T17:46:40")
    assert "; 1 sent, 2 refusals  last trouble 2030-03-17T17:46:42+00:00: its message was refused: xxx" in printer
    shown = at_a_terminal(recorded, "devices")
    assert shown[-1] == "2 devices"
    assert max(map(len, shown)) <= 100
    found = [json.loads(line) for line in lines(recorded, "devices", "--json")]
    assert [device.get("probably") for device in found] == [None, "HP"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("2d", 172_800), ("1w", 604_800)], ids=str
)
def test_since(monkeypatch: pytest.MonkeyPatch, text: str, seconds: int) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert _since(text) == NOW - seconds


@pytest.mark.parametrize("given", [("--since", "soon"), ("--since", "2030-13-01"), ("--limit", "-1"), ("--limit", "x")])
def test_what_can_not_be_understood(given: tuple[str, str]) -> None:
    done = run("history", *given)
    assert done.returncode == 2
    assert f"{given[1]!r}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["history", "devices"])
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("nothing", "nothing was recorded yet, or STATE_DIR is another one"),
        ("off", "HISTORY_DAYS=0 has switched it off"),
        ("garbage", "file is not a database"),
    ],
)
def test_no_history(name: str, state: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    if state == "garbage":
        path.write_text("garbage" * 1000)
    done = run(name, STATE_DIR=str(tmp_path), HISTORY_DAYS="0" if state == "off" else "")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"legacy-email-proxy: no history in {path}: {words}\n"


@pytest.mark.parametrize("name", ["history", "history --json", "devices"])
def test_a_reader_that_has_read_enough_is_no_fault(recorded: dict[str, str], name: str) -> None:
    """As with `… history | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command(*name.split()), env=clean_environment(**recorded), stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.stderr == b""


def test_following(recorded: dict[str, str], tmp_path: Path) -> None:
    told = tmp_path / "told"
    with told.open("wb") as output:
        follower = subprocess.Popen(
            command("history", "--follow", "--limit", "1", "--json"), env=clean_environment(**recorded), stdout=output
        )
    try:

        def seen() -> list[tuple[int, str]]:
            found = [json.loads(line) for line in told.read_text().splitlines()]
            return [(entry["id"], entry["state"]) for entry in found]

        wait_until(lambda: seen() == [(4, "quit")], "the last entry is told", 50)
        written(tmp_path / "history.db", [spooled()])
        wait_until(lambda: seen()[1:] == [(5, "spooled")], "the new entry is told", 50)
        written(tmp_path / "history.db", [event("message delivered", NOW, message=12, recipients=[ANN], backend="ok")])
        wait_until(lambda: seen()[2:] == [(5, "delivered")], "its change is told", 50)
        follower.send_signal(signal.SIGINT)
        assert follower.wait(50) == 130
    finally:
        follower.kill()
        follower.wait()


def test_a_real_service_records_what_it_does(tmp_path: Path) -> None:
    """Also with a log that is silent; and what it recorded is there after it has ended."""
    variables = {
        "STATE_DIR": str(tmp_path / "state"),
        "MAILDROP_PLUGIN": "none",
        "RELAY_PLUGIN": "spool",
        "SPOOL_RELAY": "maildir",
        "RELAY_MAILDIR_PATH": str(tmp_path / "mail"),
    }
    with running(variables) as proxy:
        with smtplib.SMTP(*proxy.smtp, local_hostname="RNP0026731A2B3C", timeout=50) as device:
            device.sendmail(SENDER, [ANN, BOB], b"Subject: secret plans\r\n\r\nhello\r\n")
            device.docmd("AUTH LOGIN")

        def told() -> list[str]:
            return run("history", **variables).stdout.splitlines()

        wait_until(lambda: any(" delivered " in line for line in told()), "the spool has delivered it", 50)
        wait_until(lambda: bool(run("devices", **variables).stdout.strip()), "the device is known", 50)
    message, refusal = told()
    assert re.search(rf"  127\.0\.0\.1 +delivered +{SENDER} → {ANN}, {BOB}  ", message)
    assert "(it wants to log in: switch its login off, or set SMTP_AUTH=any)" in refusal
    (device_line,) = run("devices", **variables).stdout.splitlines()
    assert "calls itself RNP0026731A2B3C, probably Ricoh" in device_line
    assert b"secret plans" not in b"".join(path.read_bytes() for path in (tmp_path / "state").glob("history.db*"))
