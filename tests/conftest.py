"""What all tests share: one event loop implementation, the real servers, and no noise between tests."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from legacy_email_proxy.event_loop import loop_options

# An example that takes its time on a busy machine is no fault of what is tested.
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")

# Where CI is set, pytest compares what differs to the last octet: minutes and gigabytes for two large messages.
if os.environ.pop("CI", "").strip().lower() in {"1", "true", "yes", "on"}:
    os.environ["NOTHING_MAY_BE_MISSING"] = "1"
os.environ.pop("BUILD_NUMBER", None)

pytest_plugins = ["realservers.fixtures", "blocking"]


# All tests run in this loop, and the commands that they start read the same variable.
LOOP = os.environ.setdefault("EVENT_LOOP", "asyncio")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if os.environ.get("LONG_TESTS") == "no" and item.get_closest_marker("long"):
        pytest.skip("LONG_TESTS=no: in CI these run under some of the Pythons only")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """aiosmtpd speaks asyncio only, so nothing else is ever run: its own loop, or uvloop with ``EVENT_LOOP=uvloop``."""
    return "asyncio", loop_options(LOOP)


@pytest.fixture(scope="session", autouse=True)
def no_state_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A service without ``STATE_DIR`` must not write into the state folder of whoever runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def every_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """Our own loggers at debug, so that a test can look for what must, or must not, be logged."""
    caplog.set_level(logging.DEBUG, logger="legacy_email_proxy")


@pytest.fixture
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of one connection: the first is for an event loop, the second for the test."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs
