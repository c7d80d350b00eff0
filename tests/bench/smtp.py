"""Measures SMTP: `python tests/bench/smtp.py [--only NAME] [--quick]`. The rival is Postfix as a smarthost relay."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

    from bench.smtp_work import main

    sys.exit(main())
