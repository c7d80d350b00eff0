"""Attacks of the machine itself: its log reader, signals, database, disk, name server and local users."""

from __future__ import annotations
from abuse.scene import Attack
ATTACKS: tuple[Attack, ...] = ()
