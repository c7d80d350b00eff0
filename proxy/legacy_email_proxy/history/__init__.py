"""What was sent, fetched and refused, kept for some days in ``history.db`` under ``STATE_DIR``: without any content.

It is made of the log's events, so that both tell the same. ``recorder`` writes it, ``queries`` reads it.
"""

from __future__ import annotations

from .recorder import recording

__all__ = ("recording",)
