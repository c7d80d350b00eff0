"""Line ends of a message: what a mail server reads as one is CRLF and nothing else (RFC 5321 §2.3.8)."""

from __future__ import annotations

import io
import re

__all__ = ("MAX_CRS", "normalised")

MAX_CRS = 16
"""So many CRs in front of an LF are one line end with it: what programs send that translate line ends twice.

Of a longer run the last ones are. The number is what a decoder that works piece by piece must hold back.
"""

_ANY_LINE_END = re.compile(rb"\r\n|\r|\n")
_OR_SEVERAL_CRS = re.compile(rb"\r{1,%d}\n|\r|\n" % MAX_CRS)


def normalised(octets: bytes) -> bytes:
    """``octets`` with every line end made into CRLF: a bare CR, a bare LF, and several CRs before an LF.

    The same object where nothing is to be done.
    """
    # Decodes nothing: it is the one scan of the standard library that tells all three line ends apart in one pass.
    line_ends = io.IncrementalNewlineDecoder(None, translate=False)
    line_ends.decode(octets.decode("latin-1"), final=True)
    if line_ends.newlines in (None, "\r\n"):
        return octets
    # The second one takes twice as long, and hardly any device needs it.
    return (_OR_SEVERAL_CRS if b"\r\r\n" in octets else _ANY_LINE_END).sub(b"\r\n", octets)
