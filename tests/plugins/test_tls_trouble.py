"""What ``check`` says where TLS and the port, the clock, the name or the CA do not fit, before real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from interop.proxy import backends
from legacy_email_proxy.contracts import Finding, Level
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.settings import read
from legacy_email_proxy_plugins import dial
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from legacy_email_proxy_plugins.smtps import SMTPSRelay, Timeouts
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import free_ports

SILENT_SECONDS = 0.05


async def last_of(leg: str, given: dict[str, str]) -> Finding:
    """The last finding of the leg's probe."""
    settings = read(given)
    assert settings.mistakes == ()
    if leg == "IMAP":
        maildrop = IMAPMaildrop(PluginContext("maildrop.imap", settings))
        server = maildrop._server
        maildrop._server = replace(server, patience=replace(server.patience, silent=SILENT_SECONDS))
        findings = await maildrop.probe()
        await maildrop.aclose()
    else:
        relay = SMTPSRelay(PluginContext("relay.smtps", settings), timeouts=replace(Timeouts(), silent=SILENT_SECONDS))
        findings = await relay.probe()
        await relay.aclose()
    return findings[-1]


@pytest.mark.parametrize(("leg", "starttls"), [("IMAP", "BACKEND_IMAP_USE_STARTTLS"), ("SMTP", "BACKEND_SMTP_USE_TLS")])
@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_port_that_waits_for_tls(
    leg: str, starttls: str, *, encrypted: bool, dovecot: Dovecot, postfix: Postfix, account: Account
) -> None:
    mode = {starttls: "true"} if encrypted else {f"BACKEND_{leg}_USE_SSL": "false"}
    found = await last_of(leg, backends(dovecot, postfix, account) | mode)
    assert found.level is Level.BAD
    assert "speaks TLS from the first octet" in found.text
    assert f"set BACKEND_{leg}_USE_SSL=true" in found.advice


@pytest.mark.parametrize(("leg", "starttls"), [("IMAP", "BACKEND_IMAP_USE_STARTTLS"), ("SMTP", "BACKEND_SMTP_USE_TLS")])
async def test_a_port_that_begins_without_tls(
    leg: str, starttls: str, dovecot: Dovecot, postfix: Postfix, account: Account
) -> None:
    port = dovecot.imap_port if leg == "IMAP" else postfix.submission_port
    found = await last_of(leg, backends(dovecot, postfix, account) | {f"BACKEND_{leg}_PORT": str(port)})
    assert found.level is Level.BAD
    assert "in the clear" in found.text
    assert "WRONG_VERSION_NUMBER" not in found.text
    assert f"set {starttls}=true" in found.advice
    assert "CA_FILE" not in found.text + found.advice


REASONS = {
    "expired": (
        "has expired by this machine's clock, which says 20",
        "renew the certificate; else set the clock (NTP)",
    ),
    "future": ("is not yet valid by this machine's clock, which says 20", "set this machine's clock (NTP)"),
    "wrong_host": ("is not valid for 'localhost'", "_HOST to the name in the certificate"),
    "self_signed": ("signed certificate", "_CA_FILE; else look for a firewall"),
    "other_ca": ("unable to get local issuer certificate", "_CA_FILE; else look for a firewall"),
}


@contextmanager
def servers(certificates: Certificates, which: str) -> Iterator[tuple[Dovecot, Postfix]]:
    certificate = getattr(certificates, which)
    with Dovecot.start(certificate) as dovecot, Postfix.start(certificate, dovecot) as postfix:
        yield dovecot, postfix


@pytest.mark.parametrize("which", REASONS)
async def test_a_certificate_that_does_not_verify(which: str, certificates: Certificates) -> None:
    text, advice = REASONS[which]
    with servers(certificates, which) as (dovecot, postfix):
        given = backends(dovecot, postfix, dovecot.add_account())
        for leg in ("IMAP", "SMTP"):
            found = await last_of(leg, given)
            assert found.level is Level.BAD
            assert text in found.text
            assert advice in found.advice


@pytest.mark.parametrize("leg", ["IMAP", "SMTP"])
@pytest.mark.parametrize("inside", [True, False])
async def test_localhost_in_a_container(
    leg: str, *, inside: bool, monkeypatch: pytest.MonkeyPatch, dovecot: Dovecot, postfix: Postfix, account: Account
) -> None:
    monkeypatch.setattr(dial, "in_container", lambda: inside)
    port = {f"BACKEND_{leg}_PORT": str(free_ports(1)[0])}
    found = await last_of(leg, backends(dovecot, postfix, account) | port)
    assert found.level is Level.BAD
    assert ("inside a container localhost is the container itself" in found.text) == inside
    assert (f"set BACKEND_{leg}_HOST=host.containers.internal" in found.advice) == inside
