"""The image, built and run: whose it is, what it may write, that it serves, stops and can be extended.

Set CONTAINER_TESTS=1 for these tests; `podman.py` says which further variables there are.
"""

from __future__ import annotations

import poplib
import smtplib
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from container.podman import START_SECONDS, Container, image, inspect, podman, run, running
from legacy_email_proxy import __version__
from legacy_email_proxy.settings import TABLE
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import ask, free_ports, wait_until

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
STATE_DIR = "/var/lib/legacy-email-proxy"
USER = "10110"
DRAIN_SECONDS = float(next(setting.default or 0 for setting in TABLE if setting.name == "DRAIN_SECONDS"))

READ_ONLY = ("--read-only", "--tmpfs=/tmp")
HARDENED = (*READ_ONLY, "--cap-drop=all", "--cap-add=NET_BIND_SERVICE")
PUBLISHED = ("--publish=127.0.0.1::110", "--publish=127.0.0.1::25")
# Both legs on one folder: what SMTP takes, POP3 gives, and no other machine is needed.
MAILDIR = {
    "MAILDROP_PLUGIN": "maildir",
    "MAILDROP_MAILDIR_PATH": f"{STATE_DIR}/mail",
    "RELAY_PLUGIN": "maildir",
    "RELAY_MAILDIR_PATH": f"{STATE_DIR}/mail",
}
MESSAGE = b"From: scanner@example.test\r\nTo: office@example.test\r\nSubject: a scan\r\n\r\n.one page\r\n"
# Prints the modules of the image's environment without bytecode that is believed whatever the time of the source is.
NOT_COMPILED = """
import importlib.util, pathlib, sysconfig
for source in pathlib.Path(sysconfig.get_path("purelib")).rglob("*.py"):
    bytecode = pathlib.Path(importlib.util.cache_from_source(source))
    if not bytecode.exists() or int.from_bytes(bytecode.read_bytes()[4:8], "little") != 1:
        print(source)
"""


@pytest.fixture
def serving(built: str) -> Iterator[Container]:
    """A container that serves, with its ports published and no more rights than README gives it."""
    with running(built, *HARDENED, *PUBLISHED, environment=MAILDIR) as container:
        container.wait_until_started()
        yield container


def send(port: int, sender: str, recipient: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="scanner", timeout=30) as client:
        client.sendmail(sender, [recipient], MESSAGE)


def fetch(port: int) -> list[bytes]:
    """Every message, read and deleted."""
    with closing(poplib.POP3("127.0.0.1", port, timeout=30)) as client:
        client.user("anybody")
        client.pass_("anything")
        count, _ = client.stat()
        found = []
        for number in range(1, count + 1):
            found.append(b"".join(line + b"\r\n" for line in client.retr(number)[1]))
            client.dele(number)
        client.quit()
    return found


def test_it_says_what_it_is(built: str) -> None:
    found = inspect("image", built)
    configuration = found["Config"]
    assert configuration["User"] == f"{USER}:{USER}"
    assert set(configuration["ExposedPorts"]) == {"25/tcp", "110/tcp"}
    assert set(configuration["Volumes"]) == {STATE_DIR}
    assert configuration["Entrypoint"] == ["legacy-email-proxy"]
    assert configuration["Cmd"] == ["serve"]
    assert configuration["StopSignal"] in ("SIGTERM", "15")
    assert configuration["Labels"]["org.opencontainers.image.version"] == __version__
    # Podman keeps it in its own format only, next to the configuration.
    check = found.get("Healthcheck") or configuration.get("Healthcheck")
    assert check["Test"] == ["CMD", "legacy-email-proxy", "healthcheck"]


@pytest.mark.parametrize("command", [(), ("serve",)])
def test_without_settings_it_says_which_are_missing(built: str, command: tuple[str, ...]) -> None:
    done = run(built, *HARDENED, command=command)
    assert done.status == 2
    named = {line.partition(":")[0] for line in done.mistakes}
    assert {"BACKEND_IMAP_HOST", "BACKEND_SMTP_HOST"} <= named
    assert "Traceback" not in done.complaints


@pytest.mark.fault("D19")
def test_the_service_can_write_nothing_that_is_run(built: str) -> None:
    """Also where the root file system isn't read-only."""
    search = "id -u; find / -xdev -writable -not -type l -not -path '/dev/*' -not -path '/proc/*' 2>/dev/null"
    done = run(built, "--cap-drop=all", "--entrypoint=sh", command=("-c", search))
    user, *writable = done.output.splitlines()
    assert user == USER
    assert STATE_DIR in writable
    assert set(writable) <= {STATE_DIR, "/tmp", "/var/tmp", "/run/lock"}


def test_what_is_run_comes_compiled(built: str) -> None:
    """Nobody can write bytecode later, so a module without, or with one made for another time, costs each start."""
    done = run(built, *READ_ONLY, "--entrypoint=python", command=("-c", NOT_COMPILED))
    assert done.status == 0, done.complaints
    assert done.output.splitlines() == []
    # Python names the .py as the origin of a module's code where it has just compiled it.
    search = "python -v $(command -v legacy-email-proxy) plugins 2>&1 | grep '^# code object from /.*[.]py$'"
    done = run(built, *READ_ONLY, "--entrypoint=sh", command=("-c", search))
    assert done.output.splitlines() == []


def test_nothing_is_left_of_the_build(built: str) -> None:
    done = run(built, *READ_ONLY, "--entrypoint=sh", command=("-c", "ls -d /opt/* /source ~root/.cache"))
    assert done.output.splitlines() == ["/opt/plugins", "/opt/venv"]


def test_nothing_in_it_builds_or_installs(built: str) -> None:
    """And nothing of that is left in a layer below: it has one."""
    search = "find / -xdev -type f -executable 2>/dev/null | grep -E '/(pip|apt|perl|g?cc|ld|make|curl|wget)[0-9.]*$'"
    done = run(built, *READ_ONLY, "--user=0", "--entrypoint=sh", command=("-c", search))
    assert done.output.splitlines() == []
    assert run(built, *READ_ONLY, "--entrypoint=python", command=("-c", "import pip")).status == 1
    assert len(inspect("image", built)["RootFS"]["Layers"]) <= 2


def test_what_is_in_it_can_be_listed(built: str) -> None:
    """From Debian's and Python's own lists a scanner makes a bill of materials."""
    done = run(built, *READ_ONLY, "--entrypoint=sh", command=("-c", "dpkg-query -W; ls /opt/venv/lib/*/site-packages"))
    packages = {line.split()[0].partition(":")[0] for line in done.output.splitlines() if line}
    assert {"libc6", "libssl3", "ca-certificates"} <= packages or {"libc6", "libssl3t64"} <= packages
    assert {"apt", "perl-base"}.isdisjoint(packages)
    assert [name for name in packages if name.startswith("cryptography-") and name.endswith(".dist-info")]


def test_a_secret_with_the_name_of_a_variable_is_found(built: str) -> None:
    name = f"BACKEND_SMTP_PASS_{time.monotonic_ns()}"
    podman("secret", "create", name, "-", given="its value")
    try:
        secret = f"--secret={name},target=/run/credentials/BACKEND_SMTP_PASS,uid={USER},mode=0400"
        done = run(built, *READ_ONLY, secret, command=("settings",))
    finally:
        podman("secret", "rm", name)
    (line,) = [line for line in done.output.splitlines() if line.startswith("BACKEND_SMTP_PASS ")]
    assert line.endswith("(file /run/credentials/BACKEND_SMTP_PASS)")
    assert "its value" not in done.output


def test_wrong_settings_are_told_and_do_not_fill_the_log(built: str) -> None:
    """Its engine would start it anew a thousand times a minute; a signal ends it before its time."""
    with running(built, *HARDENED, environment={"SMTP_BIND_PORT": "x"}) as container:
        wait_until(lambda: "This container ends in" in container.log, "it has told", START_SECONDS)
        assert container.state["Running"]
        assert "SMTP_BIND_PORT: " in container.log
        assert "IMAGE check" in container.log
        podman("stop", "--time", "60", container.name)
        assert container.state["ExitCode"] == 2


def test_mail_goes_in_and_out_through_published_ports(serving: Container) -> None:
    send(serving.port(25), "scanner@example.test", "office@example.test")
    (fetched,) = fetch(serving.port(110))
    assert fetched.endswith(MESSAGE)
    assert fetch(serving.port(110)) == []


@pytest.mark.fault("D19")
def test_it_is_healthy_while_it_serves(built: str, serving: Container) -> None:
    assert podman("healthcheck", "run", serving.name).returncode == 0
    # And not because the command always says so: here nobody listens.
    done = run(built, *HARDENED, command=("healthcheck",))
    assert done.status == 1
    assert [line.partition(" ")[0] for line in done.mistakes] == ["POP3", "SMTP"]


def test_it_is_healthy_with_all_four_listeners(built: str, certificates: Certificates, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.good.key_file.read_bytes() + certificates.good.certificate_file.read_bytes())
    both.chmod(0o644)
    environment = {**MAILDIR, "TLS_CERT_FILE": "/both.pem", "POP3S_BIND_PORT": "995", "SMTPS_BIND_PORT": "465"}
    with running(built, *HARDENED, f"--volume={both}:/both.pem:ro", environment=environment) as container:
        container.wait_until_started()
        assert "pop3s=0.0.0.0:995" in container.log
        assert "smtps=0.0.0.0:465" in container.log
        assert podman("healthcheck", "run", container.name).returncode == 0


@pytest.mark.fault("D19")
def test_it_stops_at_once_and_in_order(serving: Container) -> None:
    started = time.monotonic()
    podman("stop", "--time", "30", serving.name)
    assert time.monotonic() - started < DRAIN_SECONDS
    assert serving.state["ExitCode"] == 0, serving.log
    assert "Traceback" not in serving.log


def test_without_the_capability_it_names_the_capability(built: str) -> None:
    # Docker, unlike podman, opens low ports to everybody in a container.
    sysctl = "--sysctl=net.ipv4.ip_unprivileged_port_start=1024"
    environment = [f"--env={name}={value}" for name, value in MAILDIR.items()]
    done = run(built, *READ_ONLY, "--cap-drop=all", sysctl, *environment)
    assert done.status == 2
    assert [line.partition(":")[0] for line in done.mistakes] == ["POP3_BIND_PORT", "SMTP_BIND_PORT"]
    assert all("--cap-add NET_BIND_SERVICE" in line for line in done.mistakes)
    assert "Traceback" not in done.complaints


def test_mail_outlives_the_container_in_a_volume(built: str) -> None:
    volume = f"--volume=legacy-email-proxy-test-{time.monotonic_ns()}:{STATE_DIR}"
    try:
        with running(built, *HARDENED, *PUBLISHED, volume, environment=MAILDIR) as container:
            container.wait_until_started()
            send(container.port(25), "scanner@example.test", "office@example.test")
        with running(built, *HARDENED, *PUBLISHED, volume, environment=MAILDIR) as container:
            container.wait_until_started()
            assert len(fetch(container.port(110))) == 1
    finally:
        podman("volume", "rm", "--force", volume.removeprefix("--volume=").partition(":")[0])


def test_with_real_servers_behind_it(built: str, dovecot: Dovecot, postfix: Postfix) -> None:
    """On the host's network, for the servers listen on its loopback address only."""
    account = dovecot.add_account()
    pop3_port, smtp_port = free_ports(2)
    environment = {
        "POP3_BIND_ADDR": "127.0.0.1",
        "POP3_BIND_PORT": str(pop3_port),
        "SMTP_BIND_ADDR": "127.0.0.1",
        "SMTP_BIND_PORT": str(smtp_port),
        "BACKEND_IMAP_HOST": "localhost",
        "BACKEND_IMAP_PORT": str(dovecot.imaps_port),
        "BACKEND_IMAP_USER": account.name,
        "BACKEND_IMAP_PASS": account.password,
        "BACKEND_IMAP_CA_FILE": "/ca.pem",
        "BACKEND_SMTP_HOST": "localhost",
        "BACKEND_SMTP_PORT": str(postfix.smtps_port),
        "BACKEND_SMTP_USER": account.name,
        "BACKEND_SMTP_PASS": account.password,
        "BACKEND_SMTP_CA_FILE": "/ca.pem",
    }
    flags = (*READ_ONLY, "--cap-drop=all", "--network=host", f"--volume={dovecot.ca_file}:/ca.pem:ro")
    dovecot.ca_file.chmod(0o644)
    with running(built, *flags, environment=environment) as container:
        container.wait_until_started()
        assert container.execute("legacy-email-proxy", "check")
        assert podman("healthcheck", "run", container.name).returncode == 0
        send(smtp_port, account.address, account.address)
        dovecot.wait_for_messages(account.name, 1)
        (fetched,) = fetch(pop3_port)
        assert fetched.endswith(MESSAGE)
        assert dovecot.messages(account.name) == []


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `plugins` with the site's distribution in it, as plugins/README.md has it made."""
    folder = tmp_path_factory.mktemp("site") / "plugins"
    install = ("install", "--quiet", "--no-deps", "--target", str(folder), str(ROOT / "tests" / "site_plugin"))
    ask(sys.executable, "-m", "pip", *install, seconds=300)
    return folder


@pytest.fixture(params=["derived", "mounted"])
def extended(request: pytest.FixtureRequest, built: str, plugins: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The ways of plugins/README.md, as an image and the flags for it: an image of two lines, and the project's own."""
    if request.param == "mounted":
        yield built, (f"--volume={plugins}:/opt/plugins:ro",)
        return
    containerfile = plugins.parent / "Containerfile"
    containerfile.write_text(f"FROM {built}\nCOPY plugins /opt/plugins\n")
    with image(plugins.parent, containerfile) as derived:
        yield derived, ()


def test_a_site_adds_its_plugins(extended: tuple[str, tuple[str, ...]]) -> None:
    name, flags = extended
    assert inspect("image", name)["Config"]["User"] == f"{USER}:{USER}"
    environment = {
        "RELAY_PLUGIN": "archive",
        "ACME_ARCHIVE_PATH": STATE_DIR,
        "MAILDROP_PLUGIN": "notices",
        "ACME_NOTICES_PATH": STATE_DIR,
    }
    with running(name, *HARDENED, *PUBLISHED, *flags, environment=environment) as container:
        container.wait_until_started()
        send(container.port(25), "scanner@example.test", "office@example.test")
        (fetched,) = fetch(container.port(110))
        assert fetched.endswith(MESSAGE)
