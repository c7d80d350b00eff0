"""A disk that is really full: a small tmpfs, in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from realservers.processes import require

SCRIPT = Path(__file__).with_name("filling.py")


@pytest.mark.fault("D4")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk(tmp_path: Path) -> None:
    unshare = require("unshare", "gives a test a mount of its own")
    script = f'mount -t tmpfs -o size=3m none "$1" && exec "{sys.executable}" "{SCRIPT}" "$1"'
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", script, "sh", str(tmp_path)],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    if "mount" in done.stderr and "Traceback" not in done.stderr:
        pytest.skip(f"no mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    accepted, refused, arrived = (int(word) for word in done.stdout.split())
    assert accepted == arrived > 3
    assert refused > 3
