"""A durable spool: a message is on disk before its device reads 250, and is tried until the backend has or refuses it.

``relay`` receives an account's messages and stores them in a ``spool``, which several accounts can share and which the
``settings`` name. A spool has a ``store``. Both kinds of store are a ``sql_store``, which uses ``incoming``,
``group_commit`` and ``sql_records``. ``sqlite_store`` adds ``schema``, ``sqlite_files`` and ``backup``;
``postgres_store`` adds ``postgres_connection``, ``migrations``, ``postgres_bodies`` and ``leases``. The account's
``delivery`` reads messages from the store and makes an ``attempt`` with each; ``notification`` writes to the senders of
those that failed. ``admin`` is for the operator's command, also while a service runs.
"""

from __future__ import annotations

from .relay import SpoolRelay

__all__ = ("SpoolRelay",)
