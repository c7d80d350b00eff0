"""Logins and TLS on the SMTP side, through the real command: log lines, health check, a client by each way, a drain."""

from __future__ import annotations

import poplib
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.proxy import Proxy, maildirs, run, running
from realservers.certificates import Certificates
from realservers.processes import require

BODY = b"Subject: x\r\n\r\nhello\r\n"


@pytest.fixture
def variables(certificates: Certificates, tmp_path: Path) -> dict[str, str]:
    """A proxy between two Maildirs, with a certificate and a login for who wants one."""
    return {
        **maildirs(tmp_path),
        "TLS_CERT_FILE": str(certificates.good.certificate_file),
        "TLS_KEY_FILE": str(certificates.good.key_file),
        "SMTPS_BIND_ADDR": "127.0.0.1",
        "SMTPS_BIND_PORT": "0",
        "SMTP_AUTH": "any",
    }


@pytest.fixture
def proxy(variables: dict[str, str]) -> Iterator[Proxy]:
    with running(variables) as proxy:
        yield proxy


def delivered(folder: Path) -> int:
    return sum(BODY in path.read_bytes() for path in (folder / "out" / "new").iterdir())


def test_the_listener_with_tls(variables: dict[str, str], certificates: Certificates, tmp_path: Path) -> None:
    with running({**variables, "TLS_LEGACY": "true"}) as proxy:
        address, port = proxy.place("smtps")
        trusting = ssl.create_default_context(cafile=certificates.ca_file)
        with smtplib.SMTP_SSL("localhost", port, context=trusting, timeout=50) as client:
            client.login("scanner", "hunter2-xyz")
            client.sendmail("a@example.test", ["b@example.test"], BODY)
        line = proxy.wait_for("smtp session ended")[0]
        assert "tls=TLSv1.3 user=scanner verdict=quit" in line
        assert "hunter2" not in proxy.log
        assert "no longer safe see=TLS_LEGACY" in proxy.log
        if ssl.HAS_TLSv1:
            openssl(port, certificates)
        ports = {
            **variables,
            "SMTP_BIND_ADDR": "127.0.0.1",
            "SMTP_BIND_PORT": str(proxy.smtp[1]),
            "SMTPS_BIND_PORT": str(port),
            "POP3_BIND_ADDR": "127.0.0.1",
            "POP3_BIND_PORT": str(proxy.pop3[1]),
        }
        assert run("healthcheck", **ports).returncode == 0
        # A handshake that never comes doesn't hold the stop.
        waiting = socket.create_connection((address, port))
    waiting.close()
    assert delivered(tmp_path) == 1
    done = run("healthcheck", **ports)
    assert done.returncode == 1
    assert f"SMTPS at 127.0.0.1 port {port} does not answer: " in done.stderr


def test_a_refusal_is_a_sign_of_life(variables: dict[str, str]) -> None:
    refusing = {**variables, "ALLOWED_NETWORKS": "192.0.2.1", "POP3S_BIND_ADDR": "127.0.0.1", "POP3S_BIND_PORT": "0"}
    with running(refusing) as proxy:
        ports = {f"{leg.upper()}_BIND_PORT": str(proxy.place(leg)[1]) for leg in ("pop3", "pop3s", "smtp", "smtps")}
        done = run("healthcheck", **refusing | {"POP3_BIND_ADDR": "127.0.0.1", "SMTP_BIND_ADDR": "127.0.0.1"} | ports)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(proxy.wait_for("not in ALLOWED_NETWORKS", 4)) == 4


def openssl(port: int, certificates: Certificates) -> None:
    """The greeting of a session in TLS 1.0, as the oldest devices speak it."""
    program = require("openssl", "speaks TLS 1.0 as an old device")
    done = subprocess.run(
        [program, "s_client", "-connect", f"localhost:{port}", "-tls1", "-cipher", "ALL:@SECLEVEL=0",
         "-CAfile", str(certificates.ca_file), "-crlf", "-ign_eof"],
        input="EHLO old\nQUIT\n", capture_output=True, text=True, timeout=40, check=True,
    )  # fmt: skip
    assert "New, TLSv1.0" in done.stdout
    assert "221 2.0.0 Bye" in done.stdout


def test_curl_logs_in_by_each_way(proxy: Proxy, certificates: Certificates, tmp_path: Path) -> None:
    curl = require("curl", "speaks STARTTLS and AUTH as a real client")
    (tmp_path / "mail").write_bytes(BODY)
    ways: list[tuple[str, list[str], int]] = [
        ("smtp", [], proxy.smtp[1]),
        ("smtp", ["--ssl-reqd"], proxy.smtp[1]),
        ("smtps", [], proxy.place("smtps")[1]),
    ]
    for scheme, options, port in ways:
        for mechanism in ("PLAIN", "LOGIN"):
            done = subprocess.run(
                [curl, "-sSv", *options, "--cacert", str(certificates.ca_file), "--user", "scanner:hunter2-xyz",
                 "--login-options", f"AUTH={mechanism}", "--mail-from", "a@example.test",
                 "--mail-rcpt", "b@example.test", "-T", str(tmp_path / "mail"), f"{scheme}://localhost:{port}"],
                capture_output=True, text=True, timeout=40, check=True,
            )  # fmt: skip
            assert f"> AUTH {mechanism}" in done.stderr
            assert "< 235 2.7.0 Logged in" in done.stderr
    assert delivered(tmp_path) == 6


@pytest.mark.quirk("smtp-C24")
def test_pop_before_smtp(proxy: Proxy, tmp_path: Path) -> None:
    # Some devices read mail in order to be let in, instead of logging in: nobody asked, and they may send before too.
    with smtplib.SMTP(*proxy.smtp, timeout=50) as client:
        client.sendmail("a@example.test", ["b@example.test"], BODY)
    reading = poplib.POP3(*proxy.pop3, timeout=50)
    reading.user("scanner")
    reading.pass_("secret")
    reading.quit()
    with smtplib.SMTP(*proxy.smtp, timeout=50) as client:
        assert client.has_extn("auth") or client.ehlo()
        client.sendmail("a@example.test", ["b@example.test"], BODY)
    assert delivered(tmp_path) == 2


def test_values_that_are_none() -> None:
    said = run("settings", SMTPS_BIND_PORT="70000", SMTP_AUTH="yes", TLS_LEGACY="perhaps").stderr
    assert {line.split(": ")[1] for line in said.splitlines()} == {"SMTPS_BIND_PORT", "SMTP_AUTH", "TLS_LEGACY"}
