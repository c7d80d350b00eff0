"""Filters: change the envelope and header of devices' messages as a provider requires."""

from __future__ import annotations

from .sender import SenderFilter

__all__ = ("SenderFilter",)
