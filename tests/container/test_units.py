"""The files that `unit` prints for containers, read and run by the programs that they are for.

What stands in them, and systemd's own units, are in ``units/test_units.py``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest

from container.podman import START_SECONDS, podman
from interop.proxy import run
from realservers.processes import free_ports, require, wait_until
from units.test_units import BOTH, SENDS, UGLY

pytestmark = pytest.mark.timeout(900)

QUADLET = "/usr/libexec/podman/quadlet"
"""Newer than Debian 12's podman; CI fetches it and says where it is."""


def made(kind: str, folder: Path, *options: str, **variables: str) -> Path:
    done = run("unit", kind, "--output", str(folder), *options, **variables)
    assert done.returncode == 0, done.stderr
    (path,) = done.stdout.split()
    return Path(path)


@pytest.mark.parametrize("settings", [SENDS, BOTH], ids=["sends", "both"])
def test_quadlet_makes_a_unit_of_it(settings: dict[str, str], tmp_path: Path) -> None:
    quadlet = os.environ.get("QUADLET") or shutil.which(QUADLET)
    if not quadlet:
        pytest.skip("podman 4.4 or newer is not installed: its quadlet reads the file")
    made("quadlet", tmp_path / "units", **settings)
    environment = os.environ | {"QUADLET_UNIT_DIRS": str(tmp_path / "units")}
    done = subprocess.run([quadlet, "--dryrun"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Unsupported key" not in done.stdout + done.stderr
    (service,) = (line for line in done.stdout.splitlines() if line.startswith("ExecStart="))
    for option in ("--read-only", "--cap-drop all", "--sdnotify=container", "-v mail-proxy:/var/lib/legacy"):
        assert option in service
    if settings is SENDS:
        # As systemd reads a command: escapes, then specifiers and variables.
        words = shlex.split(service)
        assert f"BACKEND_SMTP_USER={UGLY}" in [word.replace("%%", "%").replace("$$", "$") for word in words]


@pytest.mark.parametrize("settings", [SENDS, BOTH], ids=["sends", "both"])
def test_kubernetes_knows_every_field_of_it(settings: dict[str, str], tmp_path: Path) -> None:
    file = made("kubernetes", tmp_path, **settings)
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(file)]
    if find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed: it has the schemas of Kubernetes")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for kind in ("configmap", "deployment", "service", "poddisruptionbudget", "networkpolicy"):
        assert f"passed for resource {kind}/mail-proxy" in said


@pytest.fixture
def small_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Podman as the other tests run it: it takes such options from a file, too."""
    words = shlex.split(os.environ.get("PODMAN", "podman"))
    runtime = words[words.index("--runtime") + 1] if "--runtime" in words else ""
    flags = shlex.split(os.environ.get("PODMAN_RUN_FLAGS", ""))
    limits = [word.replace("1024:", "20000:") for word in flags if "=" in word]
    engine = f'[engine]\nruntime = "{runtime}"\n' if runtime else ""
    (tmp_path / "containers.conf").write_text(f"[containers]\ndefault_ulimits = {limits}\n{engine}")
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))


def serving(port: int) -> dict[str, str]:
    return SENDS | {"SMTP_BIND_PORT": str(port), "BACKEND_SMTP_HOST": "127.0.0.1", "BACKEND_SMTP_USER": 'a$b "c"'}


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as connection:
        return connection.recv(4) == b"220 "
    return False


def test_compose_starts_it(built: str, small_limits: None, tmp_path: Path) -> None:
    compose = require("podman-compose", "reads the file for compose")
    (port,) = free_ports(1)
    project = f"legacy-email-proxy-test-{uuid4().hex}"
    file = made("compose", tmp_path, "--address", "127.0.0.1", "--image", built, **serving(port))
    (tmp_path / "BACKEND_SMTP_PASS").write_text("a password\n")
    (tmp_path / "BACKEND_SMTP_PASS").chmod(0o444)
    command = [compose, "--project-name", project, "--file", str(file)]
    try:
        up = subprocess.run([*command, "up", "-d"], cwd=tmp_path, capture_output=True, text=True, check=False)
        name = f"{project}_mail-proxy_1"
        wait_until(lambda: answers(port), "it serves", START_SECONDS)
        shown = podman("exec", name, "legacy-email-proxy", "settings").stdout
        assert 'a$b "c"  (environment)' in shown, up.stderr
        assert "(file /run/credentials/BACKEND_SMTP_PASS)" in shown
        assert podman("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", name).stdout.strip() == "true"
    finally:
        subprocess.run([*command, "down"], cwd=tmp_path, capture_output=True, check=False, timeout=100)
        podman("volume", "rm", "--force", f"{project}_mail-proxy")
        podman("network", "rm", "--force", f"{project}_default")


def test_a_pod_of_kubernetes_starts(built: str, small_limits: None, tmp_path: Path) -> None:
    """By podman, which knows pods, secrets and what they may do; it leaves budgets and policies alone."""
    require("catatonit", "holds podman's pods together")
    (port,) = free_ports(1)
    file = made("kubernetes", tmp_path, "--image", built, **serving(port))
    name = f"mail-proxy-{time.monotonic_ns()}"
    secret = f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\ndata:\n  BACKEND_SMTP_PASS: c2VjcmV0\n---\n"
    # A second one would want the same port of this machine.
    text = file.read_text().replace("replicas: 2", "replicas: 1").replace('mail-proxy"', f'{name}"')
    text = text.replace("name: mail-proxy", f"name: {name}").replace("secretName: mail-proxy", f"secretName: {name}")
    file.write_text(secret + text)
    try:
        started = podman("kube", "play", file, seconds=100)
        assert started.returncode == 0, started.stdout + started.stderr
        wait_until(lambda: answers(port), "it serves", START_SECONDS)
        container = f"{name}-pod-0-{name}"
        shown = podman("exec", container, "legacy-email-proxy", "settings").stdout
        assert "(file /run/credentials/BACKEND_SMTP_PASS)" in shown
        assert podman("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", container).stdout.strip() == "true"
        assert podman("exec", container, "legacy-email-proxy", "healthcheck").returncode == 0
    finally:
        podman("kube", "down", file, seconds=100)
        podman("volume", "rm", "--force", name)
