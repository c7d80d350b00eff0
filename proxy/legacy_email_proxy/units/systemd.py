"""The units for systemd: the service, and a socket for each of its ports."""

from __future__ import annotations

from ipaddress import ip_address

from ..contracts import SettingsMistake
from .facts import STATE_DIR, Facts, Listener, UnitFile, filled, place

__all__ = ("quoted", "systemd")

_FOLDER = "/etc/systemd/system"
_SERVICE = "legacy-email-proxy"
_ACCOUNTS = """\
# Files that the accounts file names must be readable for the service, too: add LoadCredential=NAME:/its/path for
# each, and write /run/credentials/legacy-email-proxy.service/NAME into the accounts file."""


def systemd(facts: Facts) -> list[UnitFile]:
    """The service first."""
    sockets = [f"{_SERVICE}-{each.name}.socket" for each in facts.listeners]
    service = filled(
        "service.template",
        units=" ".join((_SERVICE, *sockets)),
        command=facts.command.replace("%", "%%"),
        stop_seconds=facts.stop_seconds,
        sockets=" ".join(sockets),
        settings=_settings(facts),
        credentials=_credentials(facts),
        state_dir=STATE_DIR,
        folders=_folders(facts),
    )
    units = [UnitFile(_FOLDER, f"{_SERVICE}.service", service)]
    for each, name in zip(facts.listeners, sockets, strict=True):
        units.append(UnitFile(_FOLDER, name, filled("socket.template", name=each.name, listen=_listen(each))))
    return units


def quoted(text: str) -> str:
    """One word of a unit file: nothing in it is a variable, an escape or a specifier."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _settings(facts: Facts) -> str:
    if facts.env_file:
        return f"# The settings; systemd reads them as root.\nEnvironmentFile={facts.env_file.replace('%', '%%')}\n"
    lines = [f"Environment={quoted(f'{name}={text}')}" for name, text in facts.plain.items()]
    return "\n".join(("# The settings.", *lines, ""))


def _credentials(facts: Facts) -> str:
    """Each under the name of its variable, so that the service finds it; systemd reads the files as root."""
    found = {**facts.secrets, **facts.files}
    if facts.env_file:
        # A secret without a file is in that file itself.
        found = {name: path for name, path in found.items() if path}
    if not found:
        return ""
    lines = ["# Secrets and certificates: files that root alone needs to be able to read."]
    for name, path in found.items():
        if not path:
            lines.append(f"# Write its value into this file: install -m 0600 /dev/stdin /etc/{_SERVICE}/{name}")
        lines.append(f"LoadCredential={name}:{(path or f'/etc/{_SERVICE}/{name}').replace('%', '%%')}")
    if "ACCOUNTS_FILE" in found:
        lines.append(_ACCOUNTS)
    return "\n".join((*lines, ""))


def _folders(facts: Facts) -> str:
    """What it writes besides its own folder."""
    folders = list(facts.folders)
    if facts.env_file and str(facts.settings["STATE_DIR"]) != STATE_DIR:
        folders.append(str(facts.settings["STATE_DIR"]))
    if not folders:
        return ""
    words = "# It also writes here, so this must be writable for its user: name one with User= and DynamicUser=no."
    return "\n".join((words, *(f"ReadWritePaths={each.replace('%', '%%')}" for each in folders)))


def _listen(listener: Listener) -> str:
    try:
        return "\n".join(f"ListenStream={place(ip_address(each), listener.port)}" for each in listener.addresses)
    except ValueError as error:
        raise SettingsMistake(f"{listener.bind_variable}: systemd opens ports on addresses only: {error}") from None
