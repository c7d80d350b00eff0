"""The files that start the service: what stands in them, and what systemd says of its own.

What compose, podman and Kubernetes say of theirs is in ``container/test_units.py``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from interop.proxy import run
from legacy_email_proxy.settings import read
from legacy_email_proxy.units import KINDS
from realservers.processes import require

pytestmark = pytest.mark.long

PASSWORD, OTHER = "not-in-any-file", "nor-this-one"
UGLY = "sc\"an%n \\n'er$HOME ${x} #1;ä@firm.example"
"""A value in which each format finds something of its own, if it is not quoted."""
SENDS = {
    "MAILDROP_PLUGIN": "none", "BACKEND_SMTP_HOST": "smtp.firm.example", "BACKEND_SMTP_USER": UGLY,
    "BACKEND_SMTP_PASS": PASSWORD,
}  # fmt: skip
BOTH = {
    "BACKEND_IMAP_HOST": "imap.firm.example", "BACKEND_IMAP_USER": "ann", "BACKEND_IMAP_PASS_FILE": "/etc/ann password",
    "BACKEND_SMTP_HOST": "smtp.firm.example", "BACKEND_SMTP_USE_STARTTLS": "true", "BACKEND_SMTP_PORT": "587",
    "RELAY_PLUGIN": "spool", "SPOOL_URL": f"postgresql://proxy:{OTHER}@db.firm.example:5433/spool",
    "SMTP_BIND_ADDR": "192.168.7.9,::1", "POP3_BIND_PORT": "1110", "TLS_CERT_FILE": "/etc/ssl/100%.pem",
    "ADMIN_BIND_PORT": "9425",
}  # fmt: skip


def unit(kind: str, *options: str, **variables: str) -> str:
    done = run("unit", kind, *options, **variables)
    assert done.returncode == 0, done.stderr
    assert not re.search("Traceback|Warning", done.stderr)
    return done.stdout


def words(text: str, key: str) -> list[str]:
    """The values of that key in a unit file, as systemd reads them."""
    found = re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)
    return [re.sub(r"\\(.)", r"\1", each.strip('"')).replace("%%", "%").replace("$$", "$") for each in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [SENDS, BOTH], ids=["sends", "both"])
def test_no_secret_is_printed_and_every_setting_is(kind: str, settings: dict[str, str]) -> None:
    text = unit(kind, **settings)
    assert PASSWORD not in text
    assert OTHER not in text
    assert "$" not in text.replace("$MAINPID", "").replace("$$", "").replace(UGLY, "").replace("$HOME ${x}", "")
    gone = {"SMTP_BIND_ADDR"} if kind != "systemd" else set()
    for name in settings:
        asked_for = name.removesuffix("_FILE") if name != "TLS_CERT_FILE" else name
        stands = {"BACKEND_SMTP_USE_STARTTLS": "BACKEND_SMTP_USE_TLS"}.get(asked_for, asked_for)
        assert (stands in text) == (name not in gone), name


def test_quoting_is_undone_by_whoever_reads_it() -> None:
    for kind, special in (("systemd", "%"), ("quadlet", "%$")):
        text = unit(kind, **SENDS)
        assert f"BACKEND_SMTP_USER={UGLY}" in words(text, "Environment")
        (line,) = re.findall("^Environment=.*BACKEND_SMTP_USER.*$", text, re.MULTILINE)
        assert not set(special) & set(line.replace("%%", "").replace("$$", ""))
    for kind, special in (("compose", "$"), ("kubernetes", "")):
        (quoted,) = re.findall(r'^ *BACKEND_SMTP_USER: (".*")$', unit(kind, **SENDS), re.MULTILINE)
        assert json.loads(quoted).replace("$$", "$") == UGLY
        assert not set(special) & set(quoted.replace("$$", ""))


def test_ports_are_those_of_the_settings() -> None:
    systemd = unit("systemd", **BOTH)
    assert words(systemd, "ListenStream") == ["0.0.0.0:1110", "192.168.7.9:25", "[::1]:25", "127.0.0.1:9425"]
    assert words(systemd, "FileDescriptorName") == ["pop3", "smtp", "admin"]
    published = ["192.168.7.9:1110:1110", "192.168.7.9:25:25", "[::1]:25:25"]
    assert words(unit("quadlet", **BOTH), "PublishPort") == published
    assert words(unit("quadlet", "--address", "10.1.2.3", **SENDS), "PublishPort") == ["10.1.2.3:25:25"]
    kubernetes = unit("kubernetes", **BOTH)
    assert re.findall(r"containerPort: (\d+)", kubernetes) == ["1110", "25"]
    assert re.findall(r"port: (\d+), protocol: TCP", kubernetes) == ["1110", "25", "53", "587", "993", "5433"]


def test_the_settings_may_be_in_a_file_which_the_unit_names(tmp_path: Path) -> None:
    env_file = tmp_path / "mail-proxy.env"
    # The password's file is inside of the container, and this is not read as a shell would.
    env_file.write_text(
        "# mail-proxy.env\nMAILDROP_PLUGIN=none\nBACKEND_SMTP_HOST=smtp.firm.example\n"
        "BACKEND_SMTP_PASS_FILE=/not/there\nSMTP_BIND_ADDR=192.168.7.9\nSTATE_DIR=/srv/state\n"
    )
    ignored = {"POP3_BIND_PORT": "wrong"}
    systemd = unit("systemd", "--env-file", str(env_file), **ignored)
    assert words(systemd, "EnvironmentFile") == [str(env_file)]
    assert words(systemd, "Environment") == []
    assert words(systemd, "LoadCredential") == ["BACKEND_SMTP_PASS:/not/there"]
    assert words(systemd, "ReadWritePaths") == ["/srv/state"]
    quadlet = unit("quadlet", "--env-file", str(env_file), **ignored)
    assert words(quadlet, "EnvironmentFile") == [str(env_file)]
    # The published address is the machine's, and inside there is no such one.
    assert words(quadlet, "Environment") == ["SMTP_BIND_ADDR=0.0.0.0"]
    assert words(quadlet, "PublishPort") == ["192.168.7.9:25:25"]
    assert f'env_file: "{env_file}"' in unit("compose", "--env-file", str(env_file))
    assert "BACKEND_SMTP_HOST: " in unit("kubernetes", "--env-file", str(env_file))


@pytest.mark.parametrize(
    ("kind", "changed", "line"),
    [
        ("systemd", {"SMTP_BIND_PORT": "0"}, "SMTP_BIND_PORT: 0 takes any free port"),
        ("systemd", {"SMTP_BIND_ADDR": "localhost"}, "SMTP_BIND_ADDR: systemd opens ports on addresses only"),
        ("compose", {"SMTP_BIND_ADDR": "localhost"}, "SMTP_BIND_ADDR: ports are published on addresses only"),
        ("quadlet", {"RELAY_PLUGIN": "none"}, "MAILDROP_PLUGIN: it and RELAY_PLUGIN are both `none`"),
        ("systemd", {"SMTP_BIND_PORT": "x"}, "SMTP_BIND_PORT: "),
        ("kubernetes", {"RELAY_PLUGIN": "spool"}, "SPOOL_URL: two replicas can not share a file"),
        ("kubernetes", {"RELAY_PLUGIN": "maildir", "RELAY_MAILDIR_PATH": "/m"}, "RELAY_PLUGIN: a Maildir belongs to"),
    ],
)
def test_settings_that_can_not_work_that_way(kind: str, changed: dict[str, str], line: str) -> None:
    done = run("unit", kind, **(SENDS | changed))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"legacy-email-proxy: {line}")
    assert done.stderr.count("\n") == 1


def test_only_its_own_files_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "units"
    for port in ("25", "2525"):
        done = run("unit", "systemd", "--output", str(folder), **(SENDS | {"SMTP_BIND_PORT": port}))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split() == [f"{folder}/legacy-email-proxy{each}" for each in (".service", "-smtp.socket")]
        assert f"ListenStream=0.0.0.0:{port}\n" in (folder / "legacy-email-proxy-smtp.socket").read_text()
    (folder / "legacy-email-proxy.service").write_text("[Service]\n")
    done = run("unit", "systemd", "--output", str(folder), **SENDS)
    assert done.returncode == 2
    assert "is there already, and this command did not make it" in done.stderr
    assert (folder / "legacy-email-proxy.service").read_text() == "[Service]\n"


@pytest.mark.parametrize("settings", [SENDS, BOTH], ids=["sends", "both"])
def test_systemd_takes_its_units_and_finds_the_service_well_shut_in(settings: dict[str, str], tmp_path: Path) -> None:
    analyze = require("systemd-analyze", "reads the units as systemd does")
    done = run("unit", "systemd", "--output", str(tmp_path), **settings)
    units = done.stdout.split()
    verified = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, timeout=50, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    # 20 is an exposure of 2.0; a service without any of it has 9.6.
    judged = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", units[0]],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]


def test_what_systemd_and_containers_hand_over_is_found(tmp_path: Path) -> None:
    """Credentials are named after variables; for a variable that names a file it is the credential itself."""
    files = {"BACKEND_SMTP_PASS": "secret\n", "TLS_KEY_FILE": "key", "mail-password": "x", "HOME": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    given = {"CREDENTIALS_DIRECTORY": str(tmp_path), "STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}
    settings = read(given | {"BACKEND_SMTP_PASS_FILE": "/readable/for/root/alone", "TLS_KEY_FILE": "/neither"})
    assert settings.mistakes == ()
    assert settings["BACKEND_SMTP_PASS"].reveal() == "secret"
    assert settings.origins["BACKEND_SMTP_PASS"] == f"file {tmp_path}/BACKEND_SMTP_PASS"
    assert settings["TLS_KEY_FILE"] == tmp_path / "TLS_KEY_FILE"
    assert settings["STATE_DIR"] == Path("/var/lib/one")
    assert read(given | {"STATE_DIR": "/srv"})["STATE_DIR"] == Path("/srv")
    (mistake,) = read(given | {"BACKEND_SMTP_PASS": "other"}).mistakes
    assert mistake.startswith("BACKEND_SMTP_PASS: set twice")
    assert read({"CREDENTIALS_DIRECTORY": f"{tmp_path}/nowhere"}).mistakes == ()


def test_a_folder_of_secrets_that_can_not_be_read_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, who runs the tests, may read everything."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    (mistake,) = read({"CREDENTIALS_DIRECTORY": str(tmp_path)}).mistakes
    assert mistake.startswith(f"CREDENTIALS_DIRECTORY: can not read '{tmp_path}'")
