"""The suites tell good plugins from bad ones: whatever breaks a promise fails the test of that promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from contracts import faulty_credentials, faulty_filters, faulty_maildrops, faulty_relays
from interop.proxy import clean_environment
from legacy_email_proxy.testing import CredentialsSuite, FilterSuite, MaildropSuite, RelaySuite

# The first test waits for a whole run of pytest.
pytestmark = pytest.mark.timeout(300)

TESTS = Path(__file__).parents[1]
MODULES = (faulty_relays, faulty_maildrops, faulty_filters, faulty_credentials)
CLASSES = {name: value for module in MODULES for name, value in vars(module).items() if name.startswith("Test")}


@pytest.fixture(scope="module")
def failed() -> dict[str, set[str]]:
    """Class → its tests that failed, told by one run of pytest."""
    # Plain assertions: nobody reads why they failed, and comparing large messages octet by octet takes a minute.
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "--assert=plain"]
    chosen = []
    for name, value in CLASSES.items():
        node = f"{TESTS / 'contracts'}/{value.__module__.rpartition('.')[2]}.py::{name}"
        chosen += [f"{node}::{test}" for test in value.breaks] or [node]
    done = subprocess.run(
        [*command, *chosen],
        cwd=TESTS.parent,
        env=clean_environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, set[str]] = {name: set() for name in CLASSES}
    for name, test in re.findall(r"^FAILED \S+?::(\w+)::(\w+)", done.stdout, re.MULTILINE):
        found[name].add(test)
    assert "ERROR" not in done.stdout, done.stdout
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", CLASSES)
def test_plugin_fails_where_it_breaks_its_promise(failed: dict[str, set[str]], name: str) -> None:
    breaks = set(CLASSES[name].breaks)
    if name.startswith("TestGood"):
        assert failed[name] == set()
    else:
        assert breaks
        assert breaks <= failed[name]


def test_every_promise_has_a_plugin_that_breaks_it() -> None:
    suites = (RelaySuite, MaildropSuite, FilterSuite, CredentialsSuite)
    tests = {name for suite in suites for name in vars(suite) if name.startswith("test_")}
    untried = {"test_an_iterator_that_never_began_is_closed", "test_refused_recipient_leaves_the_others"}
    assert {name for value in CLASSES.values() for name in value.breaks} == tests - untried
