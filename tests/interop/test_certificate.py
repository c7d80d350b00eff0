"""A certificate that is renewed while the service runs."""

from __future__ import annotations

import signal
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from interop.proxy import Proxy, running


def shown(proxy: Proxy, leg: str, ca_file: Path, ciphers: str) -> str:
    """The cipher that a client agrees on which has only these."""
    context = ssl.create_default_context(cafile=ca_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    address = proxy.place(leg)
    with socket.create_connection(address, timeout=50) as plain:
        if not leg.endswith("s"):
            plain.recv(1000)
            plain.sendall(b"STLS\r\n" if leg == "pop3" else b"STARTTLS\r\n")
            plain.recv(1000)
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            cipher = client.cipher()
    assert cipher
    return cipher[0]


def test_another_kind_of_key_replaces_the_old_one(tmp_path: Path) -> None:
    ca = trustme.CA()
    file, ca_file = tmp_path / "both.pem", tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(ca_file)

    def issue(kind: trustme.KeyType) -> None:
        ca.issue_cert("localhost", key_type=kind).private_key_and_cert_chain_pem.write_to_path(file)

    issue(trustme.KeyType.RSA)
    variables = {
        "MAILDROP_PLUGIN": "maildir",
        "MAILDROP_MAILDIR_PATH": str(tmp_path / "mail"),
        "RELAY_PLUGIN": "maildir",
        "RELAY_MAILDIR_PATH": str(tmp_path / "mail"),
        "TLS_CERT_FILE": str(file),
        **{f"{leg}_BIND_ADDR": "127.0.0.1" for leg in ("POP3S", "SMTPS")},
        **{f"{leg}_BIND_PORT": "0" for leg in ("POP3S", "SMTPS")},
    }
    legs = ("pop3", "pop3s", "smtp", "smtps")
    with running(variables) as proxy:
        assert all(shown(proxy, leg, ca_file, "ECDHE-RSA-AES128-GCM-SHA256") for leg in legs)
        issue(trustme.KeyType.ECDSA)
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_for(" reloaded")
        for leg in legs:
            assert shown(proxy, leg, ca_file, "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256").startswith(
                "ECDHE-ECDSA"
            )
            with pytest.raises(ssl.SSLError):
                shown(proxy, leg, ca_file, "ECDHE-RSA-AES128-GCM-SHA256")
        # What can't be used changes nothing.
        file.write_text("nothing")
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_for("not reloaded")
        assert all(shown(proxy, leg, ca_file, "ECDHE-ECDSA-AES128-GCM-SHA256") for leg in legs)
