"""Several accounts, each with a token, a folder and an application of its own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from anyio.to_thread import run_sync

from commands.test_authorize import authorizing, said
from fakes.oauth2 import FakeAuthorizationServer
from interop.proxy import run
from legacy_email_proxy.build import choose, compose
from oauth2.support import SMTP, server_tls
from realservers.certificates import Certificates


@dataclass
class Two:
    """Two accounts at two providers, which the file names; the environment has all else."""

    fakes: list[FakeAuthorizationServer]
    file: Path
    state: Path
    variables: dict[str, str]


@asynccontextmanager
async def two(certificates: Certificates, folder: Path, grant: str) -> AsyncIterator[Two]:
    tls = server_tls(certificates.good)
    async with (
        FakeAuthorizationServer(tls=tls, client_id="first", client_secret="s") as first,
        FakeAuthorizationServer(tls=tls, client_id="second", client_secret="s") as second,
    ):
        fakes, file = [first, second], folder / "accounts.toml"
        tables = [
            f'[accounts.a{number}]\nBACKEND_SMTP_USER = "u{number}"\n'
            f'OAUTH2_CLIENT_ID = "{fake.client_id}"\nOAUTH2_CLIENT_SECRET = "s"\n'
            f'OAUTH2_TOKEN_URL = "{fake.url("token")}"\nOAUTH2_DEVICE_URL = "{fake.url("device")}"\n'
            for number, fake in enumerate(fakes)
        ]
        password = '[accounts.p]\nBACKEND_SMTP_CREDENTIALS = "password"\nBACKEND_SMTP_USER = "p"\n'
        rules = [f'[[rules]]\nport = {each}\naccount = "a{each - 1}"\n' for each in (1, 2)]
        password += 'BACKEND_SMTP_PASS = "x"\n'
        file.write_text("\n".join([*tables, password, *rules, '[[rules]]\naccount = "p"\n']))
        given = {
            "ACCOUNTS_FILE": str(file),
            "STATE_DIR": str(folder / "state"),
            "MAILDROP_PLUGIN": "none",
            "BACKEND_SMTP_HOST": "localhost",
            "BACKEND_SMTP_PORT": "1",
            "BACKEND_SMTP_CREDENTIALS": "oauth2",
            "OAUTH2_GRANT": grant,
            "OAUTH2_SCOPE": "mail",
            "OAUTH2_CA_FILE": str(certificates.ca_file),
        }
        yield Two(fakes, file, folder / "state", given)


async def test_each_account_has_a_token_of_its_own(certificates: Certificates, tmp_path: Path) -> None:
    async with two(certificates, tmp_path, "client_credentials") as world:
        composition = compose(world.variables)
        oauth2 = [account.credentials["oauth2"] for account in composition.accounts[:2]]
        assert [list(account.credentials) for account in composition.accounts] == [["oauth2"], ["oauth2"], ["password"]]
        for credentials, fake in zip(oauth2, world.fakes, strict=True):
            assert (await credentials.secret(SMTP)).reveal() == fake.tokens[0].text
        assert [fake.times("token") for fake in world.fakes] == [1, 1]
        for name in ("a0", "a1"):
            assert (world.state / f"credentials.oauth2.{name}" / f"{name}.json").exists()
        assert not (world.state / "credentials.oauth2").exists()
        assert composition.credentials[:2] == tuple(oauth2)
        for each in composition.credentials:
            await each.aclose()


async def test_check_asks_each_accounts_token(certificates: Certificates, tmp_path: Path) -> None:
    async with two(certificates, tmp_path, "client_credentials") as world:
        world.fakes[1].client_id = "another"
        checked = await run_sync(lambda: run("check", **world.variables))
        assert checked.returncode == 1
        assert re.search(r"^ok +a0 credentials oauth2: there is a token", checked.stdout, re.MULTILINE), checked.stdout
        assert re.search(r"^FAILED +a1 credentials oauth2: ", checked.stdout, re.MULTILINE), checked.stdout


@pytest.mark.long
async def test_each_owner_consents(certificates: Certificates, tmp_path: Path) -> None:
    async with two(certificates, tmp_path, "device_code") as world:
        for name, told in (
            ((), "ACCOUNT: say whose consent it is; there is a0, a1"),
            (("p",), "ACCOUNT: 'p' is no account with a consent; there is a0, a1"),
        ):
            done = await run_sync(partial(run, "authorize", *name, **world.variables))
            assert (done.returncode, done.stderr) == (2, f"legacy-email-proxy: {told}\n")
        async with authorizing(world.variables, arguments=("a1",)) as process:
            world.fakes[1].approve(await said(process, r"enter the code (\S+)\n"))
            output, _ = await process.communicate()
        assert b"the token for account a1 is stored" in output
        shown = await run_sync(lambda: run("authorize", "--status", **world.variables))
        assert shown.returncode == 1, "one has not consented"
        blocks = re.findall(r"account (\S+)\n(?:  .*\n)*?  last refresh  (\S+)", shown.stdout)
        assert [(name, when != "-") for name, when in blocks] == [("a0", False), ("a1", True)]
        only = await run_sync(lambda: run("authorize", "a1", "--status", **world.variables))
        assert only.returncode == 0
        assert re.findall(r"^account (\S+)$", only.stdout, re.MULTILINE) == ["a1"]


@pytest.mark.parametrize(
    ("says", "inherited"),
    [
        ("", {"OAUTH2_CLIENT_SECRET", "OAUTH2_REFRESH_TOKEN"}),
        ('BACKEND_SMTP_USER = "u"', {"OAUTH2_CLIENT_SECRET"}),
        ('BACKEND_IMAP_USER = "u"\nOAUTH2_REFRESH_TOKEN = "own"', {"OAUTH2_CLIENT_SECRET", "OAUTH2_REFRESH_TOKEN"}),
        ('BACKEND_SMTP_HOST = "other.example"', set()),
        ('PROVIDER = "gmail"', set()),
        ('OAUTH2_PROVIDER = "google"', set()),
        ('OAUTH2_TENANT = "other"', set()),
        ('OAUTH2_TOKEN_URL = "https://other.example/"', set()),
        ('OAUTH2_CLIENT_ID = "other"', set()),
        ('OAUTH2_CLIENT_ID = "other"\nOAUTH2_CLIENT_SECRET = "own"', {"OAUTH2_CLIENT_SECRET"}),
    ],
)
def test_what_proves_one_goes_to_nobody_else(tmp_path: Path, says: str, inherited: set[str]) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(f'[accounts.a]\n{says}\n[[rules]]\naccount = "a"\n')
    secrets = {"OAUTH2_CLIENT_SECRET", "OAUTH2_REFRESH_TOKEN"}
    [account] = choose({"ACCOUNTS_FILE": str(file)} | dict.fromkeys(secrets, "of the environment")).accounts
    assert {name for name in secrets if account.settings[name] is not None} == inherited


def test_a_provider_knows_its_endpoints(tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text('[accounts.a]\nPROVIDER = "gmail"\n[[rules]]\naccount = "a"\n')
    choice = choose({"ACCOUNTS_FILE": str(file), "OAUTH2_PROVIDER": "microsoft365"})
    assert [choice.settings["OAUTH2_PROVIDER"], choice.accounts[0].settings["OAUTH2_PROVIDER"]] == [
        "microsoft365",
        "google",
    ]
    assert choice.accounts[0].settings["BACKEND_IMAP_CREDENTIALS"] == "password"
