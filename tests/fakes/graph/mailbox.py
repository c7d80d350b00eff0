"""The folders and messages of one mailbox, with the two identifiers that Graph gives each message."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

__all__ = ("WELL_KNOWN", "Attachment", "Item", "Mailbox", "Sent", "recipients_of")

WELL_KNOWN = ("inbox", "drafts", "sentitems", "deleteditems", "archive", "junkemail", "outbox")
"""[doc] resources/mailFolder: names that can stand in the place of a folder's id."""

_numbers = itertools.count(1)


@dataclass
class Attachment:
    """A file on a draft; of one whose octets are not kept, the digest."""

    name: str
    octets: bytes
    length: int
    sha256: str
    properties: Mapping[str, Any]


@dataclass
class Item:
    """A message. `size_error` is what the size property is wrong by; `corrupt` spoils each page that has it."""

    mime: bytes
    folder: str
    received: str
    number: int = field(default_factory=lambda: next(_numbers))
    is_draft: bool = False
    message: dict[str, Any] = field(default_factory=dict)
    attachments: list[Attachment] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    size_error: int = 0
    sizeless: bool = False
    corrupt: bool = False
    changed: int = 0

    @property
    def immutable_id(self) -> str:
        # As long as real ones, and with the characters that must be quoted in an address.
        return f"AAkALg{'AAAAAAAHYQDEapmEc2byACqAC' * 4}-EWg0A/+{self.number:08d}="

    @property
    def mutable_id(self) -> str:
        """[doc] outlook-immutable-id: without the Prefer header the id changes when the message is moved."""
        return f"AAMkAGI2{'AAAoZD' * 12}{self.folder}-{self.number:08d}="


@dataclass
class Sent:
    """What was accepted for delivery: MIME as it came, or the draft's properties and its attachments."""

    recipients: tuple[str, ...]
    mime: bytes | None
    message: Mapping[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()

    @property
    def delivered(self) -> bytes:
        """What recipients read: without Bcc (mzhk-repo/smtp2graph-deploy, TEST_PLAN TB-INT-002)."""
        assert self.mime is not None
        return _without(self.mime, b"bcc")


def _without(mime: bytes, name: bytes) -> bytes:
    kept: list[bytes] = []
    lines = mime.splitlines(keepends=True) if mime else []
    dropping = False
    for place, line in enumerate(lines):
        if line in (b"\r\n", b"\n"):
            return b"".join([*kept, *lines[place:]])
        if line[:1] not in b" \t":
            dropping = line.partition(b":")[0].strip().lower() == name
        if not dropping:
            kept.append(line)
    return b"".join(kept)


def recipients_of(mime: bytes) -> tuple[str, ...] | None:
    """The addresses of To, Cc and Bcc: Graph's only envelope. `None` if a field has no address in it."""
    head = b"\r\n" if mime.startswith(b"\r\n") else mime.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    message = message_from_bytes(head, _class=EmailMessage, policy=policy.SMTP)
    found: list[str] = []
    for name in ("to", "cc", "bcc"):
        for value in message.get_all(name, []):
            if not value.addresses:
                return None
            found += [address.addr_spec for address in value.addresses]
    return tuple(found)


class Mailbox:
    """One mailbox. `log` has every change, for delta queries."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.items: list[Item] = []
        self.folders: dict[str, str] = {name: name for name in WELL_KNOWN}
        self.sent: list[Sent] = []
        self.purged: list[Item] = []
        self.log: list[tuple[str, str, Item]] = []
        """Folder, what happened (`here` or `gone`), message."""
        self._minutes = itertools.count()

    def add(self, mime: bytes, folder: str = "inbox", **properties: Any) -> Item:
        minutes = next(self._minutes)
        received = f"2026-11-{1 + minutes // 1440:02d}T{minutes // 60 % 24:02d}:{minutes % 60:02d}:00Z"
        item = Item(mime, folder, received, **properties)
        self.items.append(item)
        self.log.append((folder, "here", item))
        return item

    def held(self, folder: str = "inbox") -> list[Item]:
        return [item for item in self.items if item.folder == folder]

    def move(self, item: Item, folder: str) -> None:
        self.log.append((item.folder, "gone", item))
        item.folder = folder
        self.log.append((folder, "here", item))

    def touch(self, item: Item) -> None:
        item.changed += 1
        self.log.append((item.folder, "here", item))

    def remove(self, item: Item) -> None:
        self.items.remove(item)
        self.purged.append(item)
        self.log.append((item.folder, "gone", item))

    def find(self, identifier: str) -> Item | None:
        """[doc] Either id is taken, whatever the request prefers; ids are case-sensitive."""
        return next((item for item in self.items if identifier in (item.immutable_id, item.mutable_id)), None)

    def folder(self, name: str) -> str | None:
        """[doc] A well-known name in any case, or the id of a folder."""
        if name.lower() in WELL_KNOWN:
            return name.lower()
        return name if name in self.folders else None

    def make_folder(self, display_name: str, parent: str = "") -> str:
        identifier = "AQMk" + base64.urlsafe_b64encode(f"{parent}/{display_name}".encode()).decode()
        self.folders[identifier] = f"{parent}/{display_name}" if parent else display_name
        return identifier

    def children(self, parent: str | None) -> Iterable[tuple[str, str]]:
        """Id and display name of the folders in a folder, or at the top."""
        for identifier, path in self.folders.items():
            above, _, name = path.rpartition("/")
            if above == (parent or ""):
                yield identifier, name
