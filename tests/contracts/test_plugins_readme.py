"""plugins/README.md is right: its relay and its test run, and its tables name the methods of the contracts."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from interop.proxy import clean_environment
from legacy_email_proxy import contracts
from legacy_email_proxy.contracts import (
    Authorizable,
    Context,
    Credentials,
    Failure,
    Filter,
    Header,
    Maildrop,
    MaildropSession,
    Refused,
    Relay,
    Transaction,
)
from legacy_email_proxy.plugins import CREDENTIALS, GROUPS, _violations

ROOT = Path(__file__).parents[2]
README = (ROOT / "plugins" / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def suite_in(folder: Path) -> str:
    """What pytest says of the tests there, which have passed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env=clean_environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def methods(contract: type) -> set[str]:
    return {name for name in vars(contract) if not name.startswith("_")}


@pytest.mark.long
def test_the_relay_keeps_the_contract_by_the_test_beside_it(tmp_path: Path) -> None:
    relay, *_, test = blocks("python")
    (tmp_path / "acme_mail").mkdir()
    (tmp_path / "acme_mail" / "archive.py").write_text(relay)
    (tmp_path / "test_archive.py").write_text(test)
    assert re.search(r"\b[3-9]\d passed", suite_in(tmp_path))


def test_the_examples_are_those_of_the_distribution() -> None:
    folder = ROOT / "tests" / "site_plugin"
    assert blocks("python")[0] == (folder / "acme_mail" / "archive.py").read_text()
    # It and its own tests run in tests/site.
    assert blocks("python")[1] == (folder / "acme_mail" / "devices.py").read_text()
    shown, written = tomllib.loads("".join(blocks("toml"))), tomllib.loads((folder / "pyproject.toml").read_text())
    for key in ("name", "version", "dependencies"):
        assert shown["project"][key] == written["project"][key]
    for group, points in shown["project"]["entry-points"].items():
        assert group in GROUPS
        assert points.items() <= written["project"]["entry-points"][group].items()


def test_the_refusal_is_one() -> None:
    with pytest.raises(Refused):
        exec(blocks("python")[3], vars(contracts).copy())


VAULT = """
import pytest

from legacy_email_proxy.contracts import Password
from legacy_email_proxy.testing import CredentialsSuite, context_for

SECRETS = {}


async def ask_the_vault(user):
    if user not in SECRETS:
        raise ConnectionError("sealed")
    return SECRETS[user]


class TestVaultCredentials(CredentialsSuite):
    @pytest.fixture
    async def credentials(self, tmp_path):
        SECRETS["device"] = "geheim"
        return VaultCredentials(context_for(VaultCredentials, tmp_path, BACKEND_SMTP_USER="device"))

    @pytest.fixture
    def forget(self):
        async def forgotten():
            SECRETS.clear()

        return forgotten
"""


@pytest.mark.long
def test_the_credentials_keep_the_contract_by_their_suite(tmp_path: Path) -> None:
    example = next(block for block in blocks("python") if "VaultCredentials" in block)
    names: dict[str, Any] = {}
    exec(example, names)
    assert _violations(names["VaultCredentials"], CREDENTIALS) == []
    (tmp_path / "test_vault.py").write_text(example + VAULT)
    assert "9 passed, 1 skipped" in suite_in(tmp_path)


CONTRACTS = [Relay, Transaction, Maildrop, MaildropSession, Filter, Header, Credentials, Authorizable, Context]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_method_of_a_contract_is_told(contract: type) -> None:
    rows = "".join(line for line in README.splitlines() if line.startswith("|"))
    untold = {name for name in methods(contract) if not re.search(rf"`(?:\w+\.)?{name}\b", rows)}
    assert untold == set()


def test_every_failure_is_told() -> None:
    kinds = [value for value in vars(contracts).values() if isinstance(value, type) and issubclass(value, Failure)]
    assert [kind.__name__ for kind in kinds if f"`{kind.__name__}" not in README] == []


def test_what_is_named_exists() -> None:
    called = set(re.findall(r"`(?:Transaction|MaildropSession)\.(\w+)", README))
    assert called == methods(Transaction) | methods(MaildropSession)
    assert set(re.findall(r"context\.(\w+)", README)) == methods(Context)
