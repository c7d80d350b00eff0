"""A durable spool: what a device read 250 for is on disk, and is tried until the backend has it or has refused it.

``relay`` takes an account's messages and puts them into the ``spool`` that its ``settings`` name, which it may have
in common with other accounts: a ``store``. What all stores do stands in ``sql_store``, with ``incoming``,
``group_commit`` and ``sql_records``; ``sqlite_store`` adds ``schema``, ``sqlite_files`` and ``backup``, and
``postgres_store`` has ``postgres_connection``, ``migrations``, ``postgres_bodies`` and ``leases``. The account's
``delivery`` takes messages out again, one ``attempt`` after the other, and has ``notification``
written for what fails. ``admin`` is the operator's, also while a service has the file.
"""

from __future__ import annotations

from .relay import SpoolRelay

__all__ = ("SpoolRelay",)
