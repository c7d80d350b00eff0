"""Reads the mailboxes in a field such as From, as devices write them: RFC 5322 §3.4, and common deviations.

Names are kept as they are written, quotes and encoded words (RFC 2047) included, so that they can be written again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ("Mailbox", "mailboxes", "phrase")

_QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*"?'
_WHOLLY_QUOTED = re.compile(_QUOTED.removesuffix("?"))
_TOKEN = re.compile(
    rf'{_QUOTED}|=\?[^?<\s]*+\?[^?<\s]*+\?[^?<]*+\?=|<[^">]*+(?:{_QUOTED}[^">]*+)*>?|\[[^\]]*+\]?|\\.|[(),:;]|[^"=<\[\\(),:;]++|.',
    re.DOTALL,
)
# None with an address in it: a mail program that does not decode the word could show that as the author's address.
_ENCODED_WORD = re.compile(r'=\?[^?\s<>@"]*\?[^?\s<>@"]*\?[^?<>@"]*\?=')
_SPECIAL = re.compile(r'[@,;:<>()\[\]\\"]')
_ROUTE = re.compile(r"@[^:]*:")


@dataclass(slots=True)
class Mailbox:
    """One mailbox: ``name``, ready to be written before an address in brackets, and ``address``; each may be ``""``."""

    name: str = ""
    address: str = ""


def mailboxes(value: str) -> list[Mailbox]:
    """The mailboxes in the unfolded ``value`` of a field, those of groups included, in one pass.

    Only a field without any address gives a name alone. A comma in an unquoted name does not end the mailbox.
    """
    found: list[Mailbox] = []
    pending: list[str] = []
    for element in _elements(value):
        mailbox = element.mailbox()
        if mailbox.address:
            mailbox.name = phrase(", ".join(filter(None, (*pending, mailbox.name))))
            found.append(mailbox)
            pending = []
        elif mailbox.name:
            pending.append(mailbox.name)
    return found or ([Mailbox(phrase(", ".join(pending)))] if pending else [])


def phrase(text: str) -> str:
    """``text`` as a name to write before an address: unchanged if that is allowed, else in quotes."""
    if not _SPECIAL.search(_ENCODED_WORD.sub("", text)):
        return text
    if _WHOLLY_QUOTED.fullmatch(text):
        return text
    return '"' + re.sub(r'([\\"])', r"\\\1", text.replace('"', "'")) + '"'


class _Element:
    """The part of the field between two separators."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.comment: list[str] = []
        self.angle: str | None = None

    def mailbox(self) -> Mailbox:
        text = " ".join("".join(self.text).split())
        comment = phrase(re.sub(r"\\(.)", r"\1", " ".join("".join(self.comment).split())))
        if self.angle is not None:
            address = _without_route(self.angle) if self.angle.startswith("@") else self.angle
            return Mailbox(phrase(text) or comment, "".join(address.split()))
        if "@" in text:
            return Mailbox(comment, text.replace(" ", ""))
        return Mailbox(phrase(text) or comment)


def _without_route(address: str) -> str:
    # Search only up to the last colon: after it, each of many "@" would start a search to the end of the text.
    hosts, colon, rest = address.rpartition(":")
    return _ROUTE.sub("", hosts + colon) + rest


def _elements(value: str) -> list[_Element]:
    elements = [_Element()]
    depth = 0
    for lexeme in _TOKEN.findall(value):
        element = elements[-1]
        if lexeme == "(":
            depth += 1
        if depth:
            element.comment.append(lexeme if depth > 1 or lexeme not in "()" else " ")
            depth -= lexeme == ")"
        elif lexeme in (",", ";", ":"):
            if lexeme == ":":
                # The text before a colon is the name of a group, not a mailbox.
                elements.pop()
            elements.append(_Element())
        elif lexeme.startswith("<") and element.angle is None:
            element.angle = lexeme.strip("<>")
        else:
            element.text.append(lexeme)
    return elements
