"""The port with TLS from the first octet, through the real command: log line, health check, a client, a drain."""

from __future__ import annotations

import poplib
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from interop.proxy import Proxy, run, running
from realservers.certificates import Certificates
from realservers.processes import require


def test_the_listener_with_tls(certificates: Certificates, tmp_path: Path) -> None:
    for folder in ("cur", "new", "tmp"):
        (tmp_path / folder).mkdir()
    (tmp_path / "new" / "1.a.b").write_bytes(b"Subject: x\r\n\r\n")
    variables = {
        "RELAY_PLUGIN": "none",
        "MAILDROP_PLUGIN": "maildir",
        "MAILDROP_MAILDIR_PATH": str(tmp_path),
        "TLS_CERT_FILE": str(certificates.good.certificate_file),
        "TLS_KEY_FILE": str(certificates.good.key_file),
        "POP3S_BIND_ADDR": "127.0.0.1",
        "POP3S_BIND_PORT": "0",
    }
    with running(variables) as proxy:
        curls(proxy, certificates)
        address, port = proxy.place("pop3s")
        trusting = ssl.create_default_context(cafile=certificates.ca_file)
        client = poplib.POP3_SSL(address, port, context=trusting, timeout=50)
        client.user("u")
        client.pass_("p")
        assert client.retr(1)[1] == [b"Subject: x", b""]
        client.quit()
        assert "tls=TLSv1.3" in proxy.wait_for("pop3 session ended", 5)[4]
        plain = poplib.POP3(*proxy.pop3, timeout=50)
        assert "STLS" in plain.capa()
        plain.quit()
        ports = {
            "POP3_BIND_ADDR": "127.0.0.1",
            "POP3_BIND_PORT": str(proxy.pop3[1]),
            **variables,
            "POP3S_BIND_PORT": str(port),
        }
        assert run("healthcheck", **ports).returncode == 0
    done = run("healthcheck", **ports)
    assert done.returncode == 1
    assert f"POP3S at 127.0.0.1 port {port} does not answer: " in done.stderr


def curls(proxy: Proxy, certificates: Certificates) -> None:
    """A real client by each way in: STLS and TLS from the first octet, both with each mechanism."""
    curl = require("curl", "speaks STLS and AUTH as a real client")
    ways = (("pop3", ("--ssl-reqd",), proxy.pop3), ("pop3s", (), proxy.place("pop3s")))
    for scheme, options, (_, port) in ways:
        for mechanism in ("PLAIN", "LOGIN"):
            done = subprocess.run(
                [curl, "-sSv", *options, "--cacert", str(certificates.ca_file), "--user", "any:any",
                 "--login-options", f"AUTH={mechanism}", f"{scheme}://localhost:{port}/1"],
                capture_output=True, text=True, timeout=40, check=True,
            )  # fmt: skip
            assert done.stdout.splitlines() == ["Subject: x", ""]
            assert f"> AUTH {mechanism}" in done.stderr


@pytest.mark.long
def test_a_listener_that_speaks_no_tls_is_not_healthy(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        silent.settimeout(20)
        done = run(
            "healthcheck", RELAY_PLUGIN="none", POP3_BIND_ADDR="127.0.0.1", POP3_BIND_PORT="1",
            POP3S_BIND_ADDR="127.0.0.1", POP3S_BIND_PORT=str(port),
        )  # fmt: skip
    assert done.returncode == 1
    assert f"POP3S at 127.0.0.1 port {port} does not answer: " in done.stderr


@pytest.mark.parametrize("port", ["70000", "-1", "x"])
def test_a_port_that_is_none(port: str) -> None:
    assert "POP3S_BIND_PORT: " in run("settings", POP3S_BIND_PORT=port).stderr
