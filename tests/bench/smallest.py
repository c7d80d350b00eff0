"""The smallest program that can do our work: what must be loaded is loaded, two ports greet, and that is all.

It is what `idle.py` measures beside the proxy. The libraries are those that both legs, the settings and the history are
built on; the CAs are read once, and the history's database is open. Of the project it has only the choice of the loop.

    python smallest.py PORT PORT DATABASE
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import sqlite3
import ssl
import sys

import aiohappyeyeballs
import aiosmtpd.smtp
import anyio
import environs
import imapclient

from legacy_email_proxy.event_loop import loop_options

LOADED = (importlib.metadata, aiohappyeyeballs, aiosmtpd.smtp, environs, imapclient)


async def _greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 ready\r\n")
    writer.close()


async def _serve(ports: list[str], database: str) -> None:
    held = ssl.create_default_context(), sqlite3.connect(database)
    servers = [await asyncio.start_server(_greet, "127.0.0.1", int(port)) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))
    del held


if __name__ == "__main__":
    options = loop_options(os.environ.get("EVENT_LOOP", "auto"))
    anyio.run(_serve, sys.argv[1:-1], sys.argv[-1], backend_options=options)
