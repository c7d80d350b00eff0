"""What the providers' commonest refusals mean and what to do about them: one table, for ``check`` and the log.

It is read by both backend plugins, for what a mail server said to a login, and by ``oauth2``, for what a token endpoint
said. The words are the providers' own, as they are seen in the wild; they change without notice, so the table only ever
adds advice to a text, which is always shown as well.

A second table has the 5yz of SMTP servers that are no verdict on a message: they say that the account may send no more
today, or that the server does not take us. Of what is missing in it a message dies, and its sender is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ("AUTHORIZE", "GENERAL", "NOT_ABOUT_THE_MESSAGE", "TABLE", "Meaning", "meaning_of", "not_about_the_message")


@dataclass(frozen=True, slots=True)
class Meaning:
    """``pattern`` is looked for in what the provider said, without regard to case. ``source``: where it can be read."""

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
"""Of use only where a person has consented; whoever knows that nobody has replaces it."""
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
"""What RFC 6749 §5.2 and RFC 8628 §3.5 have for all providers: the bare codes, which say little."""

TABLE = _PROVIDERS + GENERAL
"""In order: the first row that fits counts."""


def meaning_of(text: str) -> Meaning | None:
    """What the text of a refusal means, if that is known."""
    return _first(TABLE, text)


def _first(table: tuple[Meaning, ...], text: str) -> Meaning | None:
    return next((row for row in table if re.search(row.pattern, text, re.IGNORECASE | re.DOTALL)), None)


_LIMIT = "the account has sent as much as its provider allows for now"
_WAIT = "it passes by itself; if that is not enough, ask the provider for more, or set BACKEND_SMTP_MESSAGES_PER_MINUTE"
_BLOCKED = "the provider has stopped this account's mail, as it took it for spam"
_UNBLOCK = "see why, then have the account unblocked by your administrator or the provider"
_NO_LOGIN = "the server wants a login before it takes mail"
_SET_LOGIN = "set BACKEND_SMTP_USER and BACKEND_SMTP_PASS, and see that the port is the one for mail programs"
_OFTEN = (
    r"(?:hourly|daily|monthly|per[- ](?:hour|day|month)|24[- ]hour|sending|send|outgoing|outbound|submission|relay)"
)

NOT_ABOUT_THE_MESSAGE: tuple[Meaning, ...] = (
    # The account's own limit.
    Meaning(
        r"\b5\.4\.5\b.{0,80}(limit|quota|exceeded)|Email quota exceeded|Daily SMTP relay limit",
        _LIMIT, _WAIT, "Google: support.google.com/a/answer/3726730, …/166852; mailhostbox (Domain Sending Quota)",
    ),
    Meaning(
        r"\b5\.1\.90\b|\b5\.7\.23[23]\b|\b5\.2\.121\b|submission ?quota ?exceeded|exceeded its daily limit",
        _LIMIT, _WAIT, "Microsoft: learn.microsoft.com, Email non-delivery reports in Exchange Online",
    ),
    Meaning(
        r"unusual sending activity|mail rate exceeded limit",
        _LIMIT, _WAIT, "Zoho: help.zoho.com, 550 5.4.6 Unusual sending activity detected",
    ),
    Meaning(
        r"your mail limit has been reached|mail send limit exceeded",
        _LIMIT, _WAIT, "StartMail: support.startmail.com, Gesendet/empfangen-Limit; IONOS: mass mailing limits",
    ),
    Meaning(
        r"throttling failure|maximum credits exceeded|(daily message|message count) quota exceeded|over message quota",
        _LIMIT, _WAIT, "Amazon SES: docs.aws.amazon.com, manage-sending-quotas-errors; SendGrid; AuthSMTP; aditsystems",
    ),
    Meaning(
        r"exceeded the max (emails|defers and failures) per hour|number of allowed outgoing messages was exceeded",
        _LIMIT, _WAIT, "cPanel: forums.cpanel.net 703725; Plesk: outgoing mail control",
    ),
    Meaning(
        r"SEND\w{0,3}QUOTA_REJECTION|sender quota exceeded|number (of )?(messages|recipients) per hour exceeded"
        r"|too many (messages|recipients) from sender|exceeded your \S{0,20} ?quota|you are sending too fast",
        _LIMIT, _WAIT, "Postfix policy daemons: policyd (Cluebringer) Quotas, postfwd; DreamHost; Prolateral outMail",
    ),
    # Any that says so in its own words; a message's size or a full mailbox is none of them.
    Meaning(
        rf"\b{_OFTEN}\W(?:\w+\W){{0,4}}(?:limit|quota|threshold|rate)s?\b[^.]{{0,60}}(?:exceed|reach)"
        rf"|(?:exceed|reach)\w{{0,3}}\W(?:\w+\W){{0,4}}{_OFTEN}\W(?:\w+\W){{0,4}}(?:limit|quota|threshold|rate)s?\b",
        _LIMIT, _WAIT, "Yahoo, iCloud, Fastmail, OVH, Hostinger and others: their help pages name limits but no text",
    ),
    # The account is blocked as a whole.
    Meaning(
        r"bad outbound sender|tenant has exceeded threshold|banned sender|spam abuse detected|verdict is Suspend",
        _BLOCKED, _UNBLOCK, "Microsoft: as above, 5.1.8, 5.7.501 to 503, 5.7.705; Outlook.com's OutboundSpamException",
    ),
    # The server does not take us, whatever we send.
    Meaning(
        r"helo command rejected|\b5\.7\.506\b",
        "the server does not like the name with which the proxy greets it",
        "set BACKEND_SMTP_EHLO_NAME to this machine's full name",
        "Postfix: postconf(5), smtpd_helo_restrictions; Microsoft: 5.7.506 Access Denied, Bad HELO",
    ),
    Meaning(
        r"client host rejected|traffic not accepted from this IP|\b5\.7\.708\b",
        "the server takes no mail from this machine's address",
        "ask the provider which server and port a mail program has to use",
        "Postfix: postconf(5), smtpd_client_restrictions; Microsoft: 5.7.708",
    ),
    Meaning(
        r"authentication (is )?required|requires (SMTP )?authentication|auth(enticate)? first"
        r"|(relay|send)\b.{0,60}\bwithout authentication|client was not authenticated|turn on SMTP authentication",
        _NO_LOGIN, _SET_LOGIN, "MailEnable (503), qmail's patches (503), Exim as cPanel has it (550)",
    ),
)  # fmt: skip
"""For the 5yz that answers MAIL, RCPT or content. In order: the first row that fits counts."""

_LOOKED_AT = 2000


def not_about_the_message(text: str) -> Meaning | None:
    """Why this 5yz of an SMTP server is no verdict on the message, if it is known to be none."""
    return _first(NOT_ABOUT_THE_MESSAGE, text[:_LOOKED_AT])
