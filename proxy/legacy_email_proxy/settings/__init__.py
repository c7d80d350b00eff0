"""The environment variables: declared in ``table``, each of one of the ``types``, read by ``reader``; ``providers``
knows the mail providers.
"""

from __future__ import annotations

from .providers import PROFILES
from .reader import Layer, Settings, read, unknown_variables
from .table import PROCESS_WIDE, TABLE
from .types import TYPES, networks, shown

__all__ = (
    "PROCESS_WIDE",
    "PROFILES",
    "TABLE",
    "TYPES",
    "Layer",
    "Settings",
    "networks",
    "read",
    "shown",
    "unknown_variables",
)
