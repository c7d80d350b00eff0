"""Measures the spool: `python tests/bench/spool.py [--only NAME] [--quick]`. The rival is Postfix as a smarthost."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

    from bench.spool_work import main

    sys.exit(main())
