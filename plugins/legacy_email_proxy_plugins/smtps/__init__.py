"""The relay ``smtps``: passes mail on through an authenticated SMTP server, over verified TLS.

``relay`` fulfils the contract, ``pool`` keeps connections, ``connection`` leads the dialogue on one, ``wire`` moves the
octets; ``dialogue`` and ``content`` are the protocol without I/O, ``login`` the octets of AUTH and the pause after a
refused password, ``probe`` what ``check`` says.
"""

from __future__ import annotations

from .pool import Limits
from .relay import SMTPSRelay
from .timeouts import Timeouts

__all__ = ("Limits", "SMTPSRelay", "Timeouts")
