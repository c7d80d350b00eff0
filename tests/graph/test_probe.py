"""`check` in front of Graph: it sends nothing, and says of each common mistake what it is and who mends it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fakes.graph import Status
from graph.support import SENDER, reading, relaying
from legacy_email_proxy.contracts import CredentialsRefused, Finding, Level
from legacy_email_proxy_plugins.smtps.probe import _failed as smtp_failed
from realservers.certificates import Certificates

GRAPH = "https://graph.microsoft.com"


def token(**claims: Any) -> str:
    """Such as Entra issues; nobody here looks at the signature."""
    parts: tuple[dict[str, Any], ...] = ({"alg": "none"}, {"aud": GRAPH} | claims, {})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


ALL = token(roles=["Mail.Send", "Mail.ReadWrite"])
NONE: tuple[str, ...] = ()

# the token, what Graph lets it do, what it answers → what is said of relay and maildrop, and the advice
CASES: dict[str, tuple[str, tuple[str, ...], Status | None, str, str]] = {
    "no permission and no consent": (token(), NONE, None, "no permission at all", "grant admin consent"),
    "another permission": (token(roles=["User.Read.All"]), NONE, None, "the permission Mail.* is missing", "in Entra"),
    "RBAC scope": (ALL, NONE, None, "an RBAC scope of the organisation does not hold", "Test-ServicePrincipalAuth"),
    "policy": (
        ALL, NONE, Status(403, "ErrorAccessDenied", "Access to OData is disabled: [RAOP] : Blocked by tenant configured"
        " AppOnly AccessPolicy settings."), "an application access policy", "Test-ApplicationAccessPolicy",
    ),
    "a consent that is too small": (token(scp="User.Read"), NONE, None, "the consent does not include", "authorize"),
    "an opaque token": ("opaque", NONE, None, "no right to this mailbox", "RBAC for Applications"),
    "no licence": (
        ALL, NONE, Status(404, "MailboxNotEnabledForRESTAPI", "The mailbox is either inactive"), "no licence",
        "give the user a licence",
    ),
    "wrong tenant": (ALL, NONE, Status(404, "ErrorInvalidUser", "invalid."), "no such user", "OAUTH2_TENANT"),
    "busy": (ALL, NONE, Status(429, "ApplicationThrottled", retry_after=90), "429", "try again"),
    "an old token": (ALL, NONE, Status(401, "InvalidAuthenticationToken"), "401", "GRAPH_CREDENTIALS"),
}  # fmt: skip


def bad(findings: Any) -> Finding:
    (found,) = [each for each in findings if each.level is Level.BAD]
    assert isinstance(found, Finding)
    return found


@pytest.mark.parametrize("case", CASES)
async def test_what_is_wrong_is_told(certificates: Certificates, tmp_path: Path, case: str) -> None:
    given, permissions, answer, words, advice = CASES[case]
    server = {"token": given, "permissions": permissions}
    script = {"sendMail": answer, "folder": answer} if answer else {}
    async with relaying(certificates, tmp_path, given, server={**server, "script": script}) as (relay, fake):
        relays = bad(await relay.probe())
        assert not fake.mailbox.sent
    async with reading(certificates, tmp_path, given, server={**server, "script": script}) as (maildrop, _):
        maildrops = bad(await maildrop.probe())
    for finding in (relays, maildrops):
        assert re.search(words, finding.text), finding
        assert advice in finding.advice
        assert given not in finding.text + finding.advice


async def test_all_is_well(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path, ALL, server={"token": ALL}) as (relay, fake):
        assert [each.text for each in await relay.probe()] == [
            "reached localhost, certificate verified, token accepted",
            f"may send from {SENDER}",
            "may make drafts, for messages over 3 MB",
        ]
        assert not fake.mailbox.items
    async with reading(certificates, tmp_path, ALL, server={"token": ALL}) as (maildrop, fake):
        fake.mailbox.add(b"Subject: x\r\n\r\n")
        assert [each.text for each in await maildrop.probe()][1] == f"folder inbox of {SENDER} has 1 messages"


async def test_sending_without_the_right_to_drafts(certificates: Certificates, tmp_path: Path) -> None:
    server = {"token": ALL, "permissions": ("Mail.Send",)}
    async with relaying(certificates, tmp_path, ALL, server=server) as (relay, _):
        assert bad(await relay.probe()).text.startswith("messages over 3 MB can not be sent: ")
    async with relaying(certificates, tmp_path, ALL, server=server, GRAPH_LARGE="refuse") as (relay, _):
        assert all(each.level is Level.GOOD for each in await relay.probe())


async def test_a_token_for_something_else(certificates: Certificates, tmp_path: Path) -> None:
    given = token(aud="https://outlook.office365.com")
    async with relaying(certificates, tmp_path, given, server={"token": "x"}) as (relay, _):
        first = next(iter(await relay.probe()))
    assert [first.level, "microsoft365-graph" in first.advice] == [Level.BAD, True]


async def test_another_sender_needs_a_right(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path, SMTP_SENDER="office@firm.example") as (relay, _):
        *_, last = await relay.probe()
    assert last.level is Level.WARNING
    assert "Add-RecipientPermission office@firm.example" in last.advice


async def test_reading_without_the_right_to_delete(certificates: Certificates, tmp_path: Path) -> None:
    given = token(roles=["Mail.Read"])
    async with reading(certificates, tmp_path, given, server={"token": given}) as (maildrop, _):
        *_, last = await maildrop.probe()
    assert [last.level, last.text] == [
        Level.WARNING,
        "the application may read, but not delete, so QUIT after DELE is refused",
    ]


def test_high_volume_email_without_a_billing_policy() -> None:
    class Endpoint:
        host = "smtp.hve.mx.microsoft"

    finding = smtp_failed(Endpoint(), CredentialsRefused("535 5.7.3 Authentication unsuccessful"))  # type: ignore[arg-type]
    assert "Get-HVEAccountBillingPolicy" in finding.advice
