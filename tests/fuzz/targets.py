"""All targets by name, and what is kept of what was found."""

from __future__ import annotations

from pathlib import Path

from fuzz import clients, files, messages, servers
from fuzz.target import Target

__all__ = ("CORPUS", "TARGETS")

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each target; a file is one input."""

TARGETS: dict[str, Target] = {**clients.TARGETS, **servers.TARGETS, **messages.TARGETS, **files.TARGETS}
