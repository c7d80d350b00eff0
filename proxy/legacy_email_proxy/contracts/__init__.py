"""The one door between the core and its plugins: all that a plugin author imports.

``from legacy_email_proxy.contracts import …`` works for every name below. This package imports nothing else of ours,
so a plugin can be type-checked and tested without the rest.
"""

from __future__ import annotations

from .context import Context
from .credentials import (
    Account,
    Authorizable,
    BearerToken,
    Credentials,
    Dialogue,
    Password,
    StartingCredentials,
    TokenStatus,
    logged_in,
)
from .domain import ascii_domain
from .envelope import NULL_REVERSE_PATH, Client, Message, Parameters, Receipt
from .failures import (
    CredentialsRefused,
    Disconnected,
    Failure,
    LoginRefused,
    MaildropBusy,
    MessageGone,
    MessageUnavailable,
    NoCredentials,
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
from .queue import QUEUE_ACTIONS, BackedUpQueue, Queue, QueueAction
from .relay import (
    PipeliningTransaction,
    Recipient,
    Relay,
    RelayCapabilities,
    StartingRelay,
    Transaction,
    WholeMessageRelay,
    add_recipients,
)
from .secret import Secret
from .setting import Setting, SettingType

__all__ = (
    "NULL_REVERSE_PATH",
    "QUEUE_ACTIONS",
    "Account",
    "Authorizable",
    "BackedUpQueue",
    "BearerToken",
    "Client",
    "Columns",
    "Context",
    "Credentials",
    "CredentialsRefused",
    "Dialogue",
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
    "NoCredentials",
    "Overloaded",
    "Parameters",
    "Password",
    "PipeliningTransaction",
    "Queue",
    "QueueAction",
    "Receipt",
    "Recipient",
    "Refused",
    "Relay",
    "RelayCapabilities",
    "Secret",
    "Setting",
    "SettingType",
    "SettingsMistake",
    "StartingCredentials",
    "StartingRelay",
    "StorageFull",
    "TokenStatus",
    "Transaction",
    "Unreachable",
    "Unusable",
    "Unverified",
    "WholeMessageRelay",
    "add_recipients",
    "ascii_domain",
    "logged_in",
    "normalised",
)
