"""The image, built once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from container.podman import image, require_podman

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def built() -> Iterator[str]:
    """The project's own image."""
    require_podman()
    with image(ROOT, ROOT / "Containerfile") as name:
        yield name
