"""What stops the start, and what is only warned of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from imap.support import LOGGER, context
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy_plugins.imap import IMAPMaildrop

MISTAKES = [
    ({"BACKEND_IMAP_HOST": None}, ["BACKEND_IMAP_HOST"]),
    ({"BACKEND_IMAP_USER": None}, ["BACKEND_IMAP_USER"]),
    ({"BACKEND_IMAP_PASS": None}, ["BACKEND_IMAP_PASS"]),
    (
        {"BACKEND_IMAP_HOST": None, "BACKEND_IMAP_USER": None, "BACKEND_IMAP_PASS": None},
        ["BACKEND_IMAP_HOST", "BACKEND_IMAP_USER", "BACKEND_IMAP_PASS"],
    ),
    ({"BACKEND_IMAP_CA_FILE": Path("/no/such/file")}, ["BACKEND_IMAP_CA_FILE"]),
    (
        {"BACKEND_IMAP_CA_FILE": Path("/no/such/file"), "BACKEND_IMAP_HOST": None},
        ["BACKEND_IMAP_HOST", "BACKEND_IMAP_CA_FILE"],
    ),
    ({"POP3_LOGIN": "backend", "BACKEND_IMAP_USER": None, "BACKEND_IMAP_PASS": None}, []),
    ({"BACKEND_IMAP_USE_SSL": False, "BACKEND_IMAP_CA_FILE": Path("/no/such/file")}, []),
    ({}, []),
]


@pytest.mark.parametrize(("given", "variables"), MISTAKES)
def test_all_mistakes_at_once(given: dict[str, Any], variables: list[str]) -> None:
    lines: tuple[str, ...] = ()
    try:
        IMAPMaildrop(context(**given))
    except SettingsMistake as mistake:
        lines = mistake.lines
    assert [line.partition(":")[0] for line in lines] == variables


@pytest.mark.parametrize(("given", "times"), [({"BACKEND_IMAP_USE_SSL": False}, 1), ({}, 0)])
def test_passwords_in_the_clear_are_warned_of(
    given: dict[str, Any], times: int, caplog: pytest.LogCaptureFixture
) -> None:
    IMAPMaildrop(context(**given))
    warned = [record for record in caplog.records if record.name == LOGGER and "in the clear" in record.message]
    assert [record.levelno for record in warned] == [logging.WARNING] * times
