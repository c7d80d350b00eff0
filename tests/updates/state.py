"""State folders, one for each version that has other files than the one before.

``python -m updates.state``, in ``tests``, makes that of this version.

Run it once when such a version is released, and never again for that one: what it makes tests the next versions.
"""

from __future__ import annotations

import asyncio
import shutil
import smtplib
import socket
import tempfile
from pathlib import Path

from interop.proxy import running
from legacy_email_proxy import __version__
from legacy_email_proxy.contracts import Secret
from legacy_email_proxy_plugins.imap.folder_state import Memory
from legacy_email_proxy_plugins.oauth2.store import Record, Store

HERE = Path(__file__).parent
SMALL = b"From: scan@firm.example\r\nTo: ann@firm.example\r\nSubject: small\r\n\r\n.one page\r\n"
LARGE = b"From: scan@firm.example\r\nTo: ann@firm.example\r\nSubject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 4000
WHO = ("imap.firm.example", "ann", "INBOX")
UIDVALIDITY = 1_700_000_000
HIDDEN = {1, 2, 3, 17}
KEY = Secret("a passphrase of the operator")
TOKEN = "a-refresh-token-that-works-nowhere"
TOKENS = {"plain@firm.example": None, "sealed@firm.example": KEY}
"""Account → the key that its tokens are encrypted with."""
_NOT_KEPT = ("control.sock", "spool.db.reserve", "spool.db.lock", "spool.db.trying")
"""What each start makes anew."""


def variables(state: Path) -> dict[str, str]:
    """A service that keeps mail in its spool."""
    return {
        "STATE_DIR": str(state), "MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "spool", "SMTP_ADD_RECEIVED": "false",
        "SMTP_ADD_MISSING": "false", "SPOOL_RETRY_SECONDS": "1", "HISTORY_DAYS": "3650",
        "BACKEND_SMTP_HOST": "localhost",
    }  # fmt: skip


def make(state: Path) -> None:
    """Two messages that wait, the history of them, tokens, and a list of deleted messages."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = {"BACKEND_SMTP_HOST": "127.0.0.1", "BACKEND_SMTP_PORT": str(closed.getsockname()[1])}
        with running(variables(state) | away) as proxy, smtplib.SMTP(*proxy.smtp) as device:
            for content in (SMALL, LARGE):
                device.sendmail("scan@firm.example", ["ann@firm.example"], content)
            device.quit()
            proxy.wait_for("delivery paused")
    memory(state).change(UIDVALIDITY, lambda known: known.hidden.update(HIDDEN))
    for account, key in TOKENS.items():
        asyncio.run(store(state, account, key).save(Record("device_code", refresh_token=Secret(TOKEN), obtained=1.8e9)))


def store(state: Path, account: str, key: Secret | None) -> Store:
    return Store(lambda: _folder(state, "credentials.oauth2"), account, key)


def memory(state: Path) -> Memory:
    return Memory(lambda: _folder(state, "maildrop.imap"), *WHO)


def _folder(state: Path, name: str) -> Path:
    (state / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    return state / name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "state"
        make(made)
        target = HERE / f"state-{__version__}"
        shutil.copytree(made, target, ignore=shutil.ignore_patterns(*_NOT_KEPT))
        print(*sorted(f"{each.stat().st_size:>8} {each}" for each in target.rglob("*") if each.is_file()), sep="\n")
