"""The files that are written: whole or not at all, and read alike by all that read them."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from legacy_email_proxy.accounts.file import read_accounts
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.settings import read
from legacy_email_proxy.setup.draft import Draft, account_name
from legacy_email_proxy.setup.files import NewFile, read_env, rendered, write

UGLY = ["a b", "'", '"', "$HOME", "back\\slash", "#x", "x #y", "&", "ü", " lead", "trail ", "~", "100%", "`id`", "a;b"]


def shell(env: Path, name: str) -> str:
    script = f'set -a; . "{env}"; set +a; printenv {name}'
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout[:-1]


@pytest.mark.parametrize("text", UGLY)
def test_a_value_comes_back_whole(text: str, tmp_path: Path) -> None:
    env = tmp_path / "x.env"
    write(rendered(Draft({"BACKEND_SMTP_USER": text, "BACKEND_SMTP_PASS": text, "LOG_LEVEL": "debug"}), env))
    found = read(read_env(env))
    assert (found["BACKEND_SMTP_USER"], found["BACKEND_SMTP_PASS"].reveal()) == (text, text)
    assert shell(env, "LOG_LEVEL") == "debug"
    lines = [line for line in env.read_text().splitlines() if not line.startswith("#")]
    # A shell, and with it systemd, reads each as podman does: as it stands.
    assert all(shell(env, name) == value for name, value in (line.split("=", 1) for line in lines))


def test_a_secret_has_a_file_of_its_own(tmp_path: Path) -> None:
    env = tmp_path / "mail-proxy.env"
    given = {"BACKEND_SMTP_PASS": "s3cret", "BACKEND_IMAP_PASS": "s3cret", "OAUTH2_CLIENT_SECRET": "other"}
    write(rendered(Draft(given), env))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mail-proxy.env", "mail-proxy.password", "mail-proxy.client-secret"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert "s3cret" not in env.read_text()


def test_a_path_that_can_not_be_named_is_no_setting_of_another_name(tmp_path: Path) -> None:
    """An import may bring one."""
    with pytest.raises(SettingsMistake, match="OAUTH2_CLIENT_KEY_FILE: '/a b/key"):
        rendered(Draft({"OAUTH2_CLIENT_KEY_FILE": "/a b/key.pem"}), tmp_path / "x.env")


def test_an_accounts_file(tmp_path: Path) -> None:
    env = tmp_path / "mail-proxy.env"
    accounts = {"a": {"BACKEND_SMTP_USER": 'q"\\ü', "BACKEND_SMTP_PASS": "x"}, "b": {"BACKEND_SMTP_PASS": "y"}}
    write(rendered(Draft({}, accounts, [{"account": "a", "sender": "a@b.example"}, {"account": "b"}]), env))
    found = read_accounts(Path(read_env(env)["ACCOUNTS_FILE"]))
    assert found.mistakes == ()
    assert found.accounts["a"].values["BACKEND_SMTP_USER"] == 'q"\\ü'
    assert (tmp_path / "mail-proxy.b.password").read_text() == "y\n"
    assert [rule.account for rule in found.rules] == ["a", "b"]


KILLED = """
import os, signal, sys
from pathlib import Path
from legacy_email_proxy.setup.files import NewFile, write
synced = os.fsync
def kill(descriptor):
    synced(descriptor)
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = kill
write([NewFile(Path(sys.argv[1]), "new" * 100000)])
"""


def test_killed_in_the_middle_leaves_the_former_file(tmp_path: Path) -> None:
    env = tmp_path / "mail-proxy.env"
    env.write_text("LOG_LEVEL=debug\n")
    done = subprocess.run([sys.executable, "-c", KILLED, str(env)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert env.read_text() == "LOG_LEVEL=debug\n"
    write([NewFile(env, "LOG_LEVEL=info\n")])
    assert [path.name for path in tmp_path.iterdir()] == ["mail-proxy.env"]
    assert env.read_text() == "LOG_LEVEL=info\n"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_write_that_fails_leaves_nothing(
    failure: type[BaseException] | OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def fail(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 2:
            raise failure

    old = tmp_path / "b"
    old.write_text("old")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises((KeyboardInterrupt, SettingsMistake)):
        write([NewFile(tmp_path / "a", "new"), NewFile(old, "new")])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "old"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write([NewFile(tmp_path / "link", "new")])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_the_group_that_could_read_it_still_can(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("old")
    file.chmod(0o644)
    write([NewFile(file, "new")])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize(("octets", "words"), [(b"\xff\xfe", "not UTF-8"), (None, "Is a directory")])
def test_what_is_no_env_file(octets: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.mkdir() if octets is None else file.write_bytes(octets)
    with pytest.raises(SettingsMistake, match=words):
        read_env(file)


def test_names_of_accounts() -> None:
    assert account_name("scan.er@x.example", []) == "scan-er"
    assert account_name("scanner@y.example", ["scanner", "scanner-2"]) == "scanner-3"
    assert account_name("ü@x.example", []) == "account"


def test_an_env_file_is_read_as_podman_reads_it(tmp_path: Path) -> None:
    env = tmp_path / "x.env"
    env.write_text("\ufeff# c\n\nLOG_LEVEL=debug\nBACKEND_SMTP_USER=a=b\nEMPTY=\nno variable\n")
    assert read_env(env) == {"LOG_LEVEL": "debug", "BACKEND_SMTP_USER": "a=b"}
