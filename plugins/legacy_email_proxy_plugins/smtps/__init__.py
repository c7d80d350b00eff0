"""The relay ``smtps``: passes mail on through an authenticated SMTP server, over verified TLS.

``relay`` fulfils the contract, ``pool`` keeps connections. On a ``connection``, ``connecting`` leads the dialogue up to
the login, ``transaction`` that of one message; ``transport`` moves the octets. ``protocol`` and ``verdicts`` are the
protocol without I/O, ``sasl_login`` the octets of AUTH, ``probe`` what ``check`` says.
"""

from __future__ import annotations

from .pool import Limits
from .relay import SMTPSRelay
from .settings import Timeouts

__all__ = ("Limits", "SMTPSRelay", "Timeouts")
