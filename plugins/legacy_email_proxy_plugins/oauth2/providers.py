"""What is known of each provider: its endpoints, the scopes that give access to mail, and the grants that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ("APP_GRANTS", "CONSENT_GRANTS", "PROVIDERS", "Provider")

APP_GRANTS = ("client_credentials", "jwt_bearer")
"""The application authenticates itself: no person consents, and there is no refresh token."""

CONSENT_GRANTS = ("device_code", "authorization_code")
"""A person consents once, and the provider then gives a refresh token."""

_MICROSOFT = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0"
_GRAPH = "https://graph.microsoft.com"
_MICROSOFT_MAIL = "https://outlook.office.com/IMAP.AccessAsUser.All https://outlook.office.com/SMTP.Send offline_access"


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider. ``{tenant}`` in an address is replaced by the tenant.

    ``unfit`` has the grants that give no access to mail, each with the reason or with what to use instead.
    """

    token_url: str = ""
    device_url: str = ""
    authorization_url: str = ""
    scope: str = ""
    app_scope: str = ""
    tenant: str = ""
    tenant_of_apps: bool = True
    """Whether an application grant works without ``OAUTH2_TENANT``."""
    authorization_extra: Mapping[str, str] = field(default_factory=dict)
    assertion_algorithm: str = "RS256"
    unfit: Mapping[str, str] = field(default_factory=dict)


PROVIDERS: Mapping[str, Provider] = {
    "custom": Provider(),
    "microsoft365": Provider(
        token_url=f"{_MICROSOFT}/token",
        device_url=f"{_MICROSOFT}/devicecode",
        authorization_url=f"{_MICROSOFT}/authorize",
        scope=_MICROSOFT_MAIL,
        app_scope="https://outlook.office365.com/.default",
        tenant="organizations",
        tenant_of_apps=False,
        authorization_extra={"prompt": "select_account"},
        assertion_algorithm="PS256",
        unfit={"jwt_bearer": "Microsoft knows client_credentials instead"},
    ),
    "microsoft365-graph": Provider(
        token_url=f"{_MICROSOFT}/token",
        device_url=f"{_MICROSOFT}/devicecode",
        authorization_url=f"{_MICROSOFT}/authorize",
        scope=f"{_GRAPH}/Mail.ReadWrite {_GRAPH}/Mail.Send offline_access",
        app_scope=f"{_GRAPH}/.default",
        tenant="organizations",
        tenant_of_apps=False,
        authorization_extra={"prompt": "select_account"},
        assertion_algorithm="PS256",
        unfit={"jwt_bearer": "Microsoft knows client_credentials instead"},
    ),
    "outlook": Provider(
        token_url=f"{_MICROSOFT}/token",
        device_url=f"{_MICROSOFT}/devicecode",
        authorization_url=f"{_MICROSOFT}/authorize",
        scope=_MICROSOFT_MAIL,
        tenant="consumers",
        authorization_extra={"prompt": "select_account"},
        assertion_algorithm="PS256",
        unfit={
            "client_credentials": "a personal account needs its owner's consent: device_code",
            "jwt_bearer": "a personal account needs its owner's consent: device_code",
        },
    ),
    "google": Provider(
        token_url="https://oauth2.googleapis.com/token",  # noqa: S106 (an address)
        authorization_url="https://accounts.google.com/o/oauth2/v2/auth",
        scope="https://mail.google.com/",
        app_scope="https://mail.google.com/",
        # Without these Google gives a refresh token only at the very first consent.
        authorization_extra={"access_type": "offline", "prompt": "consent"},
        unfit={
            "client_credentials": "Google knows jwt_bearer instead (a service account, for Workspace)",
            "device_code": "Google's device flow does not open mail; use authorization_code",
        },
    ),
    "yahoo": Provider(
        token_url="https://api.login.yahoo.com/oauth2/get_token",  # noqa: S106 (an address)
        authorization_url="https://api.login.yahoo.com/oauth2/request_auth",
        scope="mail-w",
        unfit={
            "client_credentials": "Yahoo wants its user's consent: authorization_code",
            "jwt_bearer": "Yahoo wants its user's consent: authorization_code",
            "device_code": "Yahoo has no device flow; use authorization_code",
        },
    ),
}
