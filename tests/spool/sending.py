"""Sends messages into a spool whose backend is away, for a test that watches the system calls.

python tests/spool/sending.py FOLDER [many]
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import anyio

from legacy_email_proxy.contracts import Failure
from legacy_email_proxy.replies import smtp_reply
from spool.support import Backend, send, spool_to


async def main(folder: Path, *, many: bool) -> None:
    """`begin KIND` and `250 KIND` around each; with `many`, the verdict on each of forty."""
    spool = spool_to(Backend(before_dot=lambda _: anyio.sleep_forever()), folder, BACKEND_SMTP_MAX_CONNECTIONS="1")
    spool.grace_seconds = 0.05
    await spool.start()
    if many:
        for number in range(40):
            _say(f"{await _verdict(spool, number)} {number}")
    else:
        for kind, octets in (("small", 2000), ("large", 300_000)):
            _say(f"begin {kind}")
            await send(spool, content=b"x" * octets)
            _say(f"250 {kind}")
    await spool.aclose()


async def _verdict(spool: Any, number: int) -> int:
    try:
        await send(spool, content=b"%d " % number + b"x" * (100_000 if number % 4 == 0 else 100))
    except Failure as failure:
        return smtp_reply(failure).code
    return 250


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), many=len(sys.argv) > 2))
