"""The environment variables: declared in ``table``, each of one of the ``types``, read by ``reader``; ``providers``
knows the mail providers; ``doubts`` has what can be read but looks wrong.
"""

from __future__ import annotations

from .doubts import LEGS, Doubt, Leg, doubts
from .providers import PROFILES
from .reader import Layer, Settings, read, unknown_variables
from .table import ALIASES, PROCESS_WIDE, TABLE
from .types import TYPES, networks, shown

__all__ = (
    "ALIASES",
    "LEGS",
    "PROCESS_WIDE",
    "PROFILES",
    "TABLE",
    "TYPES",
    "Doubt",
    "Layer",
    "Leg",
    "Settings",
    "doubts",
    "networks",
    "read",
    "shown",
    "unknown_variables",
)
