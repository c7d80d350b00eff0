"""The relay ``smtps``: passes mail on through an SMTP server, with a login and over verified TLS.

``relay`` implements the contract, ``pool`` keeps the connections. On a ``connection``, ``connecting`` does all up to
the login and ``transaction`` sends one message; ``transport`` moves the octets. ``protocol`` and ``verdicts`` are the
protocol without I/O, ``sasl_login`` builds the lines of AUTH, ``probe`` makes the findings of ``check``.
"""

from __future__ import annotations

from .pool import Limits
from .relay import SMTPSRelay
from .settings import Timeouts

__all__ = ("Limits", "SMTPSRelay", "Timeouts")
