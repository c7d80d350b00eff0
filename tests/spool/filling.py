"""Fills the disk under a spool, makes room, and prints how many messages were accepted, refused, and arrived.

python tests/spool/filling.py FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import anyio

from legacy_email_proxy.contracts import StorageFull
from legacy_email_proxy_plugins.spool import sqlite_store
from spool.support import Backend, send, spool_to, until_states


async def main(folder: Path) -> None:
    # The disk claims to have room, so that messages meet the end of it wherever they happen to be.
    sqlite_store.os = SimpleNamespace(statvfs=lambda _: SimpleNamespace(f_bavail=1 << 30, f_frsize=4096))  # type: ignore[attr-defined,assignment]
    spool = spool_to(Backend(before_dot=lambda _: anyio.sleep_forever()), folder)
    spool.grace_seconds = 0.05
    await spool.start()
    accepted = refused = 0
    for number in range(60):
        try:
            await send(spool, content=b"%d " % number + b"x" * (150_000 if number % 3 else 20_000))
            accepted += 1
        except StorageFull:
            refused += 1
    await spool.aclose()
    # Started again on the full disk: what was accepted goes out, and makes room for more.
    backend = Backend()
    spool = spool_to(backend, folder)
    await spool.start()
    await until_states(spool)
    await send(spool, content=b"there is room again")
    await until_states(spool)
    await spool.aclose()
    arrived = {content.partition(b" ")[0] for content in backend.contents}
    print(accepted, refused, len(arrived) - 1)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
