"""PROVIDER: what a profile gives, and what goes before it."""

from __future__ import annotations

import pytest

from legacy_email_proxy.settings import PROCESS_WIDE, PROFILES, TABLE, Layer, read

NAMES = {setting.name for setting in TABLE}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_sound(name: str) -> None:
    assert set(PROFILES[name]) <= NAMES - PROCESS_WIDE - {"PROVIDER"}
    settings = read({"PROVIDER": name})
    assert settings.mistakes == ()
    for variable, text in PROFILES[name].items():
        assert settings[variable] == read({variable: text})[variable]
        assert settings.origins[variable] == f"profile {name}"
    for implicit, upgrade in (("IMAP_USE_SSL", "IMAP_USE_STARTTLS"), ("SMTP_USE_SSL", "SMTP_USE_TLS")):
        assert settings[f"BACKEND_{implicit}"] is not settings[f"BACKEND_{upgrade}"]


def test_the_environment_goes_before_a_profile() -> None:
    settings = read({"PROVIDER": "gmail", "BACKEND_IMAP_HOST": "localhost", "BACKEND_IMAP_DELETE": "keep"})
    assert (settings["BACKEND_IMAP_HOST"], settings.origins["BACKEND_IMAP_HOST"]) == ("localhost", "environment")
    assert settings["BACKEND_IMAP_DELETE"] == "keep"
    assert settings["BACKEND_SMTP_HOST"] == "smtp.gmail.com"


@pytest.mark.parametrize(
    ("environ", "switched_off", "origin"),
    [
        ({"PROVIDER": "gmail", "BACKEND_SMTP_USE_TLS": "true"}, "BACKEND_SMTP_USE_SSL", "BACKEND_SMTP_USE_TLS"),
        ({"PROVIDER": "icloud", "BACKEND_SMTP_USE_SSL": "true"}, "BACKEND_SMTP_USE_TLS", "BACKEND_SMTP_USE_SSL"),
    ],
)
def test_tls_that_was_set_goes_before_a_profiles(environ: dict[str, str], switched_off: str, origin: str) -> None:
    settings = read(environ)
    assert settings.mistakes == ()
    assert (settings[switched_off], settings.origins[switched_off]) == (False, f"because of {origin}")
    assert settings[origin] is True


def test_no_such_provider() -> None:
    settings = read({"PROVIDER": "gmial"})
    assert len(settings.mistakes) == 1
    assert settings.mistakes[0].startswith("PROVIDER: must be one of: gmail, microsoft365, ")


def test_the_layers_of_an_account() -> None:
    environ = {"PROVIDER": "gmail", "BACKEND_IMAP_PORT": "143", "BACKEND_SMTP_HOST": "mail.example"}
    plain = read(environ, account=Layer({"BACKEND_IMAP_PORT": "1"}, {"BACKEND_IMAP_PORT": "a.toml:3"}))
    assert [plain[f"BACKEND_{name}"] for name in ("IMAP_HOST", "IMAP_PORT", "SMTP_HOST")] == [
        "imap.gmail.com", 1, "mail.example",
    ]  # fmt: skip
    assert plain.origins["BACKEND_IMAP_PORT"] == "a.toml:3"
    # Its own provider goes before the environment: no mail of this account to the host that is named there.
    own = read(environ, account=Layer({"PROVIDER": "yahoo"}, {}))
    assert [own[f"BACKEND_{name}"] for name in ("IMAP_HOST", "IMAP_PORT", "SMTP_HOST")] == [
        "imap.mail.yahoo.com", 993, "smtp.mail.yahoo.com",
    ]  # fmt: skip
