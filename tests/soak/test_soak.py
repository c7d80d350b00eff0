"""Half a minute of the soak: everything dies at least once, and every message is accounted for.

It wants the machine for a minute: ``SOAK_TESTS=1`` asks for it, and ``.ci/run`` has a step for it. What grows slowly
is seen in a long run only.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from soak.run import Soak

pytestmark = pytest.mark.skipif(os.environ.get("SOAK_TESTS") != "1", reason="it takes a minute: set SOAK_TESTS=1")


@pytest.mark.timeout(500)
def test_every_message_is_accounted_for(tmp_path: Path) -> None:
    report = Soak(0.5, seed=1, folder=tmp_path).run()
    assert not report.faults, f"\n{report}"
