"""Every fault has to end well in each dialogue that there is."""

from __future__ import annotations

from typing import cast

import pytest

from smtps.support import DIALOGUES, Dialogue


@pytest.fixture(params=DIALOGUES, ids=[each.name for each in DIALOGUES])
def dialogue(request: pytest.FixtureRequest) -> Dialogue:
    """What the backend offers, and whether the device pipelines."""
    return cast(Dialogue, request.param)
