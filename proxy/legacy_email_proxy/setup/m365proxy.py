"""Import: the configuration of m365proxy (``config.json``), which sends and reads by Microsoft Graph.

There one user consents, and devices log in as one of several mailboxes that this user may use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contracts import SettingsMistake
from .draft import Draft, account_name

__all__ = ("read_config",)

_GRAPH = "https://graph.microsoft.com"
_SHARED = " ".join(
    [
        *(f"{_GRAPH}/Mail.{right}{whose}" for right in ("Send", "ReadWrite") for whose in ("", ".Shared")),
        "offline_access",
    ]
)
"""The rights to mailboxes of others, which m365proxy asks for too."""
_PORTS = {"smtp_port": "SMTP_BIND_PORT", "pop3_port": "POP3_BIND_PORT"}
_TLS_PORTS = {"smtps_port": "SMTPS_BIND_PORT", "pop3s_port": "POP3S_BIND_PORT"}
_TAKEN = (
    "user",
    "client_id",
    "tenant_id",
    "mailboxes",
    "allowed_domains",
    "bind",
    "tls",
    "logging",
    *_PORTS,
    *_TLS_PORTS,
)
_LEFT_OUT = {
    "token_path": "the token: sign in again (legacy-email-proxy authorize); if two programs renew one, one loses it",
    "https_proxy": "set the environment variable HTTPS_PROXY for the service",
    "queue_dir": "what waits there: let m365proxy send it first",
}


def read_config(path: Path) -> Draft:
    """The mailboxes of this file. Raises :class:`SettingsMistake`."""
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsMistake(f"--from: can not read {str(path)!r}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsMistake(f"--from: {str(path)!r} is no JSON: {error}") from None
    texts = [given.get(name) for name in ("user", "client_id", "tenant_id")] if isinstance(given, dict) else [None]
    if not all(isinstance(text, str) and text for text in texts):
        raise SettingsMistake(f"--from: {str(path)!r} has no user, client_id and tenant_id, so it is not m365proxy's")
    mailboxes = _mailboxes(given)
    reads = bool(given.get("pop3_port") or given.get("pop3s_port"))
    left_out = [f"{name}: {words}" for name, words in _LEFT_OUT.items() if given.get(name)]
    left_out += [f"{name}: {given[name]!r}" for name in given if name not in (*_TAKEN, *_LEFT_OUT)]
    left_out.append(
        "the passwords of the mailboxes: they are hashes of another kind. Any is taken (SMTP_AUTH=any); who may connect"
        " goes by address (ALLOWED_NETWORKS)"
    )
    draft = Draft(_process(given, left_out), left_out=left_out)
    draft.values |= {
        "PROVIDER": "microsoft365-graph", "OAUTH2_GRANT": "device_code", "OAUTH2_CLIENT_ID": given["client_id"],
        "OAUTH2_TENANT": given["tenant_id"],
    }  # fmt: skip
    if mailboxes != [given["user"]]:
        draft.values["OAUTH2_SCOPE"] = _SHARED
    if len(mailboxes) == 1:
        draft.values |= {"GRAPH_MAILBOX": mailboxes[0], "SMTP_ALLOWED_SENDERS": mailboxes[0]}
    for mailbox in mailboxes if len(mailboxes) > 1 else ():
        name = account_name(mailbox, draft.accounts)
        # The provider is named again, so that the account's own line says what it is.
        draft.accounts[name] = {"GRAPH_MAILBOX": mailbox}
        draft.rules.append({"account": name, "sender": mailbox})
    if draft.accounts:
        draft.values["MAILDROP_PLUGIN"] = "none"
        if reads:
            left_out.append(
                "reading for several mailboxes: it needs users with passwords, see proxy/docs/accounts.md"
                " (POP3_LOGIN=accounts)"
            )
    elif not reads:
        draft.values["MAILDROP_PLUGIN"] = "none"
    return draft


def _mailboxes(given: Mapping[str, Any]) -> list[str]:
    listed = given.get("mailboxes")
    names = [each.get("username") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [*dict.fromkeys(name for name in names if isinstance(name, str) and name)] or [given["user"]]


def _process(given: Mapping[str, Any], left_out: list[str]) -> dict[str, str]:
    """Listeners, limits and the log."""
    found = {"SMTP_AUTH": "any"}
    tls = given.get("tls")
    ports = {**_PORTS, **(_TLS_PORTS if isinstance(tls, dict) else {})}
    found |= {variable: str(given[name]) for name, variable in ports.items() if given.get(name)}
    if isinstance(tls, dict):
        found |= {"TLS_CERT_FILE": str(tls.get("tls_cert", "")), "TLS_KEY_FILE": str(tls.get("tls_key", ""))}
        for plain, secured in (("smtp_port", "smtps_port"), ("pop3_port", "pop3s_port")):
            if given.get(secured) and not given.get(plain):
                leg = "SMTP" if plain == "smtp_port" else "POP3"
                left_out.append(f"{leg} without TLS is open, too, on its usual port; set {leg}_BIND_PORT to change it")
    bind = str(given.get("bind") or "localhost")
    if bind not in ("0.0.0.0", "::"):  # noqa: S104 (everywhere is the default here, too)
        address = "127.0.0.1" if bind == "localhost" else bind
        found |= {"SMTP_BIND_ADDR": address, "POP3_BIND_ADDR": address}
    domains = given.get("allowed_domains")
    if isinstance(domains, list) and domains and "*" not in domains:
        found["SMTP_ALLOWED_RECIPIENTS"] = ",".join(f"@{each}" for each in domains)
    log = given.get("logging")
    level = str((log.get("log_level") or log.get("level") or "") if isinstance(log, dict) else "").lower()
    if level in ("debug", "info", "warning", "error"):
        found["LOG_LEVEL"] = level
    if isinstance(log, dict) and log.get("log_file"):
        left_out.append(f"logging.log_file {log['log_file']}: the log goes to standard error, for the journal")
    return {name: text for name, text in found.items() if text}
