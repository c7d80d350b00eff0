"""Sending: sendMail, drafts, attachments and upload sessions."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fakes.graph.mailbox import Attachment, Item, Sent, recipients_of
from fakes.graph.state import Refusal, State, header, json_of, mime_of
from fakes.graph.web import Request, Response

__all__ = ("Sending",)

LEAST_SESSION_OCTETS = 3 * 1024 * 1024
"""[doc] outlook-large-attachments: under 3 MB one POST, from there a session."""
RANGE_OCTETS = 4 * 1024 * 1024
MOST_RECIPIENTS = 500
"""[doc] resources/message: 500 recipients of a message."""


@dataclass
class _Session:
    item: Item
    properties: Mapping[str, Any]
    octets: bytearray = field(default_factory=bytearray)
    received: int = 0
    digests: list[str] = field(default_factory=list)


class Sending(State):
    """What gives a message away."""

    _sessions: dict[str, _Session]

    def _do_sendMail(self, request: Request, user: str) -> Response:
        if request.headers.get("content-type", "").startswith("text/plain"):
            mime = mime_of(request)
            self._check_sender(header(mime, "from"))
            recipients = self._checked(recipients_of(mime))
            self.mailbox.sent.append(Sent(recipients, mime))
            # [doc] user-sendmail: saved in Sent Items; for MIME that can not be switched off (graph-docs 18698).
            self.mailbox.add(mime, "sentitems")
        else:
            asked = json_of(request)
            sent = self._sent_json(asked["message"], ())
            self.mailbox.sent.append(sent)
            if str(asked.get("saveToSentItems", True)).lower() != "false":
                self.mailbox.add(b"", "sentitems", message=asked["message"])
        return Response(202)

    def _check_sender(self, sender: str) -> None:
        """[doc] outlook-send-mail-from-other-user: without the right to it another sender is refused."""
        if sender and sender.lower() not in {address.lower() for address in self.send_as}:
            text = "The user account which was used to submit this request does not have the right to send mail on"
            raise Refusal(403, "ErrorSendAsDenied", f"{text} behalf of the specified sending account.")

    def _checked(self, recipients: tuple[str, ...] | None) -> tuple[str, ...]:
        # SMTP2Graph issue 30: a field without an address is refused.
        if not recipients or any("@" not in address for address in recipients):
            raise Refusal(400, "ErrorInvalidRecipients", "At least one recipient is not valid.")
        if len(recipients) > MOST_RECIPIENTS:
            raise Refusal(400, "ErrorInvalidRecipients", "There are too many recipients.")
        return recipients

    def _sent_json(self, message: Mapping[str, Any], attachments: tuple[Attachment, ...]) -> Sent:
        sender = message.get("from", {}).get("emailAddress", {}).get("address", "")
        self._check_sender(sender)
        fields = ("toRecipients", "ccRecipients", "bccRecipients")
        recipients = [each["emailAddress"]["address"] for name in fields for each in message.get(name, [])]
        return Sent(self._checked(tuple(recipients)), None, message, attachments)

    def _do_draft(self, request: Request, user: str) -> Response:
        """[doc] user-post-messages: 201 with the draft, from JSON or from MIME."""
        if request.headers.get("content-type", "").startswith("text/plain"):
            item = self.mailbox.add(mime_of(request), "drafts", is_draft=True)
        else:
            item = self.mailbox.add(b"", "drafts", is_draft=True, message=json_of(request))
            for header in item.message.get("internetMessageHeaders", []):
                # [doc] resources/internetMessageHeader: own headers begin with x-.
                if not header["name"].lower().startswith("x-"):
                    raise Refusal(400, "InvalidInternetMessageHeader", "The name has to begin with 'x-'.")
        return Response(201, self._shown(item, request))

    def _do_attach(self, request: Request, user: str, identifier: str) -> Response:
        """[doc] message-post-attachments: 201, for files under 3 MB."""
        item, given = self._draft(identifier), json_of(request)
        if given.get("@odata.type") != "#microsoft.graph.fileAttachment" or not given.get("name"):
            raise Refusal(400, "ErrorInvalidRequest", "An attachment has a type and a name.")
        octets = base64.b64decode(given["contentBytes"], validate=True)
        properties = {name: value for name, value in given.items() if name != "contentBytes"}
        item.attachments.append(Attachment(given["name"], octets, len(octets), "", properties))
        return Response(201, {"id": f"attachment-{len(item.attachments)}", "name": given["name"]})

    def _do_session(self, request: Request, user: str, identifier: str) -> Response:
        """[doc] attachment-createuploadsession: 201 with an address that needs no token."""
        given = {name.lower(): value for name, value in json_of(request).items()}  # OData takes no notice of case here
        item, asked = self._draft(identifier), given["attachmentitem"]
        if asked["attachmentType"] not in ("file", 0) or not asked["name"]:
            raise Refusal(400, "ErrorInvalidRequest", "An attachment has a type and a name.")
        if asked["size"] < LEAST_SESSION_OCTETS:  # ms-365-mcp-server PR 642
            code = "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize"
            raise Refusal(400, code, "Attachment size should be greater than the minimum size of 3 MB.")
        if asked["size"] > 150 * 1024 * 1024 or asked["size"] > self.message_octets:
            raise Refusal(413, "ErrorMessageSizeExceeded", "The message exceeds the maximum supported size.")
        number = f"session-{len(self._sessions) + 1}"
        self._sessions[number] = _Session(item, asked)
        url = f"https://localhost:{self.port}/api/v2.0/{number}?authtoken=secret-{number}"
        return Response(
            201, {"uploadUrl": url, "expirationDateTime": "2099-01-01T00:00:00Z", "nextExpectedRanges": ["0-"]}
        )

    def _opened(self, request: Request, number: str) -> _Session:
        session = self._sessions.get(number)
        if session is None or request.query.get("authtoken") != f"secret-{number}":
            raise Refusal(404, "ErrorItemNotFound", "There is no such session.")
        return session

    def _do_upload_status(self, request: Request, number: str) -> Response:
        """[doc] outlook-large-attachments, step 3: where to go on after a break."""
        return Response(200, {"nextExpectedRanges": [str(self._opened(request, number).received)]})

    def _do_upload(self, request: Request, number: str) -> Response:
        """[doc] outlook-large-attachments, step 2: octets in order, without Authorization; 201 after the last."""
        session = self._opened(request, number)
        assert "authorization" not in request.headers, "the address is authenticated by itself"
        assert request.headers["content-type"] == "application/octet-stream"
        given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", request.headers["content-range"])
        assert given is not None
        first, last, total = map(int, given.groups())
        assert total == session.properties["size"]
        assert last - first + 1 == request.body.length
        if request.body.length > RANGE_OCTETS:
            raise Refusal(413, "RequestEntityTooLarge", "A range has at most 4 MB.")
        if first != session.received:
            raise Refusal(416, "InvalidRange", "The range is not the one that is expected next.")
        session.received = last + 1
        session.octets += request.body.octets
        session.digests.append(request.body.sha256)
        if session.received < total:
            return Response(200, {"nextExpectedRanges": [str(session.received)]})
        attachment = Attachment(session.properties["name"], bytes(session.octets), total, "", session.properties)
        session.item.attachments.append(attachment)
        return Response(201, None, {"Location": f"https://localhost:{self.port}/api/v2.0/Attachments('{number}')"})

    def _do_send(self, request: Request, user: str, identifier: str) -> Response:
        """[doc] message-send: 202; the message moves to Sent Items and keeps its immutable id."""
        item = self._draft(identifier)
        octets = sum(each.length for each in item.attachments) * 4 // 3 + len(item.mime)
        if octets > self.message_octets:
            raise Refusal(413, "ErrorMessageSizeExceeded", "The message exceeds the maximum supported size.")
        if item.mime:
            self._check_sender(header(item.mime, "from"))
            sent = Sent(self._checked(recipients_of(item.mime)), item.mime)
        else:
            sent = self._sent_json(item.message, tuple(item.attachments))
        self.mailbox.sent.append(sent)
        item.is_draft = False
        self._polls[item.number] = self.pending_polls
        self.mailbox.move(item, "sentitems")
        return Response(202)
