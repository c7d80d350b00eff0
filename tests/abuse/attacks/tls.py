"""Attacks on TLS, where the proxy has a certificate."""

from __future__ import annotations
from abuse.scene import Attack
ATTACKS: tuple[Attack, ...] = ()
