"""A durable spool: what a device read 250 for is on disk, and is tried until the backend has it or has refused it.

``relay`` takes an account's messages and puts them into the ``spool`` at its ``place``, which it may have in common
with other accounts: a ``store`` (``sqlite``, with ``arriving``, ``writer``, ``schema``, ``rows``, ``bodies``,
``marks``, ``reserve`` and ``lock``). The account's ``delivery`` takes them out again, one ``attempt`` after the other,
as ``schedule`` says, and has ``notification`` written for what fails. ``workbench`` is the operator's, over
``control`` while the service runs.
"""

from __future__ import annotations

from .relay import SpoolRelay

__all__ = ("SpoolRelay",)
