"""The commands and how mistakes end: one line each, no traceback, exit status 2."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from interop.proxy import clean_environment, command, run
from legacy_email_proxy import __version__, cli
from legacy_email_proxy.commands import plugins

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
    "how to close a leg": (
        {"BACKEND_IMAP_USER": "x", "BACKEND_IMAP_PASS": "x"},
        [
            "BACKEND_IMAP_HOST: not set; give the name of your provider's IMAP server; where no device reads mail, set "
            "MAILDROP_PLUGIN=none",
            "BACKEND_SMTP_HOST: not set; give the name of your provider's SMTP server; where no "
            "device sends mail, set RELAY_PLUGIN=none",
        ],
    ),
    "OAuth2 that nobody asked for": (
        {"BACKEND_IMAP_HOST": "h", "BACKEND_IMAP_USER": "x", "OAUTH2_GRANT": "client_credentials"}
        | {"BACKEND_SMTP_HOST": "h", "BACKEND_SMTP_USER": "x"},
        [
            "BACKEND_IMAP_PASS: not set; it is the password at the IMAP server; OAUTH2_GRANT is set, so you may mean "
            "BACKEND_IMAP_CREDENTIALS=oauth2",
            "BACKEND_SMTP_PASS: not set, though BACKEND_SMTP_USER is; OAUTH2_GRANT is "
            "set, so you may mean BACKEND_SMTP_CREDENTIALS=oauth2",
        ],
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


@pytest.mark.long
@pytest.mark.fault("D14", "D15")
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


@pytest.mark.fault("D15")
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


@pytest.mark.fault("D15")
def test_a_privileged_port_without_the_right() -> None:
    from legacy_email_proxy.listeners import _explain

    line = _explain("SMTP", "0.0.0.0", 25, PermissionError(13, os.strerror(13)))
    assert line.startswith("SMTP_BIND_PORT: no right to open 0.0.0.0 port 25: ")
    assert "--cap-add NET_BIND_SERVICE" in line


def test_a_misspelt_variable_is_warned_of() -> None:
    done = run("settings", BACKEND_IMAP_HSOT="x", **MINIMAL)
    assert done.returncode == 0
    assert done.stderr == "legacy-email-proxy: BACKEND_IMAP_HSOT: no such setting, did you mean BACKEND_IMAP_HOST?\n"


@pytest.mark.fault("C31")
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
    version = __version__
    for name, group in (("imap", "maildrop"), ("maildir", "maildrop"), ("smtps", "relay"), ("maildir", "relay"),
                        ("sender", "filter")):  # fmt: skip
        assert [name, f"legacy_email_proxy.{group}", "legacy-email-proxy", version, "ok"] in rows


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str) -> None:
    done = run(option)
    assert (done.returncode, done.stdout) == (0, f"legacy-email-proxy {__version__}\n")


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
@pytest.mark.parametrize(
    "name", ["settings", "plugins", "check", "password", "spool list", "spool --help", "--help", "--version"]
)
def test_a_reader_that_has_read_enough_is_no_fault(name: str, unbuffered: str, tmp_path: Path) -> None:
    """As with `… settings | head -1`."""
    spool = {"RELAY_PLUGIN": "spool", "STATE_DIR": str(tmp_path)}
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command(*name.split()),
            env=clean_environment(**MINIMAL, **spool, BACKEND_SMTP_PORT="1", PYTHONUNBUFFERED=unbuffered),
            input=b"secret\n",
            stdout=written,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(written)
    assert done.stderr == b""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", ["settings", "--help", "--version"])
def test_output_that_can_not_be_written_is_one_line(name: str, unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(name),
            env=clean_environment(**MINIMAL, PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "legacy-email-proxy: the output can not be written: No space left on device\n",
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("name", ["settings", "plugins", "--help", "spool list", "check"])
def test_closed_streams_are_no_fault(name: str, closed: str, tmp_path: Path) -> None:
    variables = {"RELAY_PLUGIN": "spool", "STATE_DIR": str(tmp_path), "BACKEND_SMTP_PORT": "1"}
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *command(*name.split())],
        env=clean_environment(**MINIMAL, **variables),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    assert done.returncode == (name == "check")


INTERRUPTED = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            os.kill(os.getpid(), signal.SIGINT)

start, interrupted, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Interrupting())
if start == "module":
    runpy.run_module("legacy_email_proxy", run_name="__main__")
from legacy_email_proxy.cli import main
sys.exit(main())
"""
"""A command that gets SIGINT, as of a Ctrl-C, when it imports a certain module."""


def interrupted(module: str, *arguments: str, start: str = "script", **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, start, module, *arguments],
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("start", ["script", "module"])
@pytest.mark.parametrize(
    "module",
    [
        *("argparse", "legacy_email_proxy.contracts", "legacy_email_proxy.commands", "anyio", "marshmallow"),
        *("aiosmtpd.smtp", "legacy_email_proxy.commands.settings"),
    ],
)
def test_an_interrupt_while_it_is_loaded(module: str, start: str) -> None:
    assert interrupted(module, "settings", start=start) == (130, "", "")


@pytest.mark.parametrize("arguments", [[], *([module.__name__.rpartition(".")[2]] for module in cli.commands())])
def test_an_interrupt_at_the_start_of_each_command(arguments: list[str]) -> None:
    module = f"legacy_email_proxy.commands.{(arguments or ['serve'])[0]}"
    assert interrupted(module, *arguments) == (130, "", "")


def test_an_interrupt_while_the_demo_loads_its_servers() -> None:
    assert interrupted("pymap", "demo", "--pop3-port", "0", "--smtp-port", "0") == (130, "", "")


@pytest.mark.parametrize("name", ["plugins", "settings"])
def test_an_interrupt_while_a_command_works(name: str) -> None:
    """The plugin's own module: by then it works, and has its handlers of signals."""
    module = "legacy_email_proxy_plugins.imap"
    status, _, errors = interrupted(module, name)
    assert (status, errors) == (130, "")


def test_an_interrupt_that_the_shell_ignores_for_us() -> None:
    """As behind ``nohup`` and the like."""
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            'trap "" INT; exec "$@"',
            "sh",
            sys.executable,
            "-c",
            INTERRUPTED,
            "script",
            "anyio",
            "plugins",
        ],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NAME ")


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_command_finds_the_handler_that_there_was(monkeypatch: pytest.MonkeyPatch, handler: signal.Handlers) -> None:
    found: list[object] = []

    def run(_: object) -> int:
        found.append(signal.getsignal(signal.SIGINT))
        raise KeyboardInterrupt

    monkeypatch.setattr(plugins, "run", run)
    former = signal.signal(signal.SIGINT, handler)
    try:
        assert cli.main(["plugins"]) == 130
        found.append(signal.getsignal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, former)
    assert found == [handler, handler]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines of a help."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 24 lines of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("narrow")
def test_the_help_is_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys)
    assert len(lines) < 24, "the prompt behind it takes one more"
    for module in cli.commands():
        name, sentence = module.__name__.rpartition(".")[2], (module.__doc__ or "").splitlines()[0]
        assert [line for line in lines if line.split() == [name, *sentence.split()]] != [], sentence


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("arguments", [[], *([module.__name__.rpartition(".")[2]] for module in cli.commands())])
def test_the_help_fits_and_its_examples_are_taken(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, *arguments)
    assert [line for line in lines if len(line) > 80] == []
    heads = [place for place, line in enumerate(lines) if line.startswith("example")]
    assert bool(heads) is (arguments not in (["plugins"], ["password"]))
    for line in (line for head in heads for line in lines[head + 1 :]):
        words = shlex.split(line.partition("|")[0])
        program = words.index("legacy-email-proxy")
        assert words[program + 1 :][: len(arguments)] == arguments
        assert callable(cli.parser().parse_args(words[program + 1 :]).run)
