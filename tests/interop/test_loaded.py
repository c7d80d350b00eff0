"""What the running service has loaded: every module costs memory for as long as it runs, and time at each start."""

from __future__ import annotations

import sys
from pathlib import Path

from interop.proxy import running

_LOADED = """
import os, sys
from pathlib import Path
from legacy_email_proxy import cli

leave = os._exit

def told(status):
    Path(sys.argv[1]).write_text("\\n".join(sys.modules))
    leave(status)

os._exit = told
sys.exit(cli.main([]))
"""
"""The command; as it leaves, it writes what it has loaded."""

_CORE, _PLUGINS = "legacy_email_proxy", "legacy_email_proxy_plugins"
_NEEDED = {
    *("aiosmtpd.smtp", "imapclient", "anyio", "environs", "sqlite3"),
    *(f"{_CORE}.commands.serve", f"{_PLUGINS}.imap", f"{_PLUGINS}.smtps", f"{_PLUGINS}.password"),
}
_NOT_NEEDED = {
    # tests, demo
    *("pytest", "hypothesis", "pymap", "trustme", f"{_CORE}.testing", f"{_CORE}.demo"),
    # other commands
    *("argcomplete", "configparser", "smtplib", f"{_CORE}.setup", f"{_CORE}.units"),
    # the admin listener
    *("uvicorn", "starlette", "prometheus_client", "jinja2", f"{_CORE}.admin.http", f"{_CORE}.admin.page"),
    # OAuth2, Graph, SCRAM, encryption of our own
    *("httpx2", "httpcore2", "jwt", "cryptography", "scramp", f"{_PLUGINS}.oauth2", f"{_PLUGINS}.graph"),
    # other plugins, and a database of several proxies
    *("psycopg", f"{_PLUGINS}.spool", f"{_PLUGINS}.maildir", f"{_PLUGINS}.filters", f"{_PLUGINS}.state"),
    # an accounts file, a balancer, alerts
    *("tomllib", "proxyprotocol", f"{_CORE}.proxy_protocol", f"{_CORE}.alerts.mail", f"{_CORE}.alerts.channels"),
}


_BACKENDS = {
    "BACKEND_IMAP_HOST": "127.0.0.1",
    "BACKEND_IMAP_USER": "device",
    "BACKEND_IMAP_PASS": "secret",
    "BACKEND_SMTP_HOST": "127.0.0.1",
    "BACKEND_SMTP_USER": "device",
    "BACKEND_SMTP_PASS": "secret",
}
_OAUTH2 = {
    "BACKEND_IMAP_CREDENTIALS": "oauth2",
    "BACKEND_SMTP_CREDENTIALS": "oauth2",
    "OAUTH2_GRANT": "refresh_token",
    "OAUTH2_TOKEN_URL": "https://127.0.0.1/token",
    "OAUTH2_CLIENT_ID": "proxy",
    "OAUTH2_CLIENT_SECRET": "secret",
    "OAUTH2_SCOPE": "mail",
    "OAUTH2_REFRESH_TOKEN": "secret",
}


def loaded_with(folder: Path, **variables: str) -> set[str]:
    file = folder / "modules"
    with running(variables, [sys.executable, "-c", _LOADED, str(file)]):
        pass
    return set(file.read_text().splitlines())


def test_only_what_is_on(tmp_path: Path) -> None:
    """Both legs with their default plugins, and the history; nothing else is set."""
    loaded = loaded_with(tmp_path, **_BACKENDS)
    assert loaded >= _NEEDED
    commands = {name for name in loaded if name.startswith(f"{_CORE}.commands.")}
    assert commands == {f"{_CORE}.commands.serve"}
    assert loaded & _NOT_NEEDED == set()


def test_oauth2_with_neither_key_nor_certificate(tmp_path: Path) -> None:
    """Cryptography alone would take seven MiB."""
    loaded = loaded_with(tmp_path, **_BACKENDS, **_OAUTH2)
    assert loaded >= {"httpx2", f"{_PLUGINS}.oauth2.tokens"}
    assert loaded & {"cryptography", "jwt"} == set()
