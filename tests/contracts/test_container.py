"""What can be known inside a container: a volume without a name, and a folder that belongs to somebody else."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from legacy_email_proxy.contracts import in_container, in_nameless_volume, unwritable

STATE = Path("/var/lib/legacy-email-proxy")
NAMELESS = "4f" * 32
PODMAN = "/var/lib/containers/storage/volumes/{}/_data"
DOCKER = "/var/lib/docker/volumes/{}/_data"
ROOT = "610 527 0:59 / / rw,relatime - overlay overlay rw,lowerdir=/x"


def mounted(source: str, point: str | Path) -> str:
    return f"620 610 254:1 {source} {point} rw,relatime master:1 - ext4 /dev/vda1 rw"


MOUNTS = {
    "podman": ([ROOT, mounted(PODMAN.format(NAMELESS), STATE)], True),
    "docker": ([ROOT, mounted(DOCKER.format(NAMELESS), STATE)], True),
    "a folder above": ([ROOT, mounted(DOCKER.format(NAMELESS), "/var/lib")], True),
    "with a name": ([ROOT, mounted(PODMAN.format("mail-proxy"), STATE)], False),
    "a folder of the host": ([ROOT, mounted("/srv/mail", STATE)], False),
    "a named one inside": ([ROOT, mounted(DOCKER.format(NAMELESS), "/var"), mounted("/srv/mail", STATE)], False),
    "mounted over": ([ROOT, mounted(DOCKER.format(NAMELESS), STATE), mounted("/srv/mail", STATE)], False),
    "another folder": ([ROOT, mounted(DOCKER.format(NAMELESS), f"{STATE}-2")], False),
    "nothing": ([ROOT], False),
    "what is no mount": (["", "x"], False),
}


@pytest.mark.parametrize("case", MOUNTS)
def test_a_volume_without_a_name(case: str, tmp_path: Path) -> None:
    lines, nameless = MOUNTS[case]
    (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")
    assert in_nameless_volume(STATE, tmp_path / "mountinfo") is nameless
    assert in_nameless_volume(STATE / "not" / "there", tmp_path / "mountinfo") is nameless


def test_without_proc(tmp_path: Path) -> None:
    assert not in_nameless_volume(STATE, tmp_path / "mountinfo")


def test_the_marks_of_a_container(tmp_path: Path) -> None:
    assert not in_container((str(tmp_path / "mark"),))
    (tmp_path / "mark").touch()
    assert in_container((str(tmp_path / "other"), str(tmp_path / "mark")))


def test_a_folder_that_is_there_or_can_be_made(tmp_path: Path) -> None:
    assert unwritable(tmp_path) is None
    assert unwritable(tmp_path / "a" / "b") is None


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    obstacle = unwritable(tmp_path / "file" / "state")
    assert obstacle is not None
    assert obstacle[0] == f"{tmp_path / 'file'} is no folder"


@pytest.mark.parametrize(
    ("read_only", "user", "text", "advice"),
    [
        (True, 0, "is not writable: its file system is read-only", "has to be a volume"),
        (False, 0, "is not writable", "chmod u+rwx "),
        (False, 10110, ": it belongs to user {owner}, and this process is user 10110", "chown -R 10110:"),
    ],
)
def test_a_folder_without_the_right_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, advice: str, user: int, *, read_only: bool
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY if read_only else 0))
    monkeypatch.setattr(os, "geteuid", lambda: user or owner)
    obstacle = unwritable(tmp_path)
    assert obstacle is not None
    assert obstacle[0].startswith(f"{tmp_path} is not writable")
    assert obstacle[0].endswith(text.format(owner=owner))
    assert advice in obstacle[1]


def test_a_folder_that_can_not_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    obstacle = unwritable(tmp_path / "state")
    assert obstacle is not None
    assert obstacle[0] == f"{tmp_path} is not writable"
    assert f"make {tmp_path / 'state'}" in obstacle[1]
