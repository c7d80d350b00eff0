"""The environment variables: declared in ``table``, read by ``reader``."""

from __future__ import annotations

from .reader import Settings, read, unknown_variables
from .table import CORE, PLUGIN_SETTINGS, TABLE

__all__ = ("CORE", "PLUGIN_SETTINGS", "TABLE", "Settings", "read", "unknown_variables")
