"""Microsoft 365 by Microsoft Graph, where SMTP AUTH and IMAP are off: ``RELAY_PLUGIN`` and ``MAILDROP_PLUGIN=graph``.

``relay`` sends: ``recipients`` makes the header say what the envelope says, ``files`` keeps the message on disk,
``draft`` and ``mime`` take apart what is too large for one request. ``maildrop`` reads: ``listing`` asks what is there,
``index`` keeps it on disk, ``session`` and ``download`` hand it out, ``deletion`` removes. Both ask by ``client``, with
``pacing`` and ``verdicts``; ``probe`` is for ``check``.
"""

from __future__ import annotations

from .maildrop import GraphMaildrop
from .relay import GraphRelay

__all__ = ("GraphMaildrop", "GraphRelay")
