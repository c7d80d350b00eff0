"""What the command ``check`` tells about the IMAP server: each step that worked, and why the last one did not."""

from __future__ import annotations

from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Failure,
    Finding,
    Level,
    Login,
    Unreachable,
    Unverified,
)

from ..backend_settings import Encryption
from ..findings import explained
from .connection import Connection
from .deletion import find_trash, stays
from .folder_state import Memory
from .settings import Deletion, Options, Server

__all__ = ("failed", "inspect", "reached")

_WORTH_NAMING = ("UIDPLUS", "MOVE", "ID", "IDLE", "CONDSTORE", "SPECIAL-USE", "COMPRESS=DEFLATE")


def reached(server: Server, connection: Connection) -> list[Finding]:
    """The findings about a connection before the login."""
    how = f"over {connection.tls_version}, the certificate verifies" if connection.tls_version else "without TLS"
    findings = [Finding(Level.GOOD, f"reached {server.name} {how}")]
    if server.encryption is Encryption.NONE:
        advice = "set BACKEND_IMAP_USE_SSL or BACKEND_IMAP_USE_STARTTLS to true"
        findings.append(Finding(Level.WARNING, "passwords go to the IMAP server in the clear", advice))
    return findings


def inspect(
    server: Server,
    login: Login | None,
    options: Options,
    memory: Memory | None,
    findings: list[Finding],
    connection: Connection,
) -> None:
    """Take all further steps, in the worker thread, and add to ``findings``. Raises the failure of a step."""
    if login is None or memory is None:
        findings.append(Finding(Level.GOOD, "not logged in: each client brings its own login (POP3_LOGIN=backend)"))
        return
    findings.append(Finding(Level.GOOD, f"logged in as {login.user}"))
    offered = [name for name in _WORTH_NAMING if name in connection.capabilities]
    findings.append(Finding(Level.GOOD, f"the server offers {', '.join(offered) or 'no extension that is used here'}"))
    if options.deletion in (Deletion.EXPUNGE, Deletion.TRASH) and stays(options.deletion, connection):
        findings.append(
            Finding(
                Level.WARNING,
                "the server can not expunge single messages (no UIDPLUS)",
                "what POP3 clients delete stays in the folder, marked and not listed, until another client expunges",
            )
        )
    mailbox = connection.select()
    count = "1 message" if mailbox.exists == 1 else f"{mailbox.exists} messages"
    findings.append(Finding(Level.GOOD, f"folder {server.folder} holds {count}"))
    if mailbox.read_only:
        findings.append(
            Finding(
                Level.WARNING,
                f"folder {server.folder} is read-only",
                "POP3 clients can read but not delete; give the account the right to, or set BACKEND_IMAP_FOLDER",
            )
        )
    if stays(options.deletion, connection) or options.hide_after is not None:
        memory.ready()
    if options.deletion is Deletion.TRASH:
        trash = find_trash(connection)
        if trash is None or connection.is_selected(trash):
            advice = "QUIT will fail for POP3 clients that delete; choose another BACKEND_IMAP_DELETE"
            findings.append(Finding(Level.BAD, r"the server names no folder for trash (\Trash) but this one", advice))
        else:
            name = trash.decode(errors="backslashreplace")
            findings.append(Finding(Level.GOOD, f"what POP3 clients delete goes to {name}"))
    connection.logout()


def failed(failure: Failure) -> Finding:
    """The finding about the step that failed, with advice that fits the POP3 leg."""
    if (finding := explained(failure, failure.detail)) is not None:
        return finding
    look_at = f"look at {failure.look_at}" if failure.look_at else "try again later"
    if isinstance(failure, CredentialsRefused):
        advice = f"{look_at}; many providers want an app password here, or have IMAP switched off by default"
    elif isinstance(failure, Unverified):
        advice = f"{look_at}; name the server as its certificate does, and give the CA that signed it if it is your own"
    elif isinstance(failure, Unreachable):
        advice = f"{look_at}; is the name right, and may this machine connect there?"
    else:
        advice = look_at
    return Finding(Level.BAD, failure.detail, advice)
