"""What is printed fits the addresses that the listeners really have."""

from __future__ import annotations

import pytest

from legacy_email_proxy.demo.instructions import instructions


@pytest.mark.parametrize(
    ("address", "host", "in_url"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("192.168.1.10", "192.168.1.10", "192.168.1.10"),
        ("0.0.0.0", "localhost", "localhost"),
        ("::", "localhost", "localhost"),
        ("::1", "::1", "[::1]"),
    ],
)
def test_address(address: str, host: str, in_url: str) -> None:
    text = instructions((address, 1110), (address, 1025))
    assert f"curl pop3://any:any@{in_url}:1110/\n" in text
    assert f"| curl smtp://{in_url}:1025 " in text
    assert f"poplib.POP3('{host}', 1110)" in text
    assert f"smtplib.SMTP('{host}', 1025)" in text
    assert f"telnet {host} 1110\n" in text
