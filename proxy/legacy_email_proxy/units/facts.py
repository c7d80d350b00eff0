"""What the present settings mean for a file that starts the service: its ports, variables, secrets and files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from string import Template

from ..build import NONE, choose
from ..contracts import Secret, Setting, SettingsMistake
from ..listeners import PLUGIN_OF
from ..settings import ALIASES, TABLE, Settings

__all__ = (
    "ADDRESS",
    "CREDENTIALS",
    "IMAGE",
    "NAME",
    "STATE_DIR",
    "Facts",
    "Listener",
    "UnitFile",
    "filled",
    "gather",
    "inside",
    "place",
    "published",
    "spool_is_shared",
)

NAME = "mail-proxy"
"""The name of the container, as README has it."""
STATE_DIR = "/var/lib/legacy-email-proxy"
CREDENTIALS = "/run/credentials"
"""Where the image looks for secrets and other files that are named after variables."""
ADDRESS = "192.168.1.10"
"""Stands for the machine's internal address, as in all pages."""
IMAGE = "localhost/legacy-email-proxy"
_ADMIN = "ADMIN"
_SECRET = ("secret", "document")
_SECRETS = frozenset(setting.name for setting in TABLE if setting.type in _SECRET)
_LEAVING_SECONDS = 15.0
"""How long the plugins may take to close after the drain."""
_TOKEN_SECONDS = 370.0
"""The same where the provider may just be replacing a refresh token: see ``service``."""


@dataclass(frozen=True, slots=True)
class UnitFile:
    """One file: the folder where it belongs, its name, its text."""

    folder: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Listener:
    """An open listener, ``name`` in small letters."""

    name: str
    addresses: tuple[str, ...]
    port: int

    @property
    def bind_variable(self) -> str:
        return f"{self.name.upper()}_BIND_ADDR"

    @property
    def particular(self) -> tuple[str, ...]:
        """Its addresses, if they are not all addresses of the machine."""
        return () if any(_is_wildcard(each) for each in self.addresses) else self.addresses


@dataclass(frozen=True, slots=True)
class Facts:
    """See the module. ``image`` and ``address`` are for containers, ``command`` is for systemd.

    ``plain`` is variable → text; ``secrets`` is variable → the file that its text is in, ``""`` if that is unknown;
    ``files`` is variable → the file that it names. With an ``env_file`` the first of them is there and not here.
    """

    settings: Settings
    listeners: tuple[Listener, ...]
    plain: Mapping[str, str]
    secrets: Mapping[str, str]
    files: Mapping[str, str]
    command: str
    image: str = IMAGE
    address: str = ADDRESS
    env_file: str = ""
    folders: tuple[str, ...] = field(default=())
    """Folders besides the state folder that the service writes to."""

    @property
    def devices(self) -> tuple[Listener, ...]:
        """Without the operator's listener."""
        return tuple(each for each in self.listeners if each.name != _ADMIN.lower())

    @property
    def stop_seconds(self) -> int:
        """After how long a service that does not stop may be killed."""
        drain: float = self.settings["DRAIN_DELAY_SECONDS"] + self.settings["DRAIN_SECONDS"]
        tokens = self.settings["OAUTH2_GRANT"] is not None
        return round(drain + (_TOKEN_SECONDS if tokens else _LEAVING_SECONDS))


def gather(environ: Mapping[str, str], *, command: str, image: str, address: str | None, env_file: str) -> Facts:
    """Read the settings from ``environ``. Raises :class:`SettingsMistake`.

    A secret's file need not be there: it may be meant for the inside of a container, or readable for root alone.
    """
    texts = {**environ}
    for alias, name in ALIASES.items():
        if (text := texts.pop(alias, "")) and not texts.get(name):
            texts[name] = text
    choice = choose(_without_unreadable(texts))
    if choice.mistakes:
        raise SettingsMistake(*choice.mistakes)
    plain, secrets, named, folders = {}, {}, {}, []
    for setting in choice.settings.declared:
        text, file = (texts.get(name, "").rstrip("\r\n") for name in (setting.name, f"{setting.name}_FILE"))
        if not (text or file) or setting.name == "STATE_DIR":
            continue
        if file or _is_secret(setting, text):
            secrets[setting.name] = file
        elif setting.type == "path" and setting.name.endswith("_FILE"):
            named[setting.name] = os.path.abspath(Path(text).expanduser())  # noqa: PTH100 (no link is followed)
        else:
            plain[setting.name] = text
            folders += [text] if setting.type == "path" else []
    listeners = tuple(_listeners(choice.settings))
    if not listeners:
        raise SettingsMistake("MAILDROP_PLUGIN: it and RELAY_PLUGIN are both `none`, so there is nothing to serve")
    bound = next((each for listener in listeners for each in listener.particular if listener.name != "admin"), ADDRESS)
    return Facts(
        choice.settings, listeners, plain, secrets, named, command, image, address or bound, env_file, tuple(folders)
    )


def _without_unreadable(texts: Mapping[str, str]) -> dict[str, str]:
    readable = {**texts}
    for name, text in texts.items():
        if name.endswith("_FILE") and text and not os.access(text, os.R_OK):
            variable = name.removesuffix("_FILE")
            if variable in _SECRETS:
                del readable[name]
                readable[variable] = "x"
    return readable


def _is_secret(setting: Setting, text: str) -> bool:
    return setting.type in _SECRET and not text.startswith("sqlite:///")


def _is_wildcard(address: str) -> bool:
    try:
        return ip_address(address).is_unspecified
    except ValueError:
        return False


def _listeners(settings: Settings) -> Iterable[Listener]:
    for name in (*PLUGIN_OF, _ADMIN):
        port = settings[f"{name}_BIND_PORT"]
        if port is None or (name in PLUGIN_OF and settings[PLUGIN_OF[name]] == NONE):
            continue
        if not port:
            raise SettingsMistake(f"{name}_BIND_PORT: 0 takes any free port, which nobody would find; name one")
        yield Listener(name.lower(), settings[f"{name}_BIND_ADDR"], port)


def place(address: IPv4Address | IPv6Address, port: int) -> str:
    """``10.0.0.1:25`` or ``[::1]:25``."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def published(facts: Facts) -> list[str]:
    """The devices' ports as a container publishes them: on the addresses that the settings name, or on the one."""
    found = []
    for each in facts.devices:
        for address in each.particular or (facts.address,):
            try:
                found.append(f"{place(ip_address(address), each.port)}:{each.port}")
            except ValueError as error:
                raise SettingsMistake(f"{each.bind_variable}: ports are published on addresses only: {error}") from None
    return found


def inside(facts: Facts) -> dict[str, str]:
    """The settings as they are inside of a container, without those that an env file has. There a listener is on all
    of the container's addresses: the address that is meant is where its port is published.
    """
    plain = {} if facts.env_file else dict(facts.plain)
    for each in facts.devices:
        plain.pop(each.bind_variable, None)
        if each.particular and facts.env_file:
            plain[each.bind_variable] = "0.0.0.0"  # noqa: S104
    return plain


def spool_is_shared(settings: Settings) -> bool:
    """Whether several proxies can have the spool."""
    url: Secret | None = settings["SPOOL_URL"]
    return url is not None and not url.reveal().startswith("sqlite:")


def filled(name: str, /, **values: object) -> str:
    """The template of that name, filled in. A line that is empty but for a value that is empty is left out."""
    template = (files(__package__) / name).read_text(encoding="utf-8")
    gone = {f"${key}" for key, value in values.items() if value == ""}
    lines = [line for line in template.splitlines(keepends=True) if line.strip() not in gone]
    return Template("".join(lines)).substitute(values)
