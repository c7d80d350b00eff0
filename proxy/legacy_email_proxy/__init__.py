"""Legacy Email Proxy: plain POP3 and plain SMTP for old devices, in front of IMAPS and SMTPS providers.

Start reading at ``service`` (what runs), then follow one message: ``pop3/`` and ``smtp/`` serve the devices,
``contracts/`` says how both call a plugin. ``proxy/README.md`` in the repository is the map.
"""

from __future__ import annotations

__all__ = ("__version__",)

__version__ = "0.1.0"
