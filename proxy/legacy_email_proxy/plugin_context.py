"""The :class:`~legacy_email_proxy.contracts.Context` that the service hands to a plugin."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contracts import SettingsMistake

__all__ = ("PluginContext",)


@dataclass(frozen=True, slots=True)
class PluginContext:
    """See :class:`~legacy_email_proxy.contracts.Context`. ``name`` is ``kind.plugin``: the logger's and folder's.

    Where there are several accounts, ``account`` stands behind it: nothing that is kept for one is read by another.
    """

    name: str
    settings: Mapping[str, Any]
    account: str = ""

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
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
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
