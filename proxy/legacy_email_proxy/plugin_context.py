"""The :class:`~legacy_email_proxy.contracts.Context` that the service hands to a plugin."""

from __future__ import annotations

import logging
import math
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import registry
from .contracts import Credentials, Relay, SettingsMistake
from .pace import paced

__all__ = ("PluginContext",)


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
    next_relays: list[Relay] = field(default_factory=list)
    """Those that the plugin hands on to."""

    @classmethod
    def of(
        cls, group: str, name: str, settings: Mapping[str, Any], account: str, shared: dict[str, Credentials]
    ) -> PluginContext:
        """For the plugin of this name in an entry-point group."""
        return cls(f"{group.rpartition('.')[2]}.{name.replace(':', '.')}", settings, account, shared)

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
        return context

    def credentials(self, variable: str) -> Credentials:
        """The credentials plugin that ``variable`` names, made when it is first asked for."""
        name: str = self.settings[variable]
        if name not in self.shared:
            self.shared[name] = self._named(registry.CREDENTIALS, variable)
        return self.shared[name]

    def relay(self, variable: str) -> Relay:
        """A relay of the plugin that ``variable`` names, which keeps the pace that its backend asks for."""
        relay = paced(self._named(registry.RELAY, variable), self.settings, math.inf)
        self.next_relays.append(relay)
        return relay

    def _named(self, group: str, variable: str) -> Any:
        name: str = self.settings[variable]
        try:
            plugin = registry.load(registry.find(group, name))
        except registry.PluginError as error:
            raise SettingsMistake(f"{variable}: {error}") from None
        return PluginContext.of(group, name, self.settings, self.account, self.shared).construct(plugin, variable, name)

    def construct(self, plugin: Callable[[PluginContext], Any], variable: str, name: str) -> Any:
        """An instance of ``plugin`` with this context; ``variable`` named it so. Raises :class:`SettingsMistake`."""
        try:
            return plugin(self)
        except SettingsMistake:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise SettingsMistake(f"{variable}: plugin {name!r} can not be set up: {reason}") from error
