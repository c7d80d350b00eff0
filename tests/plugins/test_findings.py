"""The table of what providers say: every row is reached by words that were seen in the wild."""

from __future__ import annotations

import pytest

from legacy_email_proxy_plugins.findings import TABLE, meaning_of

SEEN = {
    "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit"
    " https://aka.ms/smtp_auth_disabled for more information.": "switched off for the whole organisation",
    "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox. Visit"
    " https://aka.ms/smtp_auth_disabled": "switched off for this mailbox",
    "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.": "takes no passwords",
    "550 5.7.30 Basic authentication is disabled": "takes no passwords",
    "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy."
    " Contact your administrator.": "security defaults",
    "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.": "by a policy",
    "BAD User is authenticated but not connected.": "the mailbox can not be opened",
    "535 5.7.3 Authentication unsuccessful [FR3P281CA0001.DEUP281.PROD.OUTLOOK.COM]": "permission or its consent",
    "NO AUTHENTICATE failed.": "permission or its consent",
    "NO [ALERT] Your account is not enabled for IMAP use. Please visit your Gmail settings page": "IMAP is switched",
    "NO [ALERT] IMAP access is disabled for your domain. Please contact your domain administrator": "IMAP is switched",
    "534-5.7.9 Application-specific password required.": "app password",
    "NO [ALERT] Application-specific password required: https://support.google.com": "app password",
    "334 status=400 schemes=Bearer scope=https://mail.google.com/": "not good for mail",
    "535-5.7.8 Username and Password not accepted. For more information, go to 535 5.7.8"
    " https://support.google.com/mail/?p=BadCredentials x - gsmtp": "Google did not take the login",
    "[AUTHENTICATIONFAILED] Authentication failed. (status=401 schemes=bearer scope=mail)": "for something else",
    "535 5.7.8 Error: authentication failed: (status=invalid_token scope=openid)": "for something else",
    "invalid_client AADSTS7000215: Invalid client secret provided.": "the client secret is wrong",
    "invalid_client AADSTS7000222: The provided client secret keys for app 'x' are expired.": "has expired",
    "invalid_client AADSTS7000218: The request body must contain: 'client_assertion' or 'client_secret'.": "public cl",
    "unauthorized_client AADSTS700016: Application with identifier 'x' was not found in the directory": "no such appl",
    "invalid_client AADSTS700027: The certificate with identifier used to sign the client assertion": "certificate",
    "invalid_client AADSTS700024: Client assertion is not within its valid time range.": "out of its time",
    "invalid_grant AADSTS700082: The refresh token has expired due to inactivity.": "no longer valid: not used for 90",
    "invalid_grant AADSTS70008: The provided authorization code or refresh token has expired": "no longer valid: not",
    "invalid_grant AADSTS50173: The provided grant has expired due to it being revoked": "no longer valid: not used",
    "invalid_request AADSTS90002: Tenant 'x' not found.": "no such directory",
    "invalid_request AADSTS900023: Specified tenant identifier 'x' is neither a valid DNS name": "no such directory",
    "invalid_grant AADSTS65001: The user or administrator has not consented to use the application": "consent for this",
    "invalid_scope AADSTS70011: The provided request must include a 'scope' input parameter.": "the scope is wrong",
    "invalid_scope AADSTS1002012: The provided value for scope x is not valid.": "the scope is wrong",
    "invalid_resource AADSTS500011: The resource principal named x was not found in the tenant": "ask for mail perm",
    "invalid_client AADSTS50011: The redirect URI specified in the request does not match": "redirect address",
    "interaction_required AADSTS50076: Due to a configuration change you must use multi-factor": "second factor",
    "invalid_grant AADSTS53003: Access has been blocked by Conditional Access policies.": "Conditional Access",
    "invalid_grant AADSTS50034: The user account does not exist in the directory": "unknown, blocked",
    "unauthorized_client Client is unauthorized to retrieve access tokens using this method, or client not authorized"
    " for any of the scopes requested.": "may not act for this domain",
    "invalid_grant Invalid email or User ID": "no such user in the Workspace",
    "invalid_grant Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.": "time",
    "invalid_grant Token has been expired or revoked.": "Testing live for 7 days",
    "redirect_uri_mismatch Bad Request": "redirect address",
    "invalid_client The OAuth client was not found.": "does not know this application",
    "invalid_grant Bad Request": "no longer valid",
    "invalid_scope Some requested scopes were invalid": "does not know the scope",
    "unauthorized_client ": "may not use this grant",
    "unsupported_grant_type Invalid grant_type": "does not know this grant",
    "access_denied": "refused",
    "expired_token": "in time",
    "NO [CONTACTADMIN] please call us": "support or administrator",
    "NO [EXPIRED] that password is old": "expired",
    "NO [AUTHORIZATIONFAILED] not for you": "the password is right",
}
UNKNOWN = ["535 5.7.8 Error: authentication failed", "NO [AUTHENTICATIONFAILED] Authentication failed.", "", "500011"]


@pytest.mark.parametrize("said", SEEN)
def test_what_it_means(said: str) -> None:
    meaning = meaning_of(said)
    assert meaning is not None
    assert SEEN[said] in meaning.words + meaning.advice
    assert meaning.advice


@pytest.mark.parametrize("said", UNKNOWN)
def test_what_nobody_knows_gets_no_advice(said: str) -> None:
    assert meaning_of(said) is None


def test_every_row_is_reached() -> None:
    assert {meaning_of(said) for said in SEEN} == set(TABLE)
