"""What an administrator of Microsoft 365 has to do, as clicks and as a PowerShell script, for one mailbox.

``proxy/docs/microsoft365.md`` shows the same scripts; a test compares them.
"""

from __future__ import annotations

import re

from ..contracts import SettingsMistake

__all__ = ("WAYS", "script")

_ADDRESS = re.compile(r"[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+")
_CLICKS = {
    "microsoft365": """\
1. https://entra.microsoft.com -> App registrations -> New. Note the client ID and the tenant ID; under
   Certificates & secrets make a client secret, and copy its value.
2. API permissions -> Add -> APIs my organization uses -> Office 365 Exchange Online -> Application permissions:
   {roles}. Then Grant admin consent.
3. The lines from Connect-ExchangeOnline on have no clicks; the object ID is that of the enterprise application.""",
    "microsoft365-graph": """\
1. https://entra.microsoft.com -> App registrations -> New. Note the client ID and the tenant ID; under
   Certificates & secrets make a client secret, and copy its value.
2. API permissions -> Add -> Microsoft Graph -> Application permissions: Mail.Send, Mail.ReadWrite. Then Grant admin
   consent. These are for EVERY mailbox; the script below gives them for one mailbox. Do not do both.""",
    "microsoft365-hve": """\
1. Exchange admin center -> Mail flow -> High Volume Email -> Add an account.
2. Connect a billing policy with it.""",
}
_APPLICATION = """\
$mailbox = "{mailbox}"
Connect-MgGraph -Scopes {scopes}
$app = New-MgApplication -DisplayName "mail proxy"
$principal = New-MgServicePrincipal -AppId $app.AppId
$secret = Add-MgApplicationPassword -ApplicationId $app.Id
"""
_MAIL = """\
$exchange = Get-MgServicePrincipal -Filter "appId eq '00000002-0000-0ff1-ce00-000000000000'"
foreach ($role in $exchange.AppRoles | Where-Object Value -in {quoted_roles}) {{
    New-MgServicePrincipalAppRoleAssignment -ServicePrincipalId $principal.Id -PrincipalId $principal.Id `
        -ResourceId $exchange.Id -AppRoleId $role.Id
}}
Connect-ExchangeOnline
New-ServicePrincipal -AppId $app.AppId -ObjectId $principal.Id -DisplayName "mail proxy"
Add-MailboxPermission -Identity $mailbox -User $principal.Id -AccessRights FullAccess
Set-CASMailbox $mailbox {switches}
"""
_RBAC = """\
Connect-ExchangeOnline
New-ServicePrincipal -AppId $app.AppId -ObjectId $principal.Id -DisplayName "mail proxy"
New-ManagementScope -Name "mail proxy" -RecipientRestrictionFilter "PrimarySmtpAddress -eq '$mailbox'"
foreach ($role in "Application Mail.Send", "Application Mail.ReadWrite") {
    New-ManagementRoleAssignment -App $principal.Id -Role $role -CustomResourceScope "mail proxy"
}
Test-ServicePrincipalAuthorization -Identity $principal.Id -Resource $mailbox
"""
_RESULT = """\
"OAUTH2_TENANT=$((Get-MgContext).TenantId)"; "OAUTH2_CLIENT_ID=$($app.AppId)"; "the secret: $($secret.SecretText)"
"""
_HIGH_VOLUME = """\
Connect-ExchangeOnline
New-MailUser -HVEAccount -Name "{local}" -PrimarySmtpAddress {mailbox} -Password (Read-Host -AsSecureString)
Get-BillingPolicy -ResourceType HVE
Set-HVEAccountBillingPolicy -Identity {mailbox} -BillingPolicyId <policy ID>
Get-HVEAccountBillingPolicy -Identity {mailbox}
"""
WAYS = tuple(_CLICKS)
"""The values of PROVIDER that are Microsoft's for organisations."""


def commands(way: str, mailbox: str, *, device: str = "both") -> str:
    """The PowerShell script alone. Raises :class:`SettingsMistake` for an address that could end a text in it."""
    if not _ADDRESS.fullmatch(mailbox):
        raise SettingsMistake(f"--user: {mailbox!r} is no address that can stand in a script")
    if way == "microsoft365-hve":
        return _HIGH_VOLUME.format(mailbox=mailbox, local=mailbox.partition("@")[0])
    if way == "microsoft365-graph":
        return _APPLICATION.format(mailbox=mailbox, scopes="Application.ReadWrite.All") + _RBAC + _RESULT
    scopes = "Application.ReadWrite.All, AppRoleAssignment.ReadWrite.All"
    switches = ["-ImapEnabled $true"] if device != "sends" else []
    switches += ["-SmtpClientAuthenticationDisabled $false"] if device != "reads" else []
    quoted = ", ".join(f'"{role}"' for role in _roles(device))
    mail = _MAIL.format(quoted_roles=quoted, switches=" ".join(switches))
    return _APPLICATION.format(mailbox=mailbox, scopes=scopes) + mail + _RESULT


def _roles(device: str) -> list[str]:
    return [*(["IMAP.AccessAsApp"] if device != "sends" else []), *(["SMTP.SendAsApp"] if device != "reads" else [])]


def script(way: str, mailbox: str, *, device: str = "both") -> str:
    """The clicks as comments, the script, and what to do with what it prints."""
    clicks = _CLICKS[way].format(roles=", ".join(_roles(device))).splitlines()
    follow = f"legacy-email-proxy setup --provider {way} --device {device} --user {mailbox}"
    lines = [
        f"With clicks, for PROVIDER={way}:", *clicks, "", "Or as this script, with the modules Microsoft.Graph and"
        " ExchangeOnlineManagement.", "Not tried against Microsoft from here.",
    ]  # fmt: skip
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return f"{head}\n{commands(way, mailbox, device=device)}\n# A change can take an hour. Then: {follow}"
