"""Settings that can be read but look wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from legacy_email_proxy.settings import doubts, read

_GOOD = {"BACKEND_IMAP_HOST": "imap.example", "BACKEND_SMTP_HOST": "smtp.example"}
_STARTTLS_587 = {"BACKEND_SMTP_USE_TLS": "true", "BACKEND_SMTP_PORT": "587"}

CASES = {
    "STARTTLS on the port for TLS": (
        {"BACKEND_SMTP_USE_TLS": "true"}, "BACKEND_SMTP_PORT", "465 is the port for TLS", "set BACKEND_SMTP_PORT=587",
    ),
    "STARTTLS on the port for TLS, by IMAP": (
        {"BACKEND_IMAP_USE_STARTTLS": "true"}, "BACKEND_IMAP_PORT", "993 is the port for", "set BACKEND_IMAP_PORT=143",
    ),
    "TLS on the port for STARTTLS": (
        {"BACKEND_SMTP_PORT": "587"}, "BACKEND_SMTP_PORT", "without TLS on port 587", "set BACKEND_SMTP_USE_TLS=true",
    ),
    "TLS on the port for STARTTLS, by IMAP": (
        {"BACKEND_IMAP_PORT": "143"}, "BACKEND_IMAP_PORT", "on port 143", "set BACKEND_IMAP_USE_STARTTLS=true",
    ),
    "OAuth2 that nothing uses": (
        {"OAUTH2_CLIENT_ID": "x"}, "OAUTH2_CLIENT_ID", "with a password", "set BACKEND_IMAP_CREDENTIALS=oauth2 and",
    ),
    "quotes": ({"BACKEND_IMAP_USER": "'ann'"}, "BACKEND_IMAP_USER", "begins and ends with a quote", "remove them"),
    "quotes of a secret": ({"BACKEND_IMAP_PASS": '"hunter2"'}, "BACKEND_IMAP_PASS", "with a quote", "remove them"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_has_its_own_words(case: str) -> None:
    given, variable, text, advice = CASES[case]
    (doubt,) = doubts(read(_GOOD | given))
    assert doubt.variable == variable
    assert text in doubt.text
    assert advice in doubt.advice
    assert "hunter2" not in str(doubt)


@pytest.mark.parametrize(
    "given",
    [
        {}, _STARTTLS_587, {"PROVIDER": "icloud"}, {"BACKEND_SMTP_PORT": "2525"},
        {"BACKEND_SMTP_PORT": "587", "RELAY_PLUGIN": "none"},
        {"OAUTH2_CLIENT_ID": "x", "BACKEND_SMTP_CREDENTIALS": "oauth2"}, {"PROVIDER": "gmail"},
        {"BACKEND_IMAP_PASS": "'"}, {"BACKEND_IMAP_PASS": "'a\""},
    ],
)  # fmt: skip
def test_what_may_be_meant_is_not_doubted(given: dict[str, str]) -> None:
    assert doubts(read(_GOOD | given)) == []


def test_a_state_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (doubt,) = doubts(read(_GOOD | {"STATE_DIR": str(tmp_path / "file")}))
    assert doubt.variable == "STATE_DIR"
    assert "file is no folder" in doubt.text


def test_a_clock_in_1970() -> None:
    (doubt,) = doubts(read(_GOOD), now=86400.0)
    assert "says 1970-01-02" in doubt.text
    assert "NTP" in doubt.advice
