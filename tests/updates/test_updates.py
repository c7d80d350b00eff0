"""What earlier versions have written is read by this one; what a newer one has written is refused in one line."""

from __future__ import annotations

import json
import shutil
import smtplib
import sqlite3
from pathlib import Path

import pytest

from interop.proxy import run, running
from realservers.processes import wait_until
from updates.state import HERE, HIDDEN, LARGE, SMALL, TOKEN, TOKENS, UIDVALIDITY, memory, store, variables

pytestmark = pytest.mark.long

STATES = sorted(HERE.glob("state-*"))


@pytest.fixture(params=STATES, ids=lambda path: path.name)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the state folder of an earlier version."""
    return Path(shutil.copytree(request.param, tmp_path / "state"))


def test_there_is_one() -> None:
    assert [path.name for path in STATES][:1] == ["state-0.1.0"]


def delivering(state: Path) -> dict[str, str]:
    return variables(state) | {"SPOOL_RELAY": "maildir", "RELAY_MAILDIR_PATH": str(state.parent / "mail")}


def states(state: Path) -> list[str]:
    done = run("history", "--json", "--since", "2026-01-01", **variables(state))
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line)["state"] for line in done.stdout.splitlines()]


def test_mail_that_waits_is_delivered_and_its_history_goes_on(state: Path) -> None:
    mail = state.parent / "mail" / "new"
    assert set(states(state)) <= {"spooled", "delayed"}
    assert len(states(state)) == 2
    with running(delivering(state)) as proxy:
        wait_until(lambda: len(list(mail.glob("*"))) == 2, "both have arrived", 50)
        proxy.wait_for("message delivered", 2)
        with smtplib.SMTP(*proxy.smtp, timeout=50) as device:
            device.sendmail("scan@firm.example", ["ann@firm.example"], SMALL)
        wait_until(lambda: len(list(mail.glob("*"))) == 3, "and a new one", 50)
        proxy.wait_for("message delivered", 3)
    assert sorted(file.read_bytes() for file in mail.iterdir()) == sorted([SMALL, LARGE, SMALL])
    assert states(state) == ["delivered"] * 3
    assert run("spool", "list", **variables(state)).stdout == ""


async def test_tokens_and_deleted_messages_are_known(state: Path) -> None:
    for account, key in TOKENS.items():
        record = await store(state, account, key).load()
        assert record.refresh_token is not None
        assert record.refresh_token.reveal() == TOKEN
    assert memory(state).recall(UIDVALIDITY).hidden == HIDDEN


def newer(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def test_a_newer_spool_is_refused_in_one_line_and_left_alone(state: Path) -> None:
    newer(state / "spool.db")
    before = (state / "spool.db").read_bytes()
    done = run("serve", **(delivering(state) | {"SMTP_BIND_ADDR": "127.0.0.1", "SMTP_BIND_PORT": "0"}))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("legacy-email-proxy: ")]
    assert line.endswith(f"STATE_DIR: can not use '{state}/spool.db': it has version 99, and this program knows 1")
    assert "Traceback" not in done.stderr
    assert (state / "spool.db").read_bytes() == before
    assert run("spool", "list", **variables(state)).returncode == 2


def test_a_newer_history_is_left_alone_and_mail_goes_on(state: Path) -> None:
    newer(state / "history.db")
    with running(delivering(state)) as proxy:
        (line,) = proxy.wait_for("history not written")
        assert "newer version" in line
        proxy.wait_for("message delivered", 2)
    with sqlite3.connect(state / "history.db") as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (2,)
    connection.close()
    done = run("history", **variables(state))
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1


def test_a_copy_of_the_state_folder_made_while_the_service_runs_is_restored_elsewhere(tmp_path: Path) -> None:
    """As updates.md has it: the spool by its own command, the history by SQLite's, the rest as files."""
    here, there, backup = (tmp_path / name for name in ("here", "there", "backup"))
    away = {"BACKEND_SMTP_HOST": "127.0.0.1", "BACKEND_SMTP_PORT": "1"}
    with running(variables(here) | away) as proxy:
        memory(here).change(UIDVALIDITY, lambda known: known.hidden.update(HIDDEN))
        with smtplib.SMTP(*proxy.smtp, timeout=50) as device:
            for content in (SMALL, LARGE):
                device.sendmail("scan@firm.example", ["ann@firm.example"], content)
        done = run("spool", "backup", str(backup / "spool"), **variables(here))
        assert (done.returncode, done.stderr) == (0, "")
        shutil.copytree(here / "maildrop.imap", backup / "maildrop.imap")
        proxy.wait_for("message spooled", 2)
        with sqlite3.connect(here / "history.db") as history, sqlite3.connect(backup / "history.db") as copy:
            wait_until(lambda: history.execute("SELECT count(*) FROM entries").fetchone() == (2,), "written", 50)
            history.backup(copy)
        for connection in (history, copy):
            connection.close()
    shutil.copytree(backup / "maildrop.imap", there / "maildrop.imap")
    shutil.copy(backup / "history.db", there)
    done = run("spool", "restore", str(backup / "spool"), **variables(there))
    assert (done.returncode, done.stderr) == (0, "")
    mail = tmp_path / "mail" / "new"
    with running(delivering(there)):
        wait_until(lambda: len(list(mail.glob("*"))) == 2, "both have arrived", 50)
    assert sorted(file.read_bytes() for file in mail.iterdir()) == sorted([SMALL, LARGE])
    assert memory(there).recall(UIDVALIDITY).hidden == HIDDEN
    assert states(there) == ["delivered", "delivered"]
