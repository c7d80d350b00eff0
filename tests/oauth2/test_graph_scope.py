"""One application, two services: a token for Microsoft Graph, and another one for the mail servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from legacy_email_proxy.contracts import Account, NoCredentials
from oauth2.support import SECRET, SMTP, pair
from realservers.certificates import Certificates

GRAPH = Account("graph", "scanner@firm.example")


async def test_each_service_has_a_token_of_its_own(certificates: Certificates, tmp_path: Path) -> None:
    given = {
        "OAUTH2_CLIENT_SECRET": SECRET, "OAUTH2_PROVIDER": "microsoft365-graph", "OAUTH2_TENANT": "t",
        "OAUTH2_SCOPE": "",
    }  # fmt: skip
    server = {"client_secret": SECRET}
    async with pair(certificates.good, tmp_path, "client_credentials", server=server, **given) as (credentials, fake):
        credentials._tls.load_verify_locations(certificates.ca_file)
        tokens = [await credentials.secret(account) for account in (GRAPH, SMTP, GRAPH, SMTP)]
    assert tokens[0] != tokens[1]
    assert tokens[:2] == tokens[2:]
    assert [form["scope"] for form in fake.forms] == [
        "https://graph.microsoft.com/.default", "https://outlook.office365.com/.default",
    ]  # fmt: skip


async def test_a_consent_for_graph_is_none_for_smtp(certificates: Certificates, tmp_path: Path) -> None:
    given = {"OAUTH2_PROVIDER": "microsoft365-graph", "OAUTH2_REFRESH_TOKEN": "r"}
    async with pair(certificates.good, tmp_path, "refresh_token", **given) as (credentials, fake):
        with pytest.raises(NoCredentials, match="gives no token for SMTP"):
            await credentials.secret(SMTP)
        assert not fake.requests
