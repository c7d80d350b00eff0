"""What Graph's errors mean: whether the message, the mailbox or the application is the cause, and what to do.

A device deletes its message after a 5yz, so only errors that name the message, its sender or its recipients are
verdicts. The application's rights and the mailbox's state are ours to mend, and everything that is not in the table is
temporary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from legacy_email_proxy.contracts import Failure, Refused

__all__ = ("GraphRefusal", "Meaning", "is_gone", "meaning_of", "verdict")

PERMISSIONS = (
    "in Entra give the application the permissions Mail.Send and (to read, or to send more than 3 MB) Mail.ReadWrite of"
    " Microsoft Graph and grant admin consent; or, limited to one mailbox, give them by RBAC for Applications, see"
    " proxy/docs/microsoft365.md"
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """``pattern`` is searched in code and message. ``about_us``: any other message would have met it."""

    pattern: str
    words: str
    advice: str
    look_at: str = ""
    about_us: bool = True
    code: int = 0
    """Of the SMTP reply where it is a verdict on the message; 0: it is none."""
    enhanced: str = ""


_MAILBOX = "GRAPH_MAILBOX"
TABLE: tuple[Meaning, ...] = (
    Meaning(
        r"ErrorSendAsDenied",
        "the mailbox may not send as the address in From",
        "set SMTP_SENDER to the mailbox's address, or let the mailbox send as the other one (Add-RecipientPermission"
        " <other> -Trustee <mailbox> -AccessRights SendAs); some report that an @ in From's display name does it, too",
        "SMTP_SENDER", False, 550, "5.7.60",
    ),
    Meaning(
        r"ErrorInvalidRecipients", "an address can not be sent to", "look at To, Cc and Bcc", "", False, 550, "5.1.3"
    ),
    Meaning(
        r"ErrorMessageSizeExceeded|RequestEntityTooLarge|ErrorAttachmentSizeLimitExceeded",
        "the message is larger than the mailbox may send",
        "an administrator can raise the limit: Set-Mailbox <mailbox> -MaxSendSize; or set SMTP_MAX_OCTETS lower",
        "GRAPH_LARGE", False, 552, "5.3.4",
    ),
    Meaning(
        r"ErrorMimeContentInvalid", "Graph can not read the message's MIME", "look at the device's message", "",
        False, 554, "5.6.0",
    ),
    Meaning(
        r"\[RAOP\]|AppOnly AccessPolicy",
        "an application access policy of the organisation does not let the application into this mailbox",
        "an administrator adds the mailbox to the group that the policy names; Test-ApplicationAccessPolicy shows it."
        " A change can take more than an hour",
        _MAILBOX,
    ),
    Meaning(
        r"ErrorAccessDenied|Authorization_RequestDenied|AccessDenied",
        "the application has no right to this mailbox",
        PERMISSIONS,
        "GRAPH_MAILBOX, OAUTH2_CLIENT_ID",
    ),
    Meaning(
        r"MailboxNotEnabledForRESTAPI|MailboxNotSupportedForRESTAPI|ErrorNonExistentMailbox|mailbox is either inactive",
        "there is no such mailbox in Exchange Online: the user has no licence, or it is on the firm's own server",
        "give the user a licence with Exchange Online, or make it a shared mailbox; a new one takes some minutes",
        _MAILBOX,
    ),
    Meaning(
        r"ErrorInvalidUser|Request_ResourceNotFound|ResourceNotFound",
        "there is no such user in this directory (tenant)",
        "is GRAPH_MAILBOX the mailbox's address, and OAUTH2_TENANT the directory that it is in?",
        "GRAPH_MAILBOX, OAUTH2_TENANT",
    ),
    Meaning(
        r"ErrorAccountSuspend|ErrorSubmissionQuota|ErrorMessageSubmissionBlocked|ErrorExceededMessageLimit",
        "Microsoft takes no more mail from this account for now",
        "an administrator looks at the restricted entities in the Defender portal; a daily limit passes by itself",
        _MAILBOX,
    ),
    Meaning(
        r"ErrorQuotaExceeded|ErrorMailboxStoreUnavailable|ErrorMailboxMoveInProgress",
        "the mailbox is full or moves at the moment", "make room: Sent Items counts, see GRAPH_SAVE_TO_SENT", _MAILBOX,
    ),
)  # fmt: skip
"""The first row that fits counts."""


class GraphRefusal(Failure):
    """Graph's answer was an error, and asking again is of no use. Temporary for a device, unless :func:`verdict`
    says otherwise.
    """

    def __init__(self, step: str, status: int, code: str, message: str) -> None:
        meaning = meaning_of(code, message)
        super().__init__(
            f"Microsoft answered {step} with {status} {code}: {message}" + (f": {meaning.words}" if meaning else ""),
            look_at=meaning.look_at if meaning else "",
            advice=meaning.advice if meaning else "",
            about_us=bool(meaning and meaning.about_us),
        )
        self.status = status
        self.code = code
        self.message = message

    @property
    def denied(self) -> bool:
        """Whether a right is missing, and Graph does not say which."""
        return self.status == 403 and self.code != "ErrorSendAsDenied" and "[RAOP]" not in self.message


def meaning_of(code: str, message: str) -> Meaning | None:
    """What is known of an error."""
    said = f"{code} {message}"
    return next((row for row in TABLE if re.search(row.pattern, said, re.IGNORECASE)), None)


def is_gone(refusal: GraphRefusal) -> bool:
    """Whether the message that was asked for is no longer there."""
    return refusal.status == 404 and refusal.code in ("ErrorItemNotFound", "itemNotFound")


def verdict(refusal: GraphRefusal) -> Failure:
    """The refusal of a message as the device reads it; the same where it is no verdict on the message."""
    meaning = meaning_of(refusal.code, refusal.message)
    if refusal.status == 413 and meaning is None:
        meaning = meaning_of("RequestEntityTooLarge", "")
    if meaning is None or not meaning.code:
        return refusal
    text = f"{refusal.code}: {refusal.message}"
    refused = Refused(meaning.code, meaning.enhanced, text, detail=refusal.detail)
    refused.look_at, refused.advice = meaning.look_at, meaning.advice
    return refused
