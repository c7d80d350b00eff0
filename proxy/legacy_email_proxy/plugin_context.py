"""The :class:`~legacy_email_proxy.contracts.Context` that the service hands to a plugin."""

from __future__ import annotations

import logging
import math
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import plugins
from .contracts import Credentials, Relay, SettingsMistake
from .relays.rate_limit import PATIENCE_SECONDS, PacedRelay, Turns, paced

__all__ = ("PluginContext",)

_CIPHERS = (
    "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES"
    ":kRSA+AESGCM:kRSA+AES:!AESCCM:!aDSS"
)
"""What a backend may choose from with TLS 1.2, the best first. SHA-1, and the last, without forward secrecy, are all
that some old servers on a firm's own premises have. Python's own choice depends on its version and on who built it, and
so does how strictly it reads the certificates of a CA: one Python would reach a server, and another would not."""


@dataclass(frozen=True, slots=True)
class PluginContext:
    """See :class:`~legacy_email_proxy.contracts.Context`. ``name`` is ``kind.plugin``: the logger's and folder's.

    Where there are several accounts, ``account`` stands behind it: nothing that is kept for one is read by another.
    ``shared`` holds the credentials plugins that are made already, by name: all contexts of an account have one.
    """

    name: str
    settings: Mapping[str, Any]
    account: str = ""
    shared: dict[str, Credentials] = field(default_factory=dict)
    turns: dict[str, Turns] = field(default_factory=dict)
    """Account → when its last messages went out, where their rate is limited."""
    next_relays: list[Relay] = field(default_factory=list)
    """Those that the plugin hands on to."""

    def of(self, group: str, name: str) -> PluginContext:
        """The same account's, for the plugin of this name in an entry-point group."""
        return replace(self, name=f"{group.rpartition('.')[2]}.{name.replace(':', '.')}", next_relays=[])

    @property
    def _own_name(self) -> str:
        return f"{self.name}.{self.account}" if self.account else self.name

    @property
    def logger(self) -> logging.Logger:
        """The plugin's own logger, below the project's."""
        return logging.getLogger(f"legacy_email_proxy.{self._own_name}")

    @property
    def state_dir(self) -> Path:
        """``STATE_DIR/kind.plugin`` or ``STATE_DIR/kind.plugin.account``, made on first use."""
        path: Path = self.settings["STATE_DIR"] / self._own_name
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.geteuid() == 0:
                # A command that root runs must not leave a folder that the service, whose STATE_DIR is, can't use.
                owner = path.parent.stat()
                os.chown(path, owner.st_uid, owner.st_gid)
        return path

    def tls(self, ca_file_variable: str) -> ssl.SSLContext:
        """A verifying client context; there is no way here to get one that does not verify."""
        ca_file: Path | None = self.settings[ca_file_variable]
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no PEM certificate"
            raise SettingsMistake(f"{ca_file_variable}: can not read {str(ca_file)!r}: {reason}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        # Name, chain and date are always verified. STRICT is about formal fields, which a firm's own CA may leave out.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    def credentials(self, variable: str) -> Credentials:
        """The credentials plugin that ``variable`` names, made when it is first asked for."""
        name: str = self.settings[variable]
        if name not in self.shared:
            self.shared[name] = self._named(plugins.CREDENTIALS, variable)
        return self.shared[name]

    def relay(self, variable: str) -> Relay:
        """A relay of the plugin that ``variable`` names, which keeps the pace that its backend asks for."""
        relay = self.paced(self._named(plugins.RELAY, variable), math.inf)
        self.next_relays.append(relay)
        return relay

    def paced(self, relay: Relay, patience_seconds: float = PATIENCE_SECONDS) -> Relay:
        """``relay`` with the pace that the account's settings ask for."""
        relay = paced(relay, self.settings, patience_seconds, self.turns.get(self.account))
        if isinstance(relay, PacedRelay):
            self.turns[self.account] = relay.turns
        return relay

    def _named(self, group: str, variable: str) -> Any:
        name: str = self.settings[variable]
        try:
            plugin = plugins.load(plugins.find(group, name))
        except plugins.PluginError as error:
            raise SettingsMistake(f"{variable}: {error}") from None
        return self.of(group, name).construct(plugin, variable, name)

    def construct(self, plugin: Callable[[PluginContext], Any], variable: str, name: str) -> Any:
        """An instance of ``plugin`` with this context; ``variable`` named it so. Raises :class:`SettingsMistake`."""
        try:
            return plugin(self)
        except SettingsMistake:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise SettingsMistake(f"{variable}: plugin {name!r} can not be set up: {reason}") from error
