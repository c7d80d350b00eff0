"""What all tests share: one event loop implementation, the real servers, and no noise between tests."""

from __future__ import annotations

import logging

import pytest
from hypothesis import HealthCheck, settings

# An example that takes its time on a busy machine is no fault of what is tested.
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")

pytest_plugins = ["realservers.fixtures", "blocking"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """aiosmtpd speaks asyncio only, so nothing else is ever run."""
    return "asyncio"


@pytest.fixture(autouse=True)
def every_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """Our own loggers at debug, so that a test can look for what must, or must not, be logged."""
    caplog.set_level(logging.DEBUG, logger="legacy_email_proxy")
