"""SCRAM held against the examples of its specifications (RFC 5802 §5, RFC 7677 §3), and what is not taken."""

from __future__ import annotations

import pytest
import scramp.core

from legacy_email_proxy_plugins.sasl import Scram

EXAMPLES: dict[str, tuple[str, tuple[bytes, ...]]] = {
    "SCRAM-SHA-256": (
        "rOprNGfwEbeRWgbNEkqO",
        (
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ),
    ),
    "SCRAM-SHA-1": (
        "fyko+d2lbbFgONRv9qkxdawL",
        (
            b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ),
    ),
}


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Scram, tuple[bytes, ...]]:
    nonce, dialogue = EXAMPLES[request.param]
    monkeypatch.setattr(scramp.core, "token_hex", lambda: nonce)
    return Scram(request.param, "user", "pencil"), dialogue


def test_the_examples(example: tuple[Scram, tuple[bytes, ...]]) -> None:
    scram, (first, server_first, final, server_final) = example
    assert scram.answer(b"") == first
    assert scram.answer(server_first) == final
    assert not scram.proven
    assert scram.answer(server_final) == b""
    assert scram.proven
    assert scram.answer(b"") is None


SPOILT = [
    b"",
    b"r=somebody else's,s=QSXCR+Q6sek8bf92,i=4096",
    b"\xff\xfe",
    b"{}",
    b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=1",
    b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=99999999999",
    b"m=unknown,r=fyko+d2lbbFgONRv9qkxdawL3,s=QSXCR+Q6sek8bf92,i=4096",
    b"r=" * 10_000,
]


@pytest.mark.parametrize("challenge", SPOILT)
def test_what_is_no_answer_to_ours_ends_it(example: tuple[Scram, tuple[bytes, ...]], challenge: bytes) -> None:
    scram, _ = example
    scram.answer(b"")
    assert scram.answer(challenge) is None
    assert "broke the protocol" in scram.fault
    assert scram.answer(b"") is None
    assert not scram.proven


def test_a_server_that_does_not_know_the_password(example: tuple[Scram, tuple[bytes, ...]]) -> None:
    scram, (_, server_first, _, server_final) = example
    scram.answer(b"")
    scram.answer(server_first)
    assert scram.answer(server_final[:3] + b"AAAA" + server_final[7:]) is None
    assert "broke the protocol" in scram.fault
    assert not scram.proven


def test_a_reason_is_taken_note_of(example: tuple[Scram, tuple[bytes, ...]]) -> None:
    scram, (_, server_first, *_) = example
    scram.answer(b"")
    scram.answer(server_first)
    assert scram.answer(b"e=invalid-proof") == b"", "the verdict comes once this was answered"
    assert (scram.said, scram.fault, scram.proven) == ("e=invalid-proof", "", False)


@pytest.mark.parametrize(
    ("user", "password"), [("user", "bell\x07"), ("", "secret"), ("user", "\udce4"), ("\x00", "x")]
)
def test_what_it_can_not_take(user: str, password: str) -> None:
    with pytest.raises(ValueError, match="can't be used with SCRAM-SHA-256") as error:
        Scram("SCRAM-SHA-256", user, password)
    assert password not in str(error.value) or password == "x"
