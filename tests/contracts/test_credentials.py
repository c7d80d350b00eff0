"""The built-in credentials keep the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from fakes.oauth2 import FakeAuthorizationServer, Status
from legacy_email_proxy.contracts import Credentials
from legacy_email_proxy.testing import CredentialsSuite, context_for
from legacy_email_proxy_plugins.oauth2 import OAuth2Credentials
from legacy_email_proxy_plugins.password import PasswordCredentials
from oauth2.support import SECRET, server_tls, variables
from realservers.certificates import Certificates


class TestPassword(CredentialsSuite):
    @pytest.fixture
    async def credentials(self, tmp_path: Path) -> Credentials:
        passwords = {f"BACKEND_{leg}_PASS": f"the {leg} pässword" for leg in ("IMAP", "SMTP")}
        return PasswordCredentials(context_for(PasswordCredentials, tmp_path, **passwords))


@pytest.mark.parametrize("grant", ["client_credentials", "refresh_token"])
class TestOAuth2(CredentialsSuite):
    @pytest.fixture
    async def fake(self, certificates: Certificates) -> AsyncIterator[FakeAuthorizationServer]:
        tls = server_tls(certificates.good)
        async with FakeAuthorizationServer(tls=tls, client_secret=SECRET, rotate=True) as fake:
            yield fake

    @pytest.fixture
    async def credentials(
        self, fake: FakeAuthorizationServer, certificates: Certificates, tmp_path: Path, grant: str
    ) -> AsyncIterator[Credentials]:
        given = variables(fake, certificates.ca_file, grant, OAUTH2_CLIENT_SECRET=SECRET)
        given["OAUTH2_REFRESH_TOKEN"] = fake.issue_refresh_token()
        credentials = OAuth2Credentials(context_for(OAuth2Credentials, tmp_path, **given))
        yield credentials
        await credentials.aclose()

    @pytest.fixture
    def forget(self, fake: FakeAuthorizationServer) -> Callable[[], Awaitable[None]]:
        async def forget() -> None:
            fake.script["token"] = Status(400, {"error": "invalid_grant"})

        return forget
