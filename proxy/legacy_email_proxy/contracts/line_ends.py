"""Line ends of a message: what a mail server reads as one is CRLF and nothing else (RFC 5321 §2.3.8)."""

from __future__ import annotations

import io
import re

__all__ = ("normalised",)

_ANY_LINE_END = re.compile(rb"\r\n|\r|\n")


def normalised(octets: bytes) -> bytes:
    """``octets`` with every bare CR and bare LF made into CRLF; the same object where there is none."""
    # Decodes nothing: it is the one scan of the standard library that tells all three line ends apart in one pass.
    line_ends = io.IncrementalNewlineDecoder(None, translate=False)
    line_ends.decode(octets.decode("latin-1"), final=True)
    if line_ends.newlines in (None, "\r\n"):
        return octets
    return _ANY_LINE_END.sub(b"\r\n", octets)
