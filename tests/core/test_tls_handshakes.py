"""The words for a handshake that failed: what an operator reads, and what is no trouble at all."""

from __future__ import annotations

import ssl

import pytest

from legacy_email_proxy.tls import HandshakeFailed, HungUp, failed


def of(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def context(*, legacy: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED if legacy else ssl.TLSVersion.TLSv1_2
    return made


@pytest.mark.parametrize("reason", ["UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "NO_SHARED_CIPHER"])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_setting_is_named_only_where_it_would_help(reason: str, legacy: bool) -> None:
    said = str(failed(of(reason), context(legacy=legacy)))
    assert said.endswith("that is allowed here, see TLS_LEGACY") is not legacy
    assert ("TLS_LEGACY" in said) is not legacy
    assert ("this system's OpenSSL" in said) is legacy


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        BrokenPipeError(),
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        # With close_notify, as who thinks better of it.
        ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF)"),
        # Python's own, since 3.11.5 and in Debian's 3.11.2.
        of("Closed before TLS handshake with data in recv buffer."),
    ],
    ids=repr,
)
def test_who_left_is_no_trouble(error: OSError) -> None:
    assert isinstance(failed(error, context(legacy=False)), HungUp)


def test_all_else_is() -> None:
    for error in (TimeoutError(), of("WRONG_VERSION_NUMBER"), of("SSLV3_ALERT_BAD_CERTIFICATE"), of("")):
        assert type(failed(error, context(legacy=True))) is HandshakeFailed
