"""Filters: what a provider wants to be changed in the envelope and header of what devices send."""

from __future__ import annotations

from .sender import SenderFilter

__all__ = ("SenderFilter",)
