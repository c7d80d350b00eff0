"""One message on its way to the client: the ``+OK`` that stands before its first octet, and its encoder."""

from __future__ import annotations

from .header_line import HeaderLine
from .wire import ContentEncoder

__all__ = ("Transfer",)


class Transfer:
    """``status`` is the line that comes first, ``b""`` where the reply has begun already."""

    __slots__ = ("_encoder", "_status")

    def __init__(self, encoder: ContentEncoder | HeaderLine, status: bytes = b"") -> None:
        self._encoder = encoder
        self._status = status

    @property
    def begun(self) -> bool:
        """The client has read ``+OK``; only closing the connection tells it now that something went wrong."""
        return not self._status

    @property
    def enough(self) -> bool:
        """Further pieces are not needed."""
        return self.begun and self._encoder.enough

    def take_status(self) -> bytes:
        """The status line, once: it goes out with the first octets, so that a failure before them is an ``-ERR``."""
        status, self._status = self._status, b""
        return status

    def encode(self, piece: bytes) -> bytes:
        """The octets to send for the next piece of the message."""
        return self._encoder.encode(piece)

    def finish(self) -> bytes:
        """The last octets. Until they are sent, the client knows that it hasn't got all of the message."""
        return self._encoder.finish()
