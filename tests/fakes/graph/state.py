"""What all of the fake's requests work on: the mailbox, and errors as Graph words them."""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Mapping
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from fakes.graph.mailbox import Item, Mailbox
from fakes.graph.web import Request, Response

__all__ = ("REQUEST_OCTETS", "Refusal", "State", "header", "json_of", "mime_of")

REQUEST_OCTETS = 4 * 1024 * 1024
"""[doc] user-post-messages: a MIME payload over 4 MB gets 413; it counts the base64 (graph-docs issue 13979)."""


class Refusal(Exception):
    """[doc] errors: an error has a code and a message."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code)
        self.response = Response(status, {"error": {"code": code, "message": message}}, headers or {})


class State:
    """The mailbox, and what was set about it."""

    def __init__(self, address: str, send_as: tuple[str, ...], message_octets: int, page: int) -> None:
        self.mailbox = Mailbox(address)
        self.send_as = {address, *send_as}
        self.message_octets = message_octets
        self.page = page
        self.port = 0
        self.permanent_delete = True
        self.delta_has_sizes = True
        self.delta_takes_expand = True
        self.pending_polls = 0
        """How often a message that was sent still shows as a draft."""
        self._polls: Counter[int] = Counter()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/v1.0"

    def _item(self, identifier: str) -> Item:
        item = self.mailbox.find(identifier)
        if item is None:
            raise Refusal(404, "ErrorItemNotFound", "The specified object was not found in the store.")
        return item

    def _draft(self, identifier: str) -> Item:
        item = self._item(identifier)
        if not item.is_draft:
            raise Refusal(400, "ErrorInvalidOperation", "The item is no draft.")
        return item

    def _folder(self, name: str) -> str:
        folder = self.mailbox.folder(name)
        if folder is None:
            raise Refusal(404, "ErrorItemNotFound", "The specified folder could not be found in the store.")
        return folder

    def _shown(self, item: Item, request: Request, *, sized: bool = True) -> dict[str, Any]:
        immutable = 'IdType="ImmutableId"' in request.headers.get("prefer", "")
        shown: dict[str, Any] = {"id": item.immutable_id if immutable else item.mutable_id}
        draft = item.is_draft
        if self._polls[item.number]:
            self._polls[item.number] -= 1
            draft = True
        everything = {
            "receivedDateTime": item.received, "isDraft": draft, "categories": item.categories,
            "parentFolderId": item.folder, "subject": header(item.mime, "subject", "") or item.message.get("subject"),
        }  # fmt: skip
        wanted = request.query.get("$select", "").split(",") if "$select" in request.query else list(everything)
        shown |= {name: everything[name] for name in wanted if name in everything}
        expand = request.query.get("$expand", "")
        # [doc] singlevaluelegacyextendedproperty-get; the tag comes back without leading zeros.
        if re.search(r"singleValueExtendedProperties\(\$filter=id eq 'Integer 0x0E08'\)", expand) and not item.sizeless:
            value = str(len(item.mime) + item.size_error)
            if sized:
                shown["singleValueExtendedProperties"] = [{"id": "Integer 0xe08", "value": value}]
        return shown


def mime_of(request: Request) -> bytes:
    """[doc] user-sendmail: MIME as a base64 string, else 400."""
    if request.body.length > REQUEST_OCTETS:
        raise Refusal(413, "RequestEntityTooLarge", "The request exceeds the maximum size of 4 MB.")
    try:
        mime = base64.b64decode(b"".join(request.body.octets.split()), validate=True)
    except binascii.Error:
        mime = b""
    if not mime:
        raise Refusal(400, "ErrorMimeContentInvalidBase64String", "Invalid base64 string for MIME content.")
    return mime


def json_of(request: Request) -> Any:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Refusal(415, "RequestBodyRead", "A write request without a valid content type was found.")
    if request.body.length > REQUEST_OCTETS + 65536:
        raise Refusal(413, "RequestEntityTooLarge", "The request exceeds the maximum size of 4 MB.")
    return request.json


def header(mime: bytes, name: str, otherwise: str = "") -> str:
    head = message_from_bytes(mime.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", _class=EmailMessage, policy=policy.SMTP)
    value = head[name]
    if value is None:
        return otherwise
    if name == "from":
        return value.addresses[0].addr_spec if value.addresses else "nobody"
    return str(value)
