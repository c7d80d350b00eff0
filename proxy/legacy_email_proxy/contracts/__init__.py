"""All that a plugin imports from the core: the contracts between the two.

``from legacy_email_proxy.contracts import …`` works for every name below. This package imports nothing else of ours,
so a plugin can be type-checked and tested without the rest.
"""

from __future__ import annotations

from .container import in_container, in_nameless_volume, unwritable
from .context import BOUND, Context, Setting, SettingType, bound
from .credentials import (
    Account,
    Authorizable,
    BearerToken,
    Credentials,
    Dialogue,
    Password,
    Secret,
    StartingCredentials,
    TokenStatus,
    logged_in,
)
from .domain import ascii_domain
from .failures import (
    CredentialsRefused,
    Disconnected,
    Failure,
    Finding,
    Level,
    LoginRefused,
    LoginsLimited,
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
from .figures import TIMINGS, Figure, Observed, timed, took
from .filter import Envelope, Filter
from .header import Header, normalised
from .maildrop import Columns, Entry, Login, Maildrop, MaildropSession, NamedSession, ReadySession, at_hand_of
from .relay import (
    NULL_REVERSE_PATH,
    QUEUE_ACTIONS,
    BackedUpQueue,
    Client,
    Message,
    Parameters,
    PipeliningTransaction,
    Queue,
    QueueAction,
    QueueFilter,
    Receipt,
    Recipient,
    Relay,
    RelayCapabilities,
    StartingRelay,
    Transaction,
    add_recipients,
)
from .state import SharedState
from .whole_message import WholeMessageRelay

__all__ = (  # noqa: RUF022 (by kind of plugin)
    # A relay: what SMTP hands on to.
    "NULL_REVERSE_PATH",
    "QUEUE_ACTIONS",
    "BackedUpQueue",
    "Message",
    "Parameters",
    "PipeliningTransaction",
    "Queue",
    "QueueAction",
    "QueueFilter",
    "Receipt",
    "Recipient",
    "Refused",
    "Relay",
    "RelayCapabilities",
    "StartingRelay",
    "Transaction",
    "WholeMessageRelay",
    "add_recipients",
    # A maildrop: what POP3 opens.
    "Columns",
    "Entry",
    "Login",
    "LoginRefused",
    "LoginsLimited",
    "Maildrop",
    "MaildropBusy",
    "MaildropSession",
    "MessageGone",
    "MessageUnavailable",
    "NamedSession",
    "ReadySession",
    "at_hand_of",
    # A filter: what may change an envelope or a header.
    "Envelope",
    "Filter",
    "Header",
    # Credentials: what backends are logged in to with.
    "Account",
    "Authorizable",
    "BearerToken",
    "Credentials",
    "Dialogue",
    "Password",
    "StartingCredentials",
    "TokenStatus",
    "logged_in",
    # What every kind of plugin may need.
    "BOUND",
    "TIMINGS",
    "Client",
    "Context",
    "CredentialsRefused",
    "Disconnected",
    "Failure",
    "Figure",
    "Finding",
    "Level",
    "NoCredentials",
    "Observed",
    "Overloaded",
    "Secret",
    "Setting",
    "SettingType",
    "SettingsMistake",
    "SharedState",
    "StorageFull",
    "Unreachable",
    "Unusable",
    "Unverified",
    "ascii_domain",
    "bound",
    "in_container",
    "in_nameless_volume",
    "normalised",
    "timed",
    "took",
    "unwritable",
)
