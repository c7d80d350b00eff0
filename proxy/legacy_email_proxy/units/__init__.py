"""Files that start the service: for systemd, podman's quadlet, compose and Kubernetes, made for the present settings.

Each is a template beside this module, whose comments are for whoever runs it, and a module that fills it in. No secret
is ever written into one: the files name the place from which the service gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .compose import compose
from .facts import Facts, UnitFile, gather
from .kubernetes import kubernetes
from .quadlet import quadlet
from .systemd import systemd

__all__ = ("KINDS", "Facts", "UnitFile", "gather")

KINDS: Mapping[str, Callable[[Facts], list[UnitFile]]] = {
    "systemd": systemd,
    "quadlet": quadlet,
    "compose": compose,
    "kubernetes": kubernetes,
}
"""Each raises :class:`~..contracts.SettingsMistake` for settings that can not work that way."""
