"""What is known of mail providers: variable → value, between the environment and the built-in defaults.

Only what the providers publish stands here: names, ports, and the limits and ways of deleting that ``google.md`` and
``microsoft365.md`` in ``proxy/docs`` explain. The largest message is what a provider says in EHLO. Whether to log in
with a password or a token is left to the user: a token needs an application that only the user can register.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ("PROFILES",)

_STARTTLS_587 = {"BACKEND_SMTP_PORT": "587", "BACKEND_SMTP_USE_SSL": "false", "BACKEND_SMTP_USE_TLS": "true"}
_IMPLICIT_TLS = {
    "BACKEND_IMAP_PORT": "993", "BACKEND_IMAP_USE_SSL": "true", "BACKEND_IMAP_USE_STARTTLS": "false",
    "BACKEND_SMTP_PORT": "465", "BACKEND_SMTP_USE_SSL": "true", "BACKEND_SMTP_USE_TLS": "false",
}  # fmt: skip

PROFILES: Mapping[str, Mapping[str, str]] = {
    "gmail": _IMPLICIT_TLS
    | {
        "BACKEND_IMAP_HOST": "imap.gmail.com",
        "BACKEND_SMTP_HOST": "smtp.gmail.com",
        # Gmail only archives what is expunged. It allows 15 connections, the user's own programs included.
        "BACKEND_IMAP_DELETE": "trash",
        "BACKEND_IMAP_MAX_CONNECTIONS": "10",
        "OAUTH2_PROVIDER": "google",
    },
    "microsoft365": _IMPLICIT_TLS
    | _STARTTLS_587
    | {
        "BACKEND_IMAP_HOST": "outlook.office365.com",
        "BACKEND_SMTP_HOST": "smtp.office365.com",
        # Over either limit it answers 432 4.3.2.
        "BACKEND_SMTP_MAX_CONNECTIONS": "3",
        "BACKEND_SMTP_MESSAGES_PER_MINUTE": "30",
        "OAUTH2_PROVIDER": "microsoft365",
    },
    "microsoft365-graph": _STARTTLS_587
    | {
        "MAILDROP_PLUGIN": "graph",
        "RELAY_PLUGIN": "graph",
        # For GRAPH_LARGE=smtp.
        "BACKEND_SMTP_HOST": "smtp.office365.com",
        # Exchange's limit for a mailbox, whatever way it is sent.
        "BACKEND_SMTP_MESSAGES_PER_MINUTE": "30",
        "OAUTH2_PROVIDER": "microsoft365-graph",
    },
    "microsoft365-hve": _STARTTLS_587
    | {
        # Such an account has no mailbox to read.
        "MAILDROP_PLUGIN": "none",
        "BACKEND_SMTP_HOST": "smtp.hve.mx.microsoft",
        "OAUTH2_PROVIDER": "microsoft365",
    },
    "outlook": _IMPLICIT_TLS
    | _STARTTLS_587
    | {
        "BACKEND_IMAP_HOST": "outlook.office365.com",
        "BACKEND_SMTP_HOST": "smtp-mail.outlook.com",
        "OAUTH2_PROVIDER": "outlook",
    },
    "icloud": _IMPLICIT_TLS
    | _STARTTLS_587
    | {"BACKEND_IMAP_HOST": "imap.mail.me.com", "BACKEND_SMTP_HOST": "smtp.mail.me.com"},
    "yahoo": _IMPLICIT_TLS
    | {
        "BACKEND_IMAP_HOST": "imap.mail.yahoo.com",
        "BACKEND_SMTP_HOST": "smtp.mail.yahoo.com",
        "OAUTH2_PROVIDER": "yahoo",
    },
    "fastmail": _IMPLICIT_TLS | {"BACKEND_IMAP_HOST": "imap.fastmail.com", "BACKEND_SMTP_HOST": "smtp.fastmail.com"},
    "zoho": _IMPLICIT_TLS | {"BACKEND_IMAP_HOST": "imap.zoho.com", "BACKEND_SMTP_HOST": "smtp.zoho.com"},
    "netease": _IMPLICIT_TLS | {"BACKEND_IMAP_HOST": "imap.163.com", "BACKEND_SMTP_HOST": "smtp.163.com"},
    "proton-bridge": {
        "BACKEND_IMAP_HOST": "127.0.0.1",
        "BACKEND_IMAP_PORT": "1143",
        "BACKEND_IMAP_USE_SSL": "false",
        "BACKEND_IMAP_USE_STARTTLS": "true",
        "BACKEND_SMTP_HOST": "127.0.0.1",
        "BACKEND_SMTP_PORT": "1025",
        "BACKEND_SMTP_USE_SSL": "false",
        "BACKEND_SMTP_USE_TLS": "true",
    },
    "generic": {},
}
"""``PROVIDER`` → the values that it stands for. What the user sets goes before them; ``generic`` has none."""
