"""What a form has sent. It is bounded before it is read, as anybody may send anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

from starlette.requests import Request

__all__ = ("Form", "TooLarge", "parsed", "read_form")

MOST_OCTETS = 1 << 20
"""Room for many thousand ticked boxes."""
_MOST_FIELDS = 50_000


class TooLarge(Exception):
    """More than any form of ours sends, or no form at all."""


class Form:
    """The fields of a form, or of an address's query. What is missing is empty."""

    def __init__(self, fields: Mapping[str, Sequence[str]]) -> None:
        self._fields = fields

    def get(self, name: str) -> str:
        """The field's text, without blanks around it."""
        return self._fields.get(name, ("",))[0].strip()

    def all(self, name: str) -> list[str]:
        """The texts of all fields with this name: ticked boxes."""
        return list(self._fields.get(name, ()))

    def exact(self, name: str) -> str:
        """The field's text octet for octet: a password."""
        return self._fields.get(name, ("",))[0]

    def whole(self, name: str) -> int | None:
        """The field as a number from 0 on; ``None`` where it is none."""
        text = self.get(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


async def read_form(request: Request) -> Form:
    """The form in the body. Raises :class:`TooLarge`."""
    octets = bytearray()
    async for piece in request.stream():
        octets += piece
        if len(octets) > MOST_OCTETS:
            raise TooLarge
    return parsed(octets.decode("utf-8", "replace"))


def parsed(text: str) -> Form:
    """Read what ``application/x-www-form-urlencoded`` has. Raises :class:`TooLarge`."""
    try:
        return Form(parse_qs(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="replace"))
    except ValueError:
        raise TooLarge from None
