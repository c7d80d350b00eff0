"""The environment variables: declared in ``table``, read by ``reader``."""

from __future__ import annotations

from .reader import Settings, read, unknown_variables
from .table import TABLE

__all__ = ("TABLE", "Settings", "read", "unknown_variables")
