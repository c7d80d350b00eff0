"""Builds the image and runs containers of it, with what a special machine's podman needs taken from the environment.

`CONTAINER_TESTS=1` asks for these tests. `PODMAN` is the command, such as `podman --runtime runc`; `PODMAN_BUILD_FLAGS`
and `PODMAN_RUN_FLAGS` are added to each build and each run.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from realservers.processes import require, unavailable, wait_until

BASE_IMAGE = "docker.io/library/python:3.13-slim"
BUILD_SECONDS = 600.0
COMMAND_SECONDS = 60.0
START_SECONDS = 30.0


def require_podman() -> None:
    """Skip the test unless container tests are asked for, and there is podman and the base image."""
    if os.environ.get("CONTAINER_TESTS") != "1":
        pytest.skip(
            "it builds the image, which takes a minute and rights that not everybody has: set CONTAINER_TESTS=1 for it"
        )
    require(_command()[0], "builds the image and runs it")
    if podman("image", "exists", BASE_IMAGE).returncode and podman("pull", BASE_IMAGE).returncode:
        unavailable(f"{BASE_IMAGE} is neither here nor in a registry that podman can reach")


def _command() -> list[str]:
    return shlex.split(os.environ.get("PODMAN") or "podman")


def _flags(action: str) -> list[str]:
    return shlex.split(os.environ.get(f"PODMAN_{action.upper()}_FLAGS", ""))


def podman(
    *arguments: str | Path, seconds: float = COMMAND_SECONDS, given: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The ended command, whatever its status. ``given`` is its standard input."""
    return subprocess.run(
        [*_command(), *map(str, arguments)],
        input=given, capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
    )  # fmt: skip


def answer(*arguments: str | Path, seconds: float = COMMAND_SECONDS) -> str:
    """What the command prints; the test fails with its complaints if it does not succeed."""
    done = podman(*arguments, seconds=seconds)
    assert done.returncode == 0, f"podman {shlex.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@contextmanager
def image(folder: Path, containerfile: Path) -> Iterator[str]:
    """Build an image with `folder` as context; it is removed at the end. The value is its name."""
    name = f"localhost/legacy-email-proxy-test-{uuid4().hex}"
    # Without intermediate images, which nobody would remove.
    arguments: list[str | Path] = [
        "build",
        "--format",
        "docker",
        "--layers=false",
        *_flags("build"),
        "-t",
        name,
        "-f",
        containerfile,
        folder,
    ]
    answer(*arguments, seconds=BUILD_SECONDS)
    try:
        yield name
    finally:
        answer("rmi", "--force", name)


def inspect(kind: str, name: str) -> dict[str, Any]:
    """What podman knows of an image or a container."""
    (found,) = json.loads(answer(kind, "inspect", name))
    assert isinstance(found, dict)
    return found


@dataclass(frozen=True)
class Ended:
    """A container that ran to its end."""

    status: int
    output: str
    complaints: str

    @property
    def mistakes(self) -> list[str]:
        """The service's own lines on standard error, without podman's."""
        own = "legacy-email-proxy: "
        return [line.removeprefix(own) for line in self.complaints.splitlines() if line.startswith(own)]


def run(name: str, *flags: str, command: Sequence[str] = ()) -> Ended:
    """Run a container to its end and return what came of it."""
    done = podman("run", "--rm", *_flags("run"), *flags, name, *command)
    return Ended(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Container:
    """A container in the background."""

    name: str

    def port(self, inside: int) -> int:
        """The port of 127.0.0.1 under which one of the container's is published."""
        return int(answer("port", self.name, f"{inside}/tcp").rpartition(":")[2])

    @property
    def log(self) -> str:
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    @property
    def state(self) -> dict[str, Any]:
        state = inspect("container", self.name)["State"]
        assert isinstance(state, dict)
        return state

    def execute(self, *command: str) -> str:
        """What a command inside prints."""
        return answer("exec", self.name, *command)

    def wait_until_started(self) -> None:
        """Return once it listens; the test fails with its log if it ends instead."""

        def settled() -> bool:
            return " started " in self.log or not self.state["Running"]

        wait_until(settled, "the container serves", START_SECONDS)
        assert self.state["Running"], self.log


@contextmanager
def running(name: str, *flags: str, environment: Mapping[str, str], command: Sequence[str] = ()) -> Iterator[Container]:
    """Start a container of that image and remove it, with its volumes, at the end."""
    container = Container(f"legacy-email-proxy-test-{uuid4().hex}")
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    try:
        answer("run", "--detach", "--name", container.name, *_flags("run"), *flags, *variables, name, *command)
        yield container
    finally:
        podman("rm", "--force", "--volumes", "--time", "0", container.name)
