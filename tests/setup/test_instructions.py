"""What set-up tells at its end, and what it asks before: ports that can not be opened."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

import pytest

from legacy_email_proxy import cli
from legacy_email_proxy.commands import setup
from legacy_email_proxy.setup import instructions as told
from legacy_email_proxy.setup.asking import Asker
from legacy_email_proxy.setup.draft import Draft
from legacy_email_proxy.setup.files import rendered
from legacy_email_proxy.setup.instructions import instructions, obstacle

SENDS = {"MAILDROP_PLUGIN": "none", "BACKEND_SMTP_USER": "a@b.example", "BACKEND_SMTP_PASS": "x"}


def text(draft: Draft, folder: Path) -> str:
    return instructions(draft, rendered(draft, folder / "mail-proxy.env"))


def test_a_device_that_sends_and_reads(tmp_path: Path) -> None:
    shown = text(Draft(SENDS | {"MAILDROP_PLUGIN": "imap", "SMTP_AUTH": "any", "POP3_BIND_PORT": "1110"}), tmp_path)
    assert "port 25, no encryption, any user, any password" in shown
    assert "port 1110, no encryption, any user, any password" in shown
    assert "  its sender address               a@b.example" in shown
    assert ":1110:1110" in shown


def test_a_listener_on_one_address(tmp_path: Path) -> None:
    shown = text(Draft(SENDS | {"SMTP_BIND_ADDR": "127.0.0.1", "SMTP_BIND_PORT": "1587"}), tmp_path)
    assert "(SMTP)   127.0.0.1, port 1587, " in shown
    assert " -p 127.0.0.1:1587:1587 -e SMTP_BIND_ADDR=0.0.0.0 " in shown


def test_what_podman_is_told_has_each_file(tmp_path: Path) -> None:
    lines = text(Draft(SENDS), tmp_path).splitlines()
    (secret,) = [shlex.split(line) for line in lines if "podman secret create" in line]
    file = str(tmp_path / "mail-proxy.password")
    assert secret[-2:] == ["mail-proxy.password", file]
    assert f"--secret mail-proxy.password,target={file}" in "\n".join(lines)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    draft = Draft(
        SENDS | {"BACKEND_SMTP_PASS": ""} | {"BACKEND_SMTP_PASS_FILE": "/a/x", "BACKEND_SMTP_CA_FILE": "/b/x"}
    )
    shown = text(draft, tmp_path)
    assert "--secret x,target=/a/x " in shown
    assert "--secret x-2,target=/b/x " in shown


def test_the_program_takes_what_it_tells(tmp_path: Path) -> None:
    lines = [line.split() for line in text(Draft(SENDS), tmp_path).splitlines() if "legacy-email-proxy" in line]
    calls = [words[1:] for words in lines if words[0].endswith("legacy-email-proxy")]
    assert [words[:1] for words in calls] == [["check"], [], ["unit"]]
    assert cli.parser().parse_args(calls[0]).run


def test_a_consent_and_what_was_left_out(tmp_path: Path) -> None:
    shown = text(Draft(SENDS | {"OAUTH2_GRANT": "device_code"}, left_out=["a table"]), tmp_path)
    assert "The consent is kept in " in shown
    assert shown.endswith("Not taken over:\n  * a table")


def test_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "in_image", lambda: True)
    shown = text(Draft(SENDS), tmp_path)
    assert "  podman secret create mail-proxy.password ./mail-proxy.password\n" in shown
    assert "--env-file ./mail-proxy.env" in shown
    assert "set -a" not in shown
    assert "ADDRESS-OF-THIS-MACHINE" in shown


def test_a_port_that_another_program_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert obstacle(port).startswith(f"another program has port {port} on this machine")
    assert obstacle(0) == ""


@pytest.mark.parametrize(("answer", "set_to"), [("", ""), ("2525", "2525")])
def test_another_port_is_asked_for(answer: str, set_to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return answer

    monkeypatch.setattr(setup, "obstacle", lambda port: f"you may not open port {port}")
    monkeypatch.setattr("builtins.input", ask)
    draft = Draft(dict(SENDS))
    setup._ports(Asker(interactive=True), draft)
    assert asked == ["Port for the device [25]: "]
    assert draft.get("SMTP_BIND_PORT") == set_to
    setup._ports(Asker(interactive=False), Draft(dict(SENDS)))
    assert len(asked) == 1
