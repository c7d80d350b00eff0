"""``python -m legacy_email_proxy`` is the same as the command ``legacy-email-proxy``."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
