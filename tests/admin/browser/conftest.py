"""One Chromium and one running proxy for all tests of this folder.

Playwright's loop runs in the thread of the tests until it is stopped, and no other test could run a loop meanwhile: so
both end with the last test of the folder, and not with the last of all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from admin.browser.world import World, world
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import require

HERE = Path(__file__).parent


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if os.environ.get("BROWSER_TESTS") == "no":
        pytest.skip("BROWSER_TESTS=no: in CI these run under one Python only")
    chromium = require("chromium", "shows the operator's page as a person sees it")
    # As root Chromium can not shut itself in.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=options)
        yield started
        started.close()


@pytest.fixture(scope="package")
def world_behind(
    browser: Browser,
    certificates: Certificates,
    dovecot: Dovecot,
    postfix: Postfix,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    # After the browser: without one nothing else is started.
    with world(certificates, dovecot, postfix, tmp_path_factory.mktemp("browser")) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Playwright runs a test within a callback of its own loop, where the test's own work is no fault of the proxy."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.computes)
