"""The Containerfile against the code: what it promises about ports, folders, commands and the project is what they are.

This needs no podman and takes no time, so it always runs; `test_container.py` builds the image.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from container.containerfile import Containerfile
from legacy_email_proxy import __version__, cli
from legacy_email_proxy.settings import TABLE

ROOT = Path(__file__).parents[2]
SETTINGS = {setting.name: setting for setting in TABLE}


@pytest.fixture(scope="module")
def containerfile() -> Containerfile:
    return Containerfile.read(ROOT / "Containerfile")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return document


def test_every_stage_has_the_same_base_so_that_the_environment_finds_its_python(containerfile: Containerfile) -> None:
    *stages, last = (each.words[0] for each in containerfile.all("FROM"))
    assert set(stages) == {"docker.io/library/python:3.13-slim"}
    # One layer, without what was removed from the base.
    assert last == "scratch"


def test_the_ports_are_the_default_ones(containerfile: Containerfile) -> None:
    (expose,) = containerfile.final("EXPOSE")
    assert set(expose.words) == {SETTINGS["SMTP_BIND_PORT"].default, SETTINGS["POP3_BIND_PORT"].default}


def test_the_state_folder_is_the_documented_one_a_volume_and_the_home(containerfile: Containerfile) -> None:
    folder = containerfile.pairs("ENV")["STATE_DIR"]
    (volume,) = containerfile.final("VOLUME")
    assert volume.words == [folder]
    assert f"`{folder}` in the container" in SETTINGS["STATE_DIR"].sentence
    (making_it,) = [each.text for each in containerfile.all("RUN") if "useradd" in each.text]
    assert f"--home-dir {folder} " in making_it
    assert f"--owner=10110 --group=10110 {folder}" in making_it


@pytest.mark.fault("D19")
def test_the_user_is_a_number_that_is_not_root(containerfile: Containerfile) -> None:
    (user,) = containerfile.all("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.text)
    uid, gid = user.text.split(":")
    (making_it,) = [each.text for each in containerfile.all("RUN") if "useradd" in each.text]
    assert f"groupadd --gid {gid} " in making_it
    assert f"useradd --uid {uid} --gid {gid} " in making_it


@pytest.mark.parametrize("keyword", ["HEALTHCHECK", "ENTRYPOINT"])
def test_what_it_calls_is_a_command_of_ours(
    containerfile: Containerfile, project: dict[str, Any], keyword: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (instruction,) = containerfile.final(keyword)
    program, *arguments = instruction.exec_form
    assert program in project["scripts"]
    if keyword == "ENTRYPOINT":
        (command,) = containerfile.final("CMD")
        arguments += command.words
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--help"])
    assert ended.value.code == 0
    assert f"usage: {program} {' '.join(arguments)} " in capsys.readouterr().out


def test_the_labels_say_what_the_project_says_of_itself(containerfile: Containerfile, project: dict[str, Any]) -> None:
    labels = containerfile.pairs("LABEL")
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.title"] == project["name"]
    assert labels[f"{prefix}.description"] == project["description"]
    assert labels[f"{prefix}.version"] == "$VERSION"
    assert containerfile.pairs("ARG")["VERSION"] == __version__
    assert labels.get(f"{prefix}.licenses") == project.get("license")


def test_the_image_gets_nothing_of_the_source_tree(containerfile: Containerfile) -> None:
    copied = [each.words for each in containerfile.all("COPY") if each.stage > 1]
    assert copied == [["--from=build", "/opt/venv", "/opt/venv"], ["--from=root", "/", "/"]]
    assert containerfile.all("ADD") == []


def test_the_builder_sends_what_is_copied_and_nothing_else(containerfile: Containerfile) -> None:
    copied = {source for each in containerfile.all("COPY") if each.stage == 1 for source in each.words[:-1]}
    first, *rest = (ROOT / ".containerignore").read_text(encoding="utf-8").split()
    assert first == "*"
    assert {line.removeprefix("!") for line in rest if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_where_packages_come_from_is_left_to_the_builder() -> None:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    assert not re.search(r"https?://|index-url|find-links|trusted-host|proxy=", text, re.IGNORECASE)
