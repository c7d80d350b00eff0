"""Whether the process runs in a container, where ``localhost`` and the gateway mean something else."""

from __future__ import annotations

from pathlib import Path

__all__ = ("MARKS", "in_container")

MARKS = ("/run/.containerenv", "/.dockerenv")
"""Files that podman and docker put into each container."""


def in_container(marks: tuple[str, ...] = MARKS) -> bool:
    """Whether this process runs in a container of podman's or docker's."""
    return any(Path(mark).exists() for mark in marks)
