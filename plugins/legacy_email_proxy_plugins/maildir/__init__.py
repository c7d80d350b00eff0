"""A Maildir instead of a provider: ``RELAY_PLUGIN=maildir`` writes to one, ``MAILDROP_PLUGIN=maildir`` reads one.

The layout is https://cr.yp.to/proto/maildir.html with the sizes of Maildir++ in the file names; other mail programs
may use the same folder at the same time.
"""

from __future__ import annotations

from .maildrop import MaildirMaildrop
from .relay import MaildirRelay

__all__ = ("MaildirMaildrop", "MaildirRelay")
