"""The content of one message as the device sends it: its octets are counted, and bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ..contracts import normalised
from ..replies import SMTP, refusal

__all__ = ("Measured",)


class Measured:
    """``content`` in pieces, until there are more than ``limit`` octets: then iterating raises :class:`Refused`.

    Our own session gives an asynchronous iterator; a stock aiosmtpd one gives bytes, or ``str`` if it was told so.
    """

    def __init__(self, content: Any, limit: int) -> None:
        self._pieces = _pieces(content)
        self._limit = limit
        self.octets = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces)
        self.octets += len(piece)
        if self.octets > self._limit:
            raise refusal(SMTP.TOO_BIG, f"over {self._limit} octets")
        return piece


def _pieces(content: Any) -> AsyncIterator[bytes]:
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    if isinstance(content, bytes):
        return _whole(content)
    pieces: AsyncIterator[bytes] = content
    return pieces


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield normalised(content)
