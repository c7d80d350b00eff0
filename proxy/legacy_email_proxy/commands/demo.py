"""Try it without an account, in front of embedded servers.

Behind the real proxy stand an IMAPS and an SMTPS server of its own. It is composed as a user would compose it: from
variables, with the built-in plugins, the certificates verified.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from .. import log
from ..build import compose
from ..contracts import SettingsMistake
from ..demo import history
from ..demo.instructions import instructions
from ..history.recorder import recording
from ..service import Addresses, serve
from ..signals import Signals

if TYPE_CHECKING:
    from ..demo.backends import Backends

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the proxy listens. The values become settings, which report what is wrong with them."""
    parser.add_argument(
        "--pop3-port", default="1110", metavar="PORT", help="POP3 listens here; 0 takes any free one (%(default)s)"
    )
    parser.add_argument(
        "--smtp-port", default="1025", metavar="PORT", help="SMTP listens here; 0 takes any free one (%(default)s)"
    )
    parser.add_argument(
        "--bind", default="127.0.0.1", metavar="ADDRESS", help="address on which both listen (%(default)s)"
    )
    parser.add_argument(
        "--page",
        action="store_true",
        help="also the operator's page, on a free port of 127.0.0.1, with a history; mail goes through a spool",
    )
    parser.epilog = """\
example, for a scanner in the network, with this machine's address there:
  %(prog)s --bind 192.168.1.10
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0 after SIGINT or SIGTERM. 2: the extra is not installed, or a listener can not be opened."""
    try:
        from ..demo.backends import running
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__name__.partition(".")[0]):
            raise
        raise SettingsMistake(
            f"demo: the embedded servers are not installed (no module {error.name});"
            " run: pip install 'legacy-email-proxy[demo]', or in a checkout: pip install '.[demo]'"
        ) from None
    log.configure("info", "text")
    anyio.run(_demonstrate, options, running, backend="asyncio")
    return 0


async def _demonstrate(
    options: argparse.Namespace, embedded: Callable[[Path], AbstractAsyncContextManager[Backends]]
) -> None:
    def tell(addresses: Addresses) -> None:
        page = addresses.admin[0] if options.page else None
        print(instructions(addresses.pop3[0], addresses.smtp[0], page), flush=True)
        if options.page:
            # In a thread of its own, which nobody waits for: the service has to run meanwhile, and may end.
            Thread(target=history.send, args=addresses.smtp[:1], daemon=True).start()

    # Signals are received before the folder is made: otherwise one that comes at the start would leave it behind.
    with (
        Signals(signal.SIGTERM, signal.SIGINT) as signals,
        TemporaryDirectory(prefix="legacy-email-proxy-demo-") as folder,
    ):
        async with embedded(Path(folder)) as backends:
            variables = {}
            if options.page:
                state_dir = Path(folder) / "state"
                await anyio.to_thread.run_sync(history.write, state_dir)
                variables = {"STATE_DIR": str(state_dir), "RELAY_PLUGIN": "spool", "ADMIN_BIND_PORT": "0"}
            composition = compose(
                {
                    "POP3_BIND_ADDR": options.bind,
                    "POP3_BIND_PORT": options.pop3_port,
                    "SMTP_BIND_ADDR": options.bind,
                    "SMTP_BIND_PORT": options.smtp_port,
                    **backends.variables(),
                    **variables,
                }
            )
            with recording(composition.settings) if options.page else nullcontext():
                await serve(composition, signals, on_ready=tell)
