"""The commands and how mistakes end: one line each, no traceback, exit status 2."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

import legacy_email_proxy
from interop.proxy import clean_environment, command, run

MINIMAL = {
    "MAILDROP_PLUGIN": "none",
    "BACKEND_SMTP_HOST": "localhost",
    "SMTP_BIND_ADDR": "127.0.0.1",
    "SMTP_BIND_PORT": "0",
}

START_MISTAKES = {
    "nothing set": ({}, ["BACKEND_IMAP_HOST: ", "BACKEND_IMAP_USER: ", "BACKEND_IMAP_PASS: ", "BACKEND_SMTP_HOST: "]),
    "misspelt": (
        MINIMAL | {"BACKEND_SMTP_HOST": "", "BACKEND_SMTP_HSOT": "localhost"},
        ["BACKEND_SMTP_HOST: not set", "BACKEND_SMTP_HSOT: no such setting, did you mean BACKEND_SMTP_HOST?"],
    ),
    "both closed": ({"MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "none"}, ["MAILDROP_PLUGIN: both legs are closed"]),
    "no such plugin": (
        {"MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "smtp"},
        ["RELAY_PLUGIN: there is no relay plugin 'smtp', did you mean 'smtps' (installed: "],
    ),
    "no such CA file": (
        MINIMAL | {"BACKEND_SMTP_CA_FILE": "/not/there.pem"},
        ["BACKEND_SMTP_CA_FILE: can not read '/not/there.pem': No such file"],
    ),
    "no CA in the CA file": (
        MINIMAL | {"BACKEND_SMTP_CA_FILE": __file__},
        [f"BACKEND_SMTP_CA_FILE: can not read '{__file__}': it holds no PEM certificate"],
    ),
    "no such filter": (
        MINIMAL | {"SMTP_FILTERS": "sendr, other"},
        ["SMTP_FILTERS: there is no filter plugin 'sendr', did you mean 'sender' (", "SMTP_FILTERS: there is no "],
    ),
    "a filter without its setting": (MINIMAL | {"SMTP_FILTERS": "sender"}, ["SMTP_SENDER: not set; "]),
    "a sender that is none": (MINIMAL | {"SMTP_SENDER": "scanner"}, ["SMTP_SENDER: 'scanner' is no address; "]),
    "how much is unknown": (MINIMAL | {"SMTP_SENDER_REWRITE": "all"}, ["SMTP_SENDER_REWRITE: must be one of: both, "]),
    "hosts that are none": (
        {"BACKEND_IMAP_HOST": "imap.example:993", "BACKEND_IMAP_USER": "x", "BACKEND_IMAP_PASS": "x"}
        | {"BACKEND_SMTP_HOST": "smtps://smtp.example"},
        [f"BACKEND_{leg}_HOST: that is no name of a server; write it alone, like " for leg in ("IMAP", "SMTP")],
    ),
    "user without password": (MINIMAL | {"BACKEND_SMTP_USER": "x"}, ["BACKEND_SMTP_PASS: "]),
    "not an address of this machine": (
        MINIMAL | {"SMTP_BIND_ADDR": "192.0.2.99,here.invalid,a..b"},
        [f"SMTP_BIND_ADDR: '{address}' is no address of this" for address in ("192.0.2.99", "here.invalid", "a..b")],
    ),
    "all at once": (
        {"POP3_BIND_PORT": "x", "LOG_LEVEL": "loud", "RELAY_PLUGIN": "nothing", "BACKEND_IMAP_HOST": "h"},
        ["POP3_BIND_PORT: ", "LOG_LEVEL: ", "RELAY_PLUGIN: ", "BACKEND_IMAP_USER: ", "BACKEND_IMAP_PASS: "],
    ),
}


@pytest.mark.parametrize("case", START_MISTAKES)
def test_mistakes_stop_the_start(case: str) -> None:
    variables, lines = START_MISTAKES[case]
    done = run("serve", **variables)
    assert done.returncode == 2
    assert done.stdout == ""
    printed = done.stderr.splitlines()
    assert len(printed) == len(lines), done.stderr
    for printed_line, line in zip(printed, lines, strict=True):
        assert printed_line.startswith(f"legacy-email-proxy: {line}"), done.stderr


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(**MINIMAL | {"SMTP_BIND_PORT": str(port)})
    assert done.returncode == 2
    assert done.stderr.startswith(f"legacy-email-proxy: SMTP_BIND_PORT: 127.0.0.1 port {port} is in use by another")
    assert len(done.stderr.splitlines()) == 1


def test_the_same_port_for_both_legs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    done = run(**MINIMAL | {"SMTP_BIND_PORT": port, "POP3_BIND_PORT": port, "POP3_BIND_ADDR": "127.0.0.1",
                            "MAILDROP_PLUGIN": "maildir", "MAILDROP_MAILDIR_PATH": str(tmp_path)})  # fmt: skip
    assert done.returncode == 2
    assert "is in use by another program" in done.stderr


def test_a_privileged_port_without_the_right() -> None:
    from legacy_email_proxy.listeners import _explain

    line = _explain("SMTP", "0.0.0.0", 25, PermissionError(13, os.strerror(13)))
    assert line.startswith("SMTP_BIND_PORT: no right to open 0.0.0.0 port 25: ")
    assert "--cap-add NET_BIND_SERVICE" in line


def test_a_misspelt_variable_is_warned_of() -> None:
    done = run("settings", BACKEND_IMAP_HSOT="x", **MINIMAL)
    assert done.returncode == 0
    assert done.stderr == "legacy-email-proxy: BACKEND_IMAP_HSOT: no such setting, did you mean BACKEND_IMAP_HOST?\n"


def test_settings_shows_values_and_origins_but_no_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    done = run("settings", **MINIMAL, BACKEND_SMTP_PASS="hunter3", BACKEND_IMAP_PASS_FILE=str(tmp_path / "secret"),
               BACKEND_SMTP_USE_TLS="yes")  # fmt: skip
    assert done.returncode == 0
    assert "hunter" not in done.stdout
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert rows["BACKEND_SMTP_PASS"] == "***  (environment)"
    assert rows["BACKEND_IMAP_PASS"] == f"***  (file {tmp_path}/secret)"
    assert rows["BACKEND_SMTP_USE_SSL"] == "false  (because of BACKEND_SMTP_USE_TLS)"
    assert rows["POP3_BIND_PORT"] == "110  (default)"
    assert rows["BACKEND_IMAP_HOST"] == "-  (default)"


def test_settings_with_mistakes_shows_both() -> None:
    done = run("settings", POP3_BIND_PORT="x")
    assert done.returncode == 2
    assert "POP3_BIND_PORT" in done.stdout
    assert done.stderr.startswith("legacy-email-proxy: POP3_BIND_PORT: not a valid integer")


def test_plugins_lists_the_built_in_ones() -> None:
    done = run("plugins")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    version = legacy_email_proxy.__version__
    for name, group in (("imap", "maildrop"), ("maildir", "maildrop"), ("smtps", "relay"), ("maildir", "relay"),
                        ("sender", "filter")):  # fmt: skip
        assert [name, f"legacy_email_proxy.{group}", "legacy-email-proxy", version, "ok"] in rows


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"legacy-email-proxy {legacy_email_proxy.__version__}\n")


def test_healthcheck_of_nobody() -> None:
    done = run("healthcheck", **MINIMAL | {"SMTP_BIND_PORT": "1"})
    assert done.returncode == 1
    assert done.stderr.startswith("legacy-email-proxy: SMTP at 127.0.0.1 port 1 does not answer: Connection refused")


@pytest.mark.parametrize(
    "about", [("--sender", "a@b.example"), ("--recipient", "a@b.example"), ("--login", "ann"), ("--port", "25")]
)
def test_check_for_a_client_that_is_not_named(about: tuple[str, str]) -> None:
    done = run("check", *about, **MINIMAL)
    assert done.returncode == 2
    assert "--client: not given" in done.stderr


def test_check_with_mistakes() -> None:
    done = run("check")
    assert done.returncode == 2
    assert "BACKEND_IMAP_HOST: " in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", ["settings", "plugins"])
def test_a_reader_that_has_read_enough_is_no_fault(name: str, unbuffered: str) -> None:
    """As with `… settings | head -1`."""
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command(name),
            env=clean_environment(**MINIMAL, PYTHONUNBUFFERED=unbuffered),
            stdout=written,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(written)
    assert done.stderr == b""
