"""Sends a message that is too large for one request: as a draft, to which the attachments are uploaded one by one.

Graph takes MIME of up to 4 MB in base64 only. A draft is JSON, so the message is taken apart: text, attachments, and of
the header what a draft can hold. A signature over the message does not survive that.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from legacy_email_proxy.contracts import Disconnected

from ..filters.mailboxes import mailboxes
from ..threads import Threads
from .client import Body, Graph, quoted
from .files import Kept, base64_length, base64_of
from .mime import Part, decode, parts, text_of
from .verdicts import GraphRefusal

__all__ = ("Draft",)

SESSION_OCTETS = 3_000_000
"""From here on an attachment is uploaded in parts (outlook-large-attachments)."""
RANGE_OCTETS = 6 * 320 * 1024
"""Of a part. The documentation asks for less than 4 MB; each stands in memory."""
_BODY_OCTETS = 1_000_000
"""A longer text would not fit into the request that makes the draft; it is attached."""
_MOST_HEADERS = 5
_BREAKS = 5
_TOO_SMALL = "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize"
_SIGNED = ("multipart/signed", "multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime")
_PRIORITIES = {"1": "high", "2": "high", "high": "high", "4": "low", "5": "low", "low": "low"}


@dataclass(frozen=True, slots=True)
class Draft:
    """Makes drafts for one mailbox. ``folder`` is where attachments wait for their upload."""

    graph: Graph
    threads: Threads
    folder: Callable[[], Path]
    logger: logging.Logger

    async def fill(self, message: Kept, header: bytes, body_at: int, made: Callable[[str], object]) -> str:
        """Make the draft of a message with this header, whose body begins at ``body_at``; returns its id.

        ``made`` is called with the id as soon as there is a draft, so that it can be removed if this fails later.
        """
        found = await message.run(lambda file: parts(file, header, body_at, message.octets))
        top = message_from_bytes(header)
        text = _main_text(found)
        properties = _properties(top)
        others = [part for part in found if part is not text]
        if text is not None and text.end - text.start <= _BODY_OCTETS:
            kind = "html" if text.type == "text/html" else "text"
            properties["body"] = {"contentType": kind, "content": await self._text(message, text)}
        elif text is not None:
            others.insert(0, text)
        facts: dict[str, object] = {"octets": message.octets, "attachments": len(others)}
        if top.get_content_type() in _SIGNED:
            facts["lost"] = "its signature or encryption, which another program may not verify now"
        self.logger.info("large message taken apart", extra={"facts": facts})
        draft = str((await self.graph.ask("a draft", "POST", "/messages", Body.of_json(properties), good=(201,)))["id"])
        made(draft)
        for number, part in enumerate(others, 1):
            await self._attach(message, draft, part, number)
        return draft

    async def _text(self, message: Kept, part: Part) -> str:
        async with Kept(self.threads, self.folder) as octets:
            await self._decoded(message, part, octets)
            whole = await octets.read(0, octets.octets)
        try:
            return whole.decode(part.charset, "replace")
        except LookupError:
            return whole.decode("utf-8", "replace")

    async def _decoded(self, message: Kept, part: Part, into: Kept) -> None:
        def work(source: IO[bytes]) -> None:
            into.octets = into._run(lambda file: decode(source, part, file), 0)

        await message.run(work)

    async def _attach(self, message: Kept, draft: str, part: Part, number: int) -> None:
        async with Kept(self.threads, self.folder) as octets:
            await self._decoded(message, part, octets)
            described = _described(part, number)
            path = f"/messages/{quoted(draft)}/attachments"
            if octets.octets >= SESSION_OCTETS:
                try:
                    await self._upload(f"{path}/createUploadSession", octets, described)
                except GraphRefusal as refusal:
                    if refusal.code != _TOO_SMALL:
                        raise
                else:
                    return
            body = _attachment(described, octets)
            self.graph.pace.upload(body.length)
            await self.graph.ask("an attachment", "POST", path, body, good=(201,))

    async def _upload(self, path: str, octets: Kept, described: dict[str, Any]) -> None:
        item = {"attachmentType": "file", "size": octets.octets, **described}
        session = await self.graph.ask(
            "an upload session", "POST", path, Body.of_json({"AttachmentItem": item}), good=(200, 201)
        )
        url = str(session["uploadUrl"])
        first = breaks = 0
        while True:
            piece = await octets.read(first, RANGE_OCTETS)
            self.graph.pace.upload(len(piece))
            try:
                answer = await self.graph.put_range(url, piece, first, octets.octets)
            except Disconnected as broken:
                breaks += 1
                if breaks > _BREAKS:
                    raise
                facts = {"octets": first, "of": octets.octets, "cause": str(broken)}
                self.logger.info("upload goes on after a break", extra={"facts": facts})
                answer = await self.graph.next_range(url)
            if answer is None:
                return
            following = _next(answer)
            if not 0 <= following < octets.octets or following < first:
                raise Disconnected(f"{urlsplit(url).hostname} asks for a part of the upload that is none")
            first = following


def _next(answer: Any) -> int:
    ranges = answer.get("nextExpectedRanges")
    found = re.match(r"\d+", str(ranges[0])) if isinstance(ranges, list) and ranges else None
    return int(found[0]) if found else -1


def _main_text(found: list[Part]) -> Part | None:
    """What the reader sees first: the first HTML, or else the first text, of what is no attachment."""
    texts = [part for part in found if not part.attached and part.type in ("text/html", "text/plain")]
    if texts and texts[0].type == "text/plain":
        # The HTML of multipart/alternative comes directly behind the text that it says better.
        place = found.index(texts[0]) + 1
        if place < len(found) and found[place].type == "text/html" and not found[place].attached:
            return found[place]
    return texts[0] if texts else None


def _described(part: Part, number: int) -> dict[str, Any]:
    ending = {"text/plain": "txt", "text/html": "html", "message/rfc822": "eml"}.get(part.type, "dat")
    name = re.sub(r"[\x00-\x1f\x7f]", " ", part.name).strip() or f"attachment-{number}.{ending}"
    described: dict[str, Any] = {"name": name, "contentType": part.type, "isInline": False}
    if part.content_id:
        described |= {"isInline": True, "contentId": part.content_id}
    return described


def _attachment(described: dict[str, Any], octets: Kept) -> Body:
    head = json.dumps({"@odata.type": "#microsoft.graph.fileAttachment", **described, "contentBytes": ""})[:-2].encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield head
        async for piece in base64_of(octets.pieces()):
            yield piece
        yield b'"}'

    return Body("application/json", len(head) + base64_length(octets.octets) + 2, pieces)


def _properties(header: Message) -> dict[str, Any]:
    """What a draft can hold of the header (resources/message)."""
    properties: dict[str, Any] = {"subject": text_of(header.get("Subject", ""))}
    for name, field in (
        ("toRecipients", "To"),
        ("ccRecipients", "Cc"),
        ("bccRecipients", "Bcc"),
        ("replyTo", "Reply-To"),
    ):
        if addresses := _addresses(header, field):
            properties[name] = addresses
    for name, field in (("from", "From"), ("sender", "Sender")):
        if addresses := _addresses(header, field):
            properties[name] = addresses[0]
    if identifier := str(header.get("Message-ID", "")).strip():
        properties["internetMessageId"] = identifier
    priority = str(header.get("Importance") or header.get("X-Priority") or "").strip().lower()[:6].split(" ")[0]
    if priority in _PRIORITIES:
        properties["importance"] = _PRIORITIES[priority]
    # PidTagInReplyToId and PidTagInternetReferences: without them an answer is no part of its conversation.
    known = (("String 0x1042", "In-Reply-To"), ("String 0x1039", "References"))
    if extended := [{"id": tag, "value": _unfolded(header[field])} for tag, field in known if header.get(field)]:
        properties["singleValueExtendedProperties"] = extended
    own = [
        {"name": name, "value": _unfolded(value)[:900]}
        for name, value in header.items()
        if name.lower().startswith("x-") and _unfolded(value)
    ]
    if own:
        # Graph takes five, and only names that begin with x-.
        properties["internetMessageHeaders"] = own[:_MOST_HEADERS]
    return properties


def _unfolded(value: object) -> str:
    return " ".join(str(value).split())


def _addresses(header: Message, field: str) -> list[dict[str, Any]]:
    found = [mailbox for value in header.get_all(field, []) for mailbox in mailboxes(_unfolded(value))]
    return [
        {"emailAddress": {"address": each.address, **({"name": _name(each.name)} if each.name else {})}}
        for each in found
        if each.address
    ]


def _name(phrase: str) -> str:
    """A display name as text, without the quotes of the header."""
    if len(phrase) > 1 and phrase[0] == phrase[-1] == '"':
        phrase = re.sub(r"\\(.)", r"\1", phrase[1:-1])
    return text_of(phrase)
