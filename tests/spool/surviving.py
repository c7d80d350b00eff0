"""One of two proxies on a PostgreSQL spool: takes messages, delivers some, sticks in the others, waits to be killed.

python tests/spool/surviving.py FOLDER URL COUNT LEASE_SECONDS
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import anyio

from legacy_email_proxy_plugins.spool import postgres_store
from spool.support import Backend, send, spool_to


async def main(folder: Path, url: str, count: int) -> None:
    """A line for each 250, another for each delivery."""

    def after_dot(content: bytes) -> None:
        _say(f"delivered {content.decode()}")

    async def before_dot(content: bytes) -> None:
        if int(content) % 2:
            await anyio.sleep_forever()

    backend = Backend(before_dot=before_dot, after_dot=after_dot)
    spool = spool_to(backend, folder, SPOOL_URL=url, BACKEND_SMTP_MAX_CONNECTIONS="4")
    await spool.start()
    for number in range(count):
        await send(spool, content=b"%d" % number)
        _say(f"250 {number}")
    await anyio.sleep_forever()


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    postgres_store.LEASE_SECONDS = float(sys.argv[4])
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
