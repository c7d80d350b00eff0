"""Measures POP3: `python tests/bench/pop3.py [--only NAME] [--quick]`. The rival is Dovecot over `imapc`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

    from bench.pop3_work import main

    sys.exit(main())
