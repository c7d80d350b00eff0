"""An SMTP session and the decoder of content without a socket, for tests that give octets piece by piece."""

from __future__ import annotations

import asyncio
from typing import Any

from legacy_email_proxy.smtp.aiosmtpd_adapter import SMTPProtocol
from legacy_email_proxy.smtp.content import DataDecoder


class Wire(asyncio.Transport):
    """A connection without a socket: what the session says stands in ``said``."""

    def __init__(self, protocol: SMTPProtocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.said = b""
        self.protocol = protocol
        protocol.connection_made(self)

    def write(self, octets: Any) -> None:
        self.said += octets

    def is_closing(self) -> bool:
        return self.protocol.transport is None

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        if self.protocol.transport is not None:
            self.protocol.connection_lost(None)

    abort = close

    async def send(self, octets: bytes) -> None:
        """Send, and wait until the session wants more."""
        self.protocol.data_received(octets)
        while (waiter := self.protocol.incoming._waiter) is None or waiter.done():  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0)


def decoded(decoder: DataDecoder, pieces: list[bytes]) -> tuple[bytes, bytes, bool]:
    """The content, what follows it, and whether it has ended."""
    content = rest = b""
    for piece in pieces:
        if decoder.ended:
            rest += piece
        else:
            content += decoder.feed(piece)
            rest = decoder.rest
    return content, rest, decoder.ended
