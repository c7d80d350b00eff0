"""The octets of both mechanisms, held against the examples of their specifications."""

from __future__ import annotations

import base64

import pytest

from legacy_email_proxy.contracts import BearerToken
from legacy_email_proxy_plugins.sasl import BEARER_MECHANISMS, Bearer, explained, offered_of

TOKEN = "vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg=="


def login(mechanism: str, user: str = "user@example.com", token: str = TOKEN) -> Bearer:
    return Bearer(mechanism, user, BearerToken(token), "server.example.com", 143)


def test_oauthbearer_is_the_example_of_rfc_7628() -> None:
    expected = (
        "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52"
        "YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )
    given = login("OAUTHBEARER")
    answers = [base64.b64encode(given.answer(challenge) or b"").decode() for challenge in (b"", b"{}")]
    assert answers == [expected, "AQ=="]
    assert given.answer(b"") is None, "there is no third"


def test_xoauth2_is_googles_example() -> None:
    given = login("XOAUTH2", "someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")
    expected = (
        "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0"
        "Q2cBAQ=="
    )
    assert base64.b64encode(given.answer(b"") or b"").decode() == expected
    assert given.answer(b'{"status":"400"}') == b""
    assert given.said == "status=400"


def test_a_name_can_not_end_early() -> None:
    assert (login("OAUTHBEARER", "a=b,c").answer(b"") or b"").startswith(b"n,a=a=3Db=2Cc,\x01host=")


@pytest.mark.parametrize(
    ("offered", "mechanism"),
    [
        (("PLAIN", "XOAUTH2", "OAUTHBEARER"), "XOAUTH2"),
        (("OAUTHBEARER",), "OAUTHBEARER"),
        (("PLAIN", "LOGIN"), None),
        ((), None),
    ],
)
def test_which_is_chosen(offered: tuple[str, ...], mechanism: str | None) -> None:
    assert offered_of(BEARER_MECHANISMS, offered) == mechanism


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        (b'{"status":"401","schemes":"bearer","scope":"mail"}', "status=401 schemes=bearer scope=mail"),
        (b'{"status":400,"x":"y"}', "status=400"),
        (b'{"status":"invalid_token\\r\\n250 OK"}', "status=invalid_token??250 OK"),
        (b'{"scope":"' + b"x" * 999 + b'"}', "scope=" + "x" * 999),
        (b"", ""),
        (b"Username:", ""),
        (b"[]", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_the_servers_error_message(challenge: bytes, words: str) -> None:
    assert explained(challenge) == words
