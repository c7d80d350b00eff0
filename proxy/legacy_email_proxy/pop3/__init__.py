"""The POP3 leg: what a device that fetches mail speaks to.

``wire`` (octets), ``commands`` (lines), ``listing`` (message-numbers), ``session`` (states) and ``requests`` (what it
asks for) do no I/O.
``connection`` is one TCP connection, ``conversation`` one client from greeting to close, ``server`` all of them.
"""

from __future__ import annotations
