"""The built-in filters keep the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from legacy_email_proxy.contracts import Filter
from legacy_email_proxy.testing import FilterSuite, context_for
from legacy_email_proxy_plugins.filters import SenderFilter


class TestSenderFilter(FilterSuite):
    @pytest.fixture
    async def mail_filter(self, tmp_path: Path) -> Filter:
        variables = {"SMTP_SENDER": "one@example.test", "SMTP_SENDER_REPLY_TO": "true"}
        return SenderFilter(context_for(SenderFilter, tmp_path, **variables))
