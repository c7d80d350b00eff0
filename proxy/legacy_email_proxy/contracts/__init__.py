"""The one door between the core and its plugins: all that a plugin author imports.

``from legacy_email_proxy.contracts import …`` works for every name below. This package imports nothing else of ours,
so a plugin can be type-checked and tested without the rest.
"""

from __future__ import annotations

from .context import Context
from .envelope import NULL_REVERSE_PATH, Client, Message, Parameters, Receipt
from .failures import (
    CredentialsRefused,
    Disconnected,
    Failure,
    LoginRefused,
    MaildropBusy,
    MessageGone,
    MessageUnavailable,
    Overloaded,
    Refused,
    SettingsMistake,
    StorageFull,
    Unreachable,
    Unusable,
    Unverified,
)
from .filter import Envelope, Filter
from .finding import Finding, Level
from .header import Header
from .line_ends import normalised
from .maildrop import Columns, Entry, Login, Maildrop, MaildropSession, NamedSession
from .relay import PipeliningTransaction, Recipient, Relay, RelayCapabilities, Transaction, WholeMessageRelay
from .secret import Secret
from .setting import Setting, SettingType

__all__ = (
    "NULL_REVERSE_PATH",
    "Client",
    "Columns",
    "Context",
    "CredentialsRefused",
    "Disconnected",
    "Entry",
    "Envelope",
    "Failure",
    "Filter",
    "Finding",
    "Header",
    "Level",
    "Login",
    "LoginRefused",
    "Maildrop",
    "MaildropBusy",
    "MaildropSession",
    "Message",
    "MessageGone",
    "MessageUnavailable",
    "NamedSession",
    "Overloaded",
    "Parameters",
    "PipeliningTransaction",
    "Receipt",
    "Recipient",
    "Refused",
    "Relay",
    "RelayCapabilities",
    "Secret",
    "Setting",
    "SettingType",
    "SettingsMistake",
    "StorageFull",
    "Transaction",
    "Unreachable",
    "Unusable",
    "Unverified",
    "WholeMessageRelay",
    "normalised",
)
