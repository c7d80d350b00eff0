"""What is said of a refusal leads somewhere: it fits the grant, the proof that was sent, and the address."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fakes.oauth2 import Status
from legacy_email_proxy.contracts import CredentialsRefused, Disconnected, Failure, Level, SettingsMistake
from oauth2.support import IMAP, SECRET, Person, credentials_for, disguises, pair
from oauth2.test_configuration import APP, URL, configuration
from oauth2.test_grants import EC_KEY, RSA_KEY, pem
from oauth2.test_tokens import Clock, keeper_of
from realservers.certificates import Certificates

KEY = {"OAUTH2_CLIENT_KEY": pem(RSA_KEY)}
AUTHORIZE = "legacy-email-proxy authorize"

# error, grant, settings → what is advised
REFUSALS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "a refresh token from elsewhere": (
        "invalid_grant", "refresh_token", {}, "get a new refresh token from where this one came, and set OAUTH2_REFRESH"
    ),
    "the same, in a provider's words": (
        "invalid_grant AADSTS700082", "refresh_token", {}, "not used for 90 days.*set OAUTH2_REFRESH_TOKEN to it"
    ),
    "an application": (
        "invalid_grant", "client_credentials", {"OAUTH2_CLIENT_SECRET": "x"}, "gives this application no token"
    ),
    "an application with a key": ("invalid_client", "client_credentials", KEY, "signed with the key.*clock.*ALGORITHM"),
    "whose key is refused otherwise": ("invalid_grant", "client_credentials", KEY, "signed with the key.*clock.*ALGOR"),
    "a consent with a key": ("invalid_client", "refresh_token", KEY, "signed with the key.*CLIENT_KEY.*clock.*ALGOR"),
    "a service account": ("invalid_grant", "jwt_bearer", KEY, "signed with the key.*OAUTH2_SUBJECT.*clock"),
    "a wrong secret": (
        "invalid_client", "client_credentials", {"OAUTH2_CLIENT_SECRET": "x"}, "check OAUTH2_CLIENT_ID and OAUTH2_CLIEN"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
async def test_advice_for_a_refusal(certificates: Certificates, tmp_path: Path, case: str) -> None:
    said, grant, given, words = REFUSALS[case]
    error, _, description = said.partition(" ")
    answer = Status(400, {"error": error, "error_description": description})
    async with pair(certificates.good, tmp_path, grant, server={"script": {"token": answer}}, **given) as (made, _):
        with pytest.raises(CredentialsRefused, match=words) as raised:
            await made.secret(IMAP)
        assert AUTHORIZE not in str(raised.value)
        if "KEY" in words:
            assert "SECRET" not in str(raised.value)


async def test_where_a_consent_helps_it_is_advised(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "authorization_code") as (credentials, fake):
        await credentials.authorize(Person(fake.browse), listen=False)
        fake.script["token"] = Status(400, {"error": "invalid_grant"})
        (finding,) = await credentials.probe()
        assert (finding.level, finding.advice) == (Level.BAD, f"run: {AUTHORIZE}")


async def test_authorize_says_where_such_a_token_comes_from(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token") as (credentials, _):
        with pytest.raises(Failure, match=r"asks for nobody's consent .see OAUTH2_REFRESH_TOKEN, which you get elsewh"):
            await credentials.authorize(Person(), listen=False)


NOWHERE = [Status(404, "<html>"), Status(404, {"error": "invalid_request"}), Status(405), Status(200, "<html>")]


@pytest.mark.parametrize("answer", NOWHERE)
@pytest.mark.parametrize("step", ["token", "device"])
async def test_a_wrong_path_names_its_variable(
    certificates: Certificates, tmp_path: Path, answer: Status, step: str
) -> None:
    grant = "refresh_token" if step == "token" else "device_code"
    async with pair(certificates.good, tmp_path, grant, server={"script": {step: answer}}) as (credentials, _):
        with pytest.raises(Disconnected, match="does not answer like") as raised:
            await (credentials.secret(IMAP) if step == "token" else credentials.authorize(Person(), listen=False))
        assert raised.value.look_at == f"OAUTH2_{step.upper()}_URL"


async def test_check_tries_the_secret_that_is_set_now(certificates: Certificates, tmp_path: Path) -> None:
    given, server = {"OAUTH2_CLIENT_SECRET": SECRET}, {"client_secret": SECRET}
    async with pair(certificates.good, tmp_path, "client_credentials", server=server, **given) as (credentials, fake):
        await credentials.secret(IMAP)
        (finding,) = await credentials.probe()
        assert finding.level is Level.GOOD
        assert fake.times("token") == 2
        changed = {"OAUTH2_CLIENT_SECRET": "a new one, with a slip"}
        checked = credentials_for(fake, certificates.ca_file, tmp_path, "client_credentials", **changed)
        (finding,) = await checked.probe()
        assert finding.level is Level.BAD
        assert "the client secret is wrong" in finding.text
        assert "slip" not in str(finding)


# A scope that was made smaller.


@pytest.mark.parametrize("rotate", [True, False])
async def test_a_narrower_scope_is_asked_for_until_it_is_wide_again(
    certificates: Certificates, tmp_path: Path, rotate: bool
) -> None:
    clock = Clock()
    server: dict[str, Any] = {"rotate": rotate, "lifetime": 1000}
    scopes = {"wide": "a b offline_access", "narrow": "b offline_access", "other": "c offline_access"}
    async with pair(
        certificates.good, tmp_path, "authorization_code", server=server, OAUTH2_SCOPE=scopes["wide"]
    ) as (credentials, fake):  # fmt: skip
        await credentials.authorize(Person(fake.browse), listen=False)
        asked = []
        for name in ("wide", "narrow", "narrow", "wide", "other"):
            given = {"OAUTH2_SCOPE": scopes[name]}
            made = credentials_for(fake, certificates.ca_file, tmp_path, "authorization_code", **given)
            await keeper_of(made, clock).fresh()
            asked.append(fake.forms[-1].get("scope"))
        assert asked == [None, scopes["narrow"], scopes["narrow"], None, None]


# What is asked of the browser.


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ({"OAUTH2_SCOPE": "mail offline_access"}, ["consent"]),
        ({"OAUTH2_SCOPE": "mail"}, []),
        ({"OAUTH2_PROVIDER": "google", "OAUTH2_SCOPE": "mail offline_access"}, ["consent"]),
        ({"OAUTH2_PROVIDER": "microsoft365"}, ["select_account"]),
    ],
)
async def test_offline_access_wants_a_prompt(
    certificates: Certificates, tmp_path: Path, given: dict[str, str], prompts: list[str]
) -> None:
    async with pair(certificates.good, tmp_path, "authorization_code", **given) as (credentials, fake):
        person = Person(fake.browse)
        await credentials.authorize(person, listen=False)
        assert re.findall(r"prompt=(\w+)", person.url) == prompts


# Settings.


@pytest.mark.parametrize("variable", ["OAUTH2_TOKEN_URL", "OAUTH2_DEVICE_URL", "OAUTH2_AUTHORIZATION_URL"])
@pytest.mark.parametrize(
    "url", ["https://x.example/to ken", "https://x.example/t ", " https://x.example/", "https://x\u2003"]
)
def test_blanks_in_an_address(variable: str, url: str) -> None:
    with pytest.raises(SettingsMistake, match=f"^{variable}: must be an address that begins with https:// and has no"):
        configuration(**(APP | URL | {variable: url}))


def test_a_blank_in_the_redirect_address() -> None:
    with pytest.raises(SettingsMistake, match=r"^OAUTH2_REDIRECT_URL: must be an address that has no blanks in it$"):
        configuration(**APP, **URL, OAUTH2_REDIRECT_URL="http://localhost /")


@pytest.mark.parametrize("url", ["http://localhost:99999", "http://localhost:port/", "http://[::1"])
def test_a_redirect_address_that_is_none(url: str) -> None:
    with pytest.raises(SettingsMistake, match=r"^OAUTH2_REDIRECT_URL: must be an address, like http://localhost:8080$"):
        configuration(**APP, **URL, OAUTH2_REDIRECT_URL=url)


@pytest.mark.parametrize(
    ("given", "algorithm"),
    [
        ({"OAUTH2_CLIENT_KEY": pem(RSA_KEY)}, "RS256"),
        ({"OAUTH2_CLIENT_KEY": pem(RSA_KEY), "OAUTH2_ASSERTION_ALGORITHM": "PS384"}, "PS384"),
        ({"OAUTH2_CLIENT_KEY": pem(EC_KEY), "OAUTH2_ASSERTION_ALGORITHM": "ES256"}, "ES256"),
    ],
)
def test_the_algorithm_can_be_set(given: dict[str, str], algorithm: str) -> None:
    key = configuration(**APP, **URL, **given).key
    assert key is not None
    assert key.algorithm == algorithm


@pytest.mark.parametrize(("key", "algorithm"), [(EC_KEY, "RS256"), (EC_KEY, "ES384"), (RSA_KEY, "ES256")])
def test_an_algorithm_that_does_not_fit_the_key(key: Any, algorithm: str) -> None:
    given = {"OAUTH2_CLIENT_KEY": pem(key), "OAUTH2_ASSERTION_ALGORITHM": algorithm}
    with pytest.raises(SettingsMistake, match=f"^OAUTH2_CLIENT_KEY: with this key .*ALGORITHM can not be {algorithm}"):
        configuration(**APP, **URL, **given)


# No secret in any of it.


@pytest.mark.parametrize("auth", ["post", "basic"])
async def test_what_the_device_endpoint_repeats_is_not_shown(
    certificates: Certificates, tmp_path: Path, auth: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    answer = Status(401, {"error": "invalid_client", "error_description": f"who is {SECRET}?"})
    given = {"OAUTH2_CLIENT_SECRET": SECRET, "OAUTH2_CLIENT_AUTH": auth}
    async with pair(
        certificates.good, tmp_path, "device_code", server={"script": {"device": answer}}, **given
    ) as (credentials, _):  # fmt: skip
        with pytest.raises(CredentialsRefused) as raised:
            await credentials.authorize(Person(), listen=False)
        assert not [form for form in disguises(SECRET) if form in str(raised.value) + caplog.text]
