"""The contract suites: what the core relies on, as tests that plugin authors run on their own plugin.

Subclass :class:`RelaySuite`, :class:`MaildropSuite`, :class:`FilterSuite` or :class:`CredentialsSuite` in a test
module, with a name that begins with ``Test``, and write the fixtures that its docstring names. Needs pytest.
"""

from __future__ import annotations

import pytest

# Before the suites are imported; otherwise a failed assertion would not show its values.
pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in ("credentials", "filter", "maildrop", "relay")))

from .bench import Delivered, context_for  # noqa: E402
from .credentials import CredentialsSuite  # noqa: E402
from .filter import FilterSuite  # noqa: E402
from .maildrop import MaildropSuite  # noqa: E402
from .relay import RelaySuite  # noqa: E402

__all__ = ("CredentialsSuite", "Delivered", "FilterSuite", "MaildropSuite", "RelaySuite", "context_for")
