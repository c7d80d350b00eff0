"""A failure as ``check`` shows it: what the provider's refusal means, and what the operator can do about it.

The table has the most common refusals. Both backend plugins look up what a mail server said to a login, ``oauth2`` what
a token endpoint said. The patterns are the words that real providers send. Providers change them without notice, so the
table only adds advice: what the provider said is always shown as well.

:func:`explained` makes the finding, the same for both legs. The steps that each leg checks, and its advice where the
table has none, are in ``imap/probe`` and ``smtps/probe``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from legacy_email_proxy.contracts import CredentialsRefused, Failure, Finding, Level, NoCredentials

__all__ = ("AUTHORIZE", "GENERAL", "TABLE", "Meaning", "explained", "first_fitting", "meaning_of")


@dataclass(frozen=True, slots=True)
class Meaning:
    """``pattern`` is searched in what the provider said, ignoring case. ``source``: where the text is documented."""

    pattern: str
    words: str
    advice: str
    source: str = ""


_SMTP_AUTH = "switch it on: Set-CASMailbox <mailbox> -SmtpClientAuthenticationDisabled $false"
_PERMISSION = (
    "in Entra give the application the permissions IMAP.AccessAsApp and SMTP.SendAsApp of Office 365 Exchange Online"
    " and grant admin consent; in Exchange register it (New-ServicePrincipal) and let it into the mailbox"
    " (Add-MailboxPermission … -AccessRights FullAccess)"
)
AUTHORIZE = "run: legacy-email-proxy authorize"
"""Of use only where a user has given consent; if the grant needs none, ``oauth2/errors`` replaces this advice."""
_CLOCK = "set this machine's clock (NTP)"

_PROVIDERS: tuple[Meaning, ...] = (
    # Microsoft's mail servers.
    Meaning(
        r"SmtpClientAuthentication is disabled for the Tenant",
        "SMTP AUTH is switched off for the whole organisation, with OAuth2 too",
        f"an administrator can {_SMTP_AUTH}; it overrules the organisation's setting for this mailbox",
    ),
    Meaning(
        r"SmtpClientAuthentication is disabled for the Mailbox",
        "SMTP AUTH is switched off for this mailbox, with OAuth2 too",
        f"an administrator can {_SMTP_AUTH}",
    ),
    Meaning(
        r"basic authentication is disabled",
        "Microsoft takes no passwords here any more",
        "set BACKEND_SMTP_CREDENTIALS and BACKEND_IMAP_CREDENTIALS to oauth2, see proxy/docs/microsoft365.md",
    ),
    Meaning(
        r"5\.7\.139.*security defaults|blocked by .*security defaults",
        "the organisation's security defaults forbid this login",
        "use OAuth2 with client_credentials, or replace the security defaults by Conditional Access rules",
    ),
    Meaning(
        r"5\.7\.139",
        "Microsoft refused the login by a policy of the organisation, or the password is wrong",
        "look at the sign-in log in Entra; is SMTP AUTH on for the mailbox (Get-CASMailbox)?",
    ),
    Meaning(
        r"authenticated but not connected",
        "the token is good, but the mailbox can not be opened: no such mailbox, or no right to it",
        f"is the user the mailbox's address? {_PERMISSION}",
    ),
    Meaning(
        r"535 5\.7\.3|AUTHENTICATE failed",
        "Microsoft refused the token: a permission or its consent is missing, or IMAP or SMTP is off for the mailbox",
        f"{_PERMISSION}; check Get-CASMailbox (ImapEnabled, SmtpClientAuthenticationDisabled)",
    ),
    # Google's mail servers.
    Meaning(
        r"not enabled for IMAP|IMAP access is disabled",
        "IMAP is switched off for this account",
        "switch it on in Gmail's settings, or in the Workspace admin console (Apps, Gmail, End User Access)",
    ),
    Meaning(
        r"application-specific password required|app(lication)?[- ]specific password",
        "Google wants an app password, or OAuth2",
        "make one at myaccount.google.com/apppasswords, or set BACKEND_…_CREDENTIALS=oauth2, see proxy/docs/google.md",
    ),
    Meaning(
        r"\bstatus=400\b.*scope=|insufficient_scope|insufficient authentication scopes",
        "the token is not good for mail, or not for this mailbox",
        f"set OAUTH2_SCOPE to the scope that the server names (Google: https://mail.google.com/), and where a person"
        f" has consented {AUTHORIZE}; the login must be the mailbox that gave consent",
    ),
    Meaning(
        r"5\.7\.8.*(BadCredentials|Username and Password not accepted)",
        "Google did not take the login",
        "a password must be an app password; a token must be for https://mail.google.com/ and for this very mailbox",
    ),
    # Any mail server: response codes of RFC 5530.
    Meaning(
        r"\[CONTACTADMIN\]",
        "the provider's support or administrator has to look at this account; the password may well be right",
        "ask them, and leave the password as it is until they answer",
    ),
    Meaning(
        r"\[EXPIRED\]", "the password or the account has expired", "renew it at the provider, then set the new one"
    ),
    Meaning(
        r"\[AUTHORIZATIONFAILED\]",
        "the password is right, but this user may not use the mailbox in this way",
        "is IMAP switched on for the account, and does BACKEND_IMAP_USER name the right mailbox?",
    ),
    # Any mail server: the error message of RFC 7628 §3.2.2.
    Meaning(
        r"\bstatus=\w+",
        "the server did not take the token: it is for something else than mail, or for another mailbox",
        "compare OAUTH2_SCOPE with the scope that the server names, and the BACKEND_…_USER with the mailbox that gave"
        " consent; legacy-email-proxy authorize --status shows what the token is for",
    ),
    # Entra's token endpoint.
    Meaning(r"AADSTS7000215", "the client secret is wrong", "OAUTH2_CLIENT_SECRET is the secret's value, not its ID"),
    Meaning(r"AADSTS7000222", "the client secret has expired", "make a new one in Entra and set OAUTH2_CLIENT_SECRET"),
    Meaning(
        r"AADSTS7000218",
        "Entra wants a secret, because the application is not a public client",
        "in Entra, Authentication: allow public client flows; or set OAUTH2_CLIENT_SECRET",
    ),
    Meaning(
        r"AADSTS700016",
        "there is no such application in this directory",
        "check OAUTH2_CLIENT_ID and OAUTH2_TENANT",
    ),
    Meaning(r"AADSTS700027", "Entra does not know the certificate", "upload it to the application's certificates"),
    Meaning(r"AADSTS700024", "the signed statement is out of its time", _CLOCK),
    Meaning(
        r"AADSTS(700082|70008|50173|70043|700084|50089)\b",
        "the refresh token is no longer valid: not used for 90 days, the password changed, or it was revoked",
        AUTHORIZE,
    ),
    Meaning(
        r"AADSTS(90002|900023|90013|50059)\b",
        "there is no such directory (tenant)",
        "set OAUTH2_TENANT to the directory (tenant) ID",
    ),
    Meaning(
        r"AADSTS(65001|90094|90095|650056|65004)\b",
        "the consent for this application is missing",
        "an administrator grants it in Entra (API permissions, Grant admin consent)",
    ),
    Meaning(
        r"AADSTS(70011|1002012|28003)\b",
        "the scope is wrong",
        "client_credentials wants https://outlook.office365.com/.default; leave OAUTH2_SCOPE out",
    ),
    Meaning(
        r"AADSTS(500011|650057)\b",
        "the application does not ask for mail permissions",
        _PERMISSION,
    ),
    Meaning(
        r"AADSTS50011\d?\b", "the redirect address is not registered", "add OAUTH2_REDIRECT_URL to the application"
    ),
    Meaning(
        r"AADSTS(50076|50079|53003|530003|50158|50005)\b",
        "Conditional Access or a second factor is asked for",
        f"{AUTHORIZE} and answer it, exclude this application from the rule, or use client_credentials",
    ),
    Meaning(
        r"AADSTS(50034|50057|50105)\b", "the user is unknown, blocked or not assigned", "look at the user in Entra"
    ),
    # Google's token endpoint.
    Meaning(
        r"Client is unauthorized to retrieve access tokens",
        "the service account may not act for this domain",
        "in the Workspace admin console, API controls, Domain-wide delegation: add the account's client ID with the"
        " scope https://mail.google.com/",
    ),
    Meaning(
        r"Invalid email or User ID|Not a valid email or user ID",
        "there is no such user in the Workspace domain",
        "check OAUTH2_SUBJECT, or BACKEND_IMAP_USER and BACKEND_SMTP_USER",
    ),
    Meaning(r"short-lived token|reasonable timeframe", "the signed statement is out of its time", _CLOCK),
    Meaning(
        r"Token has been expired or revoked",
        "Google's refresh token is no longer valid; those of an application in status Testing live for 7 days only",
        f"publish the application (OAuth consent screen), then {AUTHORIZE}",
    ),
    Meaning(
        r"redirect_uri_mismatch", "the redirect address is not registered", "add OAUTH2_REDIRECT_URL to the client"
    ),
)

GENERAL: tuple[Meaning, ...] = (
    Meaning(
        r"\binvalid_client\b",
        "the provider does not know this application, or its secret is wrong",
        "check OAUTH2_CLIENT_ID and OAUTH2_CLIENT_SECRET (and OAUTH2_CLIENT_AUTH)",
    ),
    Meaning(r"\binvalid_grant\b", "the refresh token or the consent is no longer valid", AUTHORIZE),
    Meaning(r"\binvalid_scope\b", "the provider does not know the scope", "check OAUTH2_SCOPE"),
    Meaning(
        r"\bunauthorized_client\b",
        "the application may not use this grant",
        "allow it where the application is registered, or choose another OAUTH2_GRANT",
    ),
    Meaning(r"\bunsupported_grant_type\b", "the provider does not know this grant", "check OAUTH2_GRANT"),
    Meaning(r"\baccess_denied\b", "the consent was refused", AUTHORIZE),
    Meaning(r"\bexpired_token\b", "nobody consented in time", AUTHORIZE),
)
"""The error codes that RFC 6749 §5.2 and RFC 8628 §3.5 define for all providers; they say little."""

TABLE = _PROVIDERS + GENERAL
"""In order: the first row that fits counts."""


def meaning_of(text: str) -> Meaning | None:
    """What the text of a refusal means, if that is known."""
    return first_fitting(TABLE, text)


def first_fitting(table: tuple[Meaning, ...], text: str) -> Meaning | None:
    """The first row of ``table`` whose pattern is found in ``text``."""
    return next((row for row in table if re.search(row.pattern, text, re.IGNORECASE | re.DOTALL)), None)


def explained(failure: Failure, text: str) -> Finding | None:
    """The finding for ``failure``: ``text`` (what happened) with advice; ``None`` if the leg's own has to do."""
    if failure.advice:
        return Finding(Level.BAD, text, failure.advice)
    if isinstance(failure, NoCredentials):
        text, _, advice = failure.detail.partition(" -> ")
        return Finding(Level.BAD, f"nothing to log in with: {text}", advice or f"look at {failure.look_at}")
    if isinstance(failure, CredentialsRefused) and (meaning := meaning_of(failure.detail)):
        return Finding(Level.BAD, f"{text}: {meaning.words}", meaning.advice)
    return None
