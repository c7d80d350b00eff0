"""What the built-in plugins tell of their connections, pauses and tokens."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from imap import support as imap
from legacy_email_proxy.contracts import Client, CredentialsRefused, Figure, Secret, figures, timed
from legacy_email_proxy.relays.rate_limit import RateLimitedRelay
from legacy_email_proxy.relays.wrapper import figures as told_by
from oauth2 import support as oauth2
from oauth2.test_grants import certificate_of, pem
from realservers.certificates import Certificates
from smtps import support as smtps

CLIENT = Client("192.0.2.1", "s1")


def short(told: Iterable[Figure]) -> dict[str, float]:
    return {one.labels.get("state", one.name): one.value for one in told}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Each step that a plugin has told."""
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(figures, "TIMINGS", [lambda leg, step, _: seen.append((leg, step))])
    return seen


async def test_smtps(certificates: Certificates, steps: list[tuple[str, str]]) -> None:
    async with smtps.relaying(certificates.good) as (_, relay):
        assert short(await relay.figures()) == {"in_use": 0, "idle": 0, "waiting": 0, "backend_paused_seconds": 0}
        async with relay.transaction(CLIENT, smtps.SENDER, {}):
            assert short(await relay.figures())["in_use"] == 1
        assert short(await relay.figures())["idle"] == 1
        # What stands before it tells the same.
        assert short(await told_by(RateLimitedRelay(relay, 5)))["idle"] == 1
        await smtps.deliver(relay)
    assert steps == [("smtp", step) for step in ("connect", "tls", "hello", "login", "mail", "content")]


async def test_smtps_after_a_refused_password(certificates: Certificates, steps: list[tuple[str, str]]) -> None:
    async with smtps.relaying(certificates.good, password="wrong") as (_, relay):
        with pytest.raises(CredentialsRefused):
            async with relay.transaction(CLIENT, smtps.SENDER, {}):
                pass
        assert 55 < short(await relay.figures())["backend_paused_seconds"] <= 60
    assert ("smtp", "login") not in steps


async def test_imap(certificates: Certificates, steps: list[tuple[str, str]]) -> None:
    async with imap.pair(certificates.good, b"Subject: x\r\n\r\nx\r\n") as (maildrop, _):
        assert short(await maildrop.figures()) == {"in_use": 0, "idle": 0, "waiting": 0, "backend_paused_seconds": 0}
        async with maildrop.open(CLIENT, None) as session:
            assert await imap.read(session, 0)
            await session.commit([session.entries[0].unique_id])
        assert short(await maildrop.figures())["idle"] == 1
    assert steps == [("pop3", step) for step in ("connect", "tls", "login", "list", "fetch", "delete")]


async def test_imap_after_a_refused_password(certificates: Certificates) -> None:
    async with imap.pair(certificates.good, BACKEND_IMAP_PASS=Secret("wrong")) as (maildrop, _):
        with pytest.raises(CredentialsRefused):
            async with maildrop.open(CLIENT, None):
                pass
        assert 55 < short(await maildrop.figures())["backend_paused_seconds"] <= 60


async def test_oauth2(certificates: Certificates, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = certificate_of(key)
    given = {"OAUTH2_CLIENT_KEY": pem(key), "OAUTH2_PROVIDER": "custom"}
    given["OAUTH2_CLIENT_CERT"] = certificate.public_bytes(Encoding.PEM).decode()
    server = {"client_key": key.public_key()}
    async with oauth2.pair(certificates.good, tmp_path, "client_credentials", server=server, **given) as (made, _):
        ends = certificate.not_valid_after_utc.timestamp()
        assert short(await made.figures()) == {"credential_expiry_timestamp_seconds": ends}
        await made.secret(oauth2.SMTP)
        assert short(await made.figures())["token_expiry_timestamp_seconds"] > time.time()


def test_only_what_came_to_its_end_is_timed(steps: list[tuple[str, str]]) -> None:
    with timed("smtp", "mail"):
        assert steps == []
    with pytest.raises(ValueError, match="x"), timed("smtp", "content"):
        raise ValueError("x")
    assert steps == [("smtp", "mail")]
