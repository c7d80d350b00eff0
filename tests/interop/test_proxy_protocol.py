"""A balancer in front, played by the test: the device's address counts, on all four listeners of the real command."""

from __future__ import annotations

import poplib
import smtplib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interop.proxy import Proxy, maildirs, run, running
from realservers.certificates import Certificates

BODY = b"Subject: x\r\n\r\nhello\r\n"
DEVICE = "10.77.0.9"
LISTENERS = ("smtp", "smtps", "pop3", "pop3s")


def header(device: str) -> bytes:
    return f"PROXY TCP4 {device} 192.0.2.1 4711 25\r\n".encode()


def through_balancer(place: tuple[str, int], device: str) -> socket.socket:
    connection = socket.create_connection(place, 50)
    connection.sendall(header(device))
    return connection


class SMTP(smtplib.SMTP):
    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        return through_balancer((host, port), DEVICE)


class SMTPS(smtplib.SMTP):
    tls: ssl.SSLContext

    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        return self.tls.wrap_socket(through_balancer((host, port), DEVICE), server_hostname="localhost")


class POP3(poplib.POP3):
    def _create_socket(self, timeout: Any) -> socket.socket:
        return through_balancer((self.host, self.port), DEVICE)


class POP3S(poplib.POP3):
    tls: ssl.SSLContext

    def _create_socket(self, timeout: Any) -> socket.socket:
        return self.tls.wrap_socket(through_balancer((self.host, self.port), DEVICE), server_hostname="localhost")


@pytest.fixture
def variables(certificates: Certificates, tmp_path: Path) -> dict[str, str]:
    return {
        **maildirs(tmp_path),
        "TLS_CERT_FILE": str(certificates.good.certificate_file),
        "TLS_KEY_FILE": str(certificates.good.key_file),
        **{f"{leg}_BIND_ADDR": "127.0.0.1" for leg in ("SMTPS", "POP3S")},
        **{f"{leg}_BIND_PORT": "0" for leg in ("SMTPS", "POP3S")},
        "ALLOWED_NETWORKS": "10.0.0.0/8",
        "MAX_CONNECTIONS_PER_ADDRESS": "2",
    }


@pytest.fixture
def proxy(variables: dict[str, str]) -> Iterator[Proxy]:
    with running({**variables, "PROXY_PROTOCOL_NETWORKS": "127.0.0.1"}) as proxy:
        yield proxy


def test_the_device_is_seen_behind_the_balancer(proxy: Proxy, client_tls: ssl.SSLContext, tmp_path: Path) -> None:
    SMTPS.tls = POP3S.tls = client_tls
    with SMTP(*proxy.smtp) as plain:
        # After STARTTLS it is still the same device.
        plain._host = "localhost"  # type: ignore[attr-defined]
        plain.starttls(context=client_tls)
        plain.sendmail("a@example.test", ["b@example.test"], BODY)
    with SMTPS(*proxy.place("smtps")) as secured:
        secured.sendmail("a@example.test", ["b@example.test"], BODY)
    for kind, listener in ((POP3, "pop3"), (POP3S, "pop3s")):
        client = kind(*proxy.place(listener))
        client.user("u")
        client.pass_("p")
        client.quit()
    for words in ("smtp session ended", "pop3 session ended"):
        assert all(f" client={DEVICE} " in line for line in proxy.wait_for(words, 2))
    received = [path.read_bytes() for path in (tmp_path / "out" / "new").iterdir()]
    assert len(received) == 2
    assert all(f"[{DEVICE}]".encode() in message for message in received)


def test_the_devices_address_is_what_is_limited(proxy: Proxy, client_tls: ssl.SSLContext) -> None:
    for listener, refusal in (("smtp", b"554 "), ("smtps", b"554 "), ("pop3", b"-ERR "), ("pop3s", b"-ERR ")):
        with through_balancer(proxy.place(listener), "192.0.2.9") as connection:
            assert connection.recv(5).startswith(refusal), listener
    held = [through_balancer(proxy.smtp, device) for device in (DEVICE, DEVICE, "10.77.0.10", DEVICE)]
    assert [connection.recv(4) for connection in held] == [b"220 ", b"220 ", b"220 ", b"421 "]
    for connection in held:
        connection.close()


def test_a_balancer_without_a_header_is_closed_with_one_line(proxy: Proxy, client_tls: ssl.SSLContext) -> None:
    for count, listener in enumerate(LISTENERS, 1):
        with socket.create_connection(proxy.place(listener), 50) as connection:
            connection.sendall(b"EHLO x\r\n")
            assert connection.recv(100) == b""
        lines = proxy.wait_for("connection refused", count)
        assert len(lines) == count
        assert "client=127.0.0.1 reason=" in lines[-1]
        assert "see=PROXY_PROTOCOL_NETWORKS" in lines[-1]


def test_the_health_check_speaks_as_a_balancer_does(variables: dict[str, str]) -> None:
    both = {**variables, "PROXY_PROTOCOL_NETWORKS": "127.0.0.1", "ALLOWED_NETWORKS": "127.0.0.0/8"}
    with running(both) as proxy:
        ports = {f"{leg.upper()}_BIND_PORT": str(proxy.place(leg)[1]) for leg in LISTENERS}
        places = {f"{leg}_BIND_ADDR": "127.0.0.1" for leg in ("SMTP", "POP3")}
        done = run("healthcheck", **both | places | ports)
        assert (done.returncode, done.stderr) == (0, "")


def test_from_elsewhere_a_header_is_a_wrong_command(variables: dict[str, str]) -> None:
    with running({**variables, "PROXY_PROTOCOL_NETWORKS": "192.0.2.1", "ALLOWED_NETWORKS": "127.0.0.0/8"}) as proxy:
        for place, greeting, answer in ((proxy.smtp, b"220 ", b"500 "), (proxy.pop3, b"+OK", b"-ERR")):
            with through_balancer(place, DEVICE) as connection, connection.makefile("rb") as stream:
                assert stream.readline().startswith(greeting)
                assert stream.readline().startswith(answer)
        assert not [line for line in proxy.wait_for("session ended", 2) if f"client={DEVICE}" in line]
