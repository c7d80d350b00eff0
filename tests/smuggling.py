"""SMTP smuggling (CVE-2023-51764 and its kin): the octets that some server or other takes for the end of a message.

The table is played against the SMTP leg alone (`smtp/test_smuggling.py`) and through the real command to recording
and real backends (`interop/test_smuggling.py`).
"""

from __future__ import annotations

import re
from itertools import product

ENVELOPE = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n"
_ENDS = (b"\n", b"\r", b"\r\n", b"\r\r\n")
SEQUENCES = [
    before + b"." + behind
    for before, behind in product((*_ENDS, b"\r\n\0", b"\n\0"), (*_ENDS, b"\0\r\n", b"\0\n"))
    # With CRLF.CRLF in it a sequence is an end-of-data.
    if not (before.endswith(b"\r\n") and behind == b"\r\n")
]
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


def second(forward_path: str = "victim@example.com") -> bytes:
    """A whole second transaction, to stand behind a sequence; its end-of-data is the true one of the stream."""
    return b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<%b>\r\nDATA\r\nspoof\r\n.\r\n" % forward_path.encode()
