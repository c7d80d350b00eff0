"""Attacks with small numbers; one that takes an honest client's service away fails.

They measure seconds, so they want a machine for themselves: ``ABUSE_TESTS=1`` asks for them, and ``.ci/run`` gives them
a step of their own.
"""

from __future__ import annotations

import os

import pytest

from abuse.attacks import ATTACKS
from abuse.measure import table
from abuse.run import attacked

pytestmark = pytest.mark.skipif(
    os.environ.get("ABUSE_TESTS") != "1", reason="it measures seconds, on a quiet machine: set ABUSE_TESTS=1 for it"
)

NOT_MENDED: frozenset[str] = frozenset()
"""What still takes service away. ``python tests/abuse/run.py`` runs these too and says so."""


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in NOT_MENDED])
def test_an_honest_client_is_served_beside(name: str) -> None:
    row = attacked(name, small=True)
    if row.faults:  # once more: a machine that does ten other things may have been it
        row = attacked(name, small=True)
    assert row.verdict == "ok", f"\n{table([row])}"
