"""What ``check`` says of Microsoft Graph: the token, the right to the mailbox, and who has to mend what.

Graph says "access is denied" for many causes. What the token claims tells them apart: a permission that it has was
granted, so something else keeps the application out of the mailbox. With RBAC for Applications no permission is in the
token, so a missing one is a hint and no proof.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from legacy_email_proxy.contracts import Failure, Finding, Level

from ..findings import explained
from .client import Body, Graph, quoted
from .listing import Listing
from .verdicts import PERMISSIONS, GraphRefusal

__all__ = ("probe_maildrop", "probe_relay")

_AUDIENCES = ("https://graph.microsoft.com", "00000003-0000-0000-c000-000000000000")
"""Graph, in a token for it; national clouds have the name in GRAPH_URL."""
_NOT_BASE64 = "ErrorMimeContentInvalidBase64String"
_WRITES = "Mail.ReadWrite"


async def probe_relay(graph: Graph, sender: str | None) -> Sequence[Finding]:
    """Whether mail may be sent. Nothing is sent: what is posted is no message."""
    options = graph.options
    findings: list[Finding] = []
    try:
        claims = _claims((await graph.secret()).reveal())
        findings += _audience(graph, claims)
        try:
            await graph.ask("a message that is none", "POST", "/sendMail", _no_message(), good=(202,))
        except GraphRefusal as refusal:
            if refusal.code != _NOT_BASE64:
                return [*findings, _failed(graph, refusal, claims, "Mail.Send")]
        findings.append(Finding(Level.GOOD, f"reached {options.host}, certificate verified, token accepted"))
        findings.append(Finding(Level.GOOD, f"may send from {options.mailbox}"))
        if options.large == "draft" or not options.save_to_sent:
            findings.append(await _drafts(graph, claims))
    except Failure as failure:
        return [*findings, _failed(graph, failure, {}, "Mail.Send")]
    if sender and sender.lower() != options.mailbox.lower():
        text = f"mail comes from {sender}, which is not the mailbox; whether it may send so shows with a message only"
        advice = f"Add-RecipientPermission {sender} -Trustee {options.mailbox} -AccessRights SendAs; try: check --send"
        findings.append(Finding(Level.WARNING, text, advice))
    return findings


async def probe_maildrop(graph: Graph, listing: Listing) -> Sequence[Finding]:
    """Whether the folder may be read, and what is deleted how."""
    options = graph.options
    findings: list[Finding] = []
    claims: Mapping[str, Any] = {}
    try:
        claims = _claims((await graph.secret()).reveal())
        findings += _audience(graph, claims)
        folder = await listing.folder()
        shown = await graph.ask("the folder", "GET", f"/mailFolders/{quoted(folder)}")
    except Failure as failure:
        return [*findings, _failed(graph, failure, claims, _WRITES)]
    findings.append(Finding(Level.GOOD, f"reached {options.host}, certificate verified, token accepted"))
    text = f"folder {options.folder} of {options.mailbox} has {shown.get('totalItemCount', 0)} messages"
    findings.append(Finding(Level.GOOD, text))
    granted = _granted(claims)
    if "Mail.Read" in granted and _WRITES not in granted and not options.read_only and options.deletion != "keep":
        text = "the application may read, but not delete, so QUIT after DELE is refused"
        findings.append(Finding(Level.WARNING, text, f"grant {_WRITES}, or set POP3_READ_ONLY or GRAPH_DELETE=keep"))
    return findings


async def _drafts(graph: Graph, claims: Mapping[str, Any]) -> Finding:
    try:
        await graph.ask("the drafts", "GET", "/mailFolders/drafts")
    except GraphRefusal as refusal:
        finding = _failed(graph, refusal, claims, _WRITES)
        needed = "messages over 3 MB" if graph.options.save_to_sent else "messages (GRAPH_SAVE_TO_SENT=false)"
        return Finding(Level.BAD, f"{needed} can not be sent: {finding.text}", finding.advice)
    return Finding(Level.GOOD, "may make drafts, for messages over 3 MB")


def _no_message() -> Body:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"%"

    return Body("text/plain", 1, pieces)


def _denied(graph: Graph, claims: Mapping[str, Any], needed: str) -> tuple[str, str]:
    """Why access is denied, as far as the token tells, and what to do."""
    mailbox, granted = graph.options.mailbox, _granted(claims)
    if needed in granted:
        return (
            f"the token has {needed}, so a policy or an RBAC scope of the organisation does not hold this mailbox",
            f"Test-ServicePrincipalAuthorization <application> -Resource {mailbox} shows RBAC scopes,"
            f" Test-ApplicationAccessPolicy -AppId <application> -Identity {mailbox} older policies",
        )
    if "scp" in claims:
        return (
            f"the consent does not include {needed}, or is of a user who has no right to {mailbox}",
            f"add {needed} (delegated) to the application, then run: legacy-email-proxy authorize",
        )
    if granted:
        return (
            f"the application has {', '.join(sorted(granted))}, but the permission {needed} is missing",
            PERMISSIONS,
        )
    if claims:
        return (
            "the token has no permission at all: none was added, the administrator's consent is missing, or the RBAC"
            " scope does not hold this mailbox",
            PERMISSIONS,
        )
    return ("the application has no right to this mailbox", PERMISSIONS)


def _failed(graph: Graph, failure: Failure, claims: Mapping[str, Any], needed: str) -> Finding:
    if isinstance(failure, GraphRefusal) and failure.denied:
        words, advice = _denied(graph, claims, needed)
        return Finding(Level.BAD, f"Microsoft answered {failure.status} {failure.code}: {words}", advice)
    if (finding := explained(failure, failure.detail)) is not None:
        return finding
    advice = f"look at {failure.look_at}" if failure.look_at else "try again later"
    return Finding(Level.BAD, failure.detail, advice)


def _audience(graph: Graph, claims: Mapping[str, Any]) -> list[Finding]:
    audience = str(claims.get("aud") or "").rstrip("/")
    if not audience or audience in (*_AUDIENCES, f"https://{graph.options.host}"):
        return []
    text = f"the token is for {audience}, and not for Microsoft Graph"
    advice = "set PROVIDER=microsoft365-graph or OAUTH2_PROVIDER=microsoft365-graph, and leave OAUTH2_SCOPE out"
    return [Finding(Level.BAD, text, advice)]


def _granted(claims: Mapping[str, Any]) -> set[str]:
    roles = claims.get("roles")
    given = [str(each) for each in roles] if isinstance(roles, list) else []
    return {*given, *str(claims.get("scp") or "").split()}


def _claims(token: str) -> Mapping[str, Any]:
    """What a token says of itself. It is not verified, and used for advice only."""
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, IndexError):
        return {}
    return found if isinstance(found, dict) else {}
