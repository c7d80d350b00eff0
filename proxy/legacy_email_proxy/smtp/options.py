"""What all sessions of the SMTP leg share: limits, deadlines, and what devices are offered."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from ..access import Admission, Network
from .authentication import LOGIN_DELAY_SECONDS, Verifier
from .reading import Patience

__all__ = ("SessionOptions",)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What all sessions share. Without ``tls``, which is asked for each handshake's context, there is no STARTTLS,
    without a ``verifier`` no AUTH.
    """

    hostname: str
    max_octets: int
    patience: Patience
    admission: Admission
    lf_end_networks: tuple[Network, ...] = ()
    tls: Callable[[], ssl.SSLContext] | None = None
    verifier: Verifier | None = None
    login_delay_seconds: float = LOGIN_DELAY_SECONDS
