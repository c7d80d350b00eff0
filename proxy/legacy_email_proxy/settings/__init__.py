"""The environment variables: declared in ``table``, read by ``reader``; ``providers`` knows the mail providers."""

from __future__ import annotations

from .providers import PROFILES
from .reader import Layer, Settings, networks, read, unknown_variables
from .table import PROCESS_WIDE, TABLE

__all__ = ("PROCESS_WIDE", "PROFILES", "TABLE", "Layer", "Settings", "networks", "read", "unknown_variables")
