"""What a backend's refusal is about: the message and its addresses, or the account, the server or our commands.

After a 5yz a device deletes its message, and the spool gives it up. That is right only if the message or one of its
addresses is the cause. Servers also answer 5yz when the account may send no more today, when they do not take mail
from this machine, or when they do not understand a command of ours. These become temporary here (451), so the message
is kept and sent later. A text that is missing in the table counts as a verdict: the message is lost and its sender is
told.
"""

from __future__ import annotations

import re

from legacy_email_proxy.contracts import Refused

from ..findings import Meaning, first_fitting

__all__ = ("NOT_ABOUT_THE_MESSAGE", "setting_for", "verdict")

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
"""For a 5yz in answer to MAIL, RCPT or content. The first row that fits counts."""

_SEARCHED_CHARACTERS = 2000
"""Refusals are shorter than this. The patterns are not run over longer text, which would cost time."""

_NOT_UNDERSTOOD = frozenset(range(500, 505))
_LINE_TOO_LONG = re.compile(r"line too long|lines? (?:is|are) too long|line length|long lines?\b", re.IGNORECASE)


def verdict(code: int, enhanced: str, text: str, detail: str, *, named: bool) -> Refused:
    """What a 4yz or 5yz means. ``named``: it answers a command with an address, or the end of a message; then 500 to
    504 are about that ("501 5.1.3 Bad recipient address syntax"). Otherwise they are about a command of ours.

    A refusal that is not about the message becomes a 451, with the backend's words.
    """
    if code >= 500 and (meaning := _not_about_the_message(f"{code} {enhanced} {text}")):
        why = f"{meaning.words}, so this is no verdict; {meaning.advice}"
        return _temporary(enhanced, text, f"{detail.rstrip('.')}: {why}")
    if code in _NOT_UNDERSTOOD and not named:
        return _temporary(enhanced, text, f"{detail}, which is about our command and no verdict on the message")
    refused = Refused(code, enhanced, text, detail=detail)
    refused.look_at = setting_for(text)
    return refused


def _not_about_the_message(text: str) -> Meaning | None:
    return first_fitting(NOT_ABOUT_THE_MESSAGE, text[:_SEARCHED_CHARACTERS])


def setting_for(text: str) -> str:
    """The setting that may help against what the backend said, or ``""``."""
    return "SMTP_LONG_LINES" if _LINE_TOO_LONG.search(text) else ""


def _temporary(enhanced: str, text: str, detail: str) -> Refused:
    return Refused(451, f"4{enhanced[1:]}" if enhanced else "", text, detail=detail)
