"""A spool in front of the real relay: many messages of one device, over all connections that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes.smtp import FakeSMTPServer, Say
from legacy_email_proxy_plugins.smtps.settings import Timeouts
from realservers.certificates import Certificates
from smtps.support import PASSWORD, USER, relay_to, server_tls
from spool.support import send, spooling, until_states
from waiting import until

pytestmark = pytest.mark.usefixtures("store")


async def test_a_batch_of_one_device_does_not_stop_itself(tmp_path: Path, certificates: Certificates) -> None:
    """Three of four connections would be one device's share, and the fourth message would wait for nothing."""
    most = 0

    def slowly(*_: Any) -> Say:
        nonlocal most
        most = max(most, server.open_connections)
        return Say("250 2.0.0 taken", 0.3)

    async with FakeSMTPServer(
        tls=server_tls(certificates.good), accounts={USER: PASSWORD}, script={".": slowly}
    ) as server:
        # Nobody who waits for a free connection has the patience to see one.
        relay = relay_to(
            server.port, certificates.good.ca_file, timeouts=Timeouts(slot=0.1), BACKEND_SMTP_MAX_CONNECTIONS=4
        )
        async with spooling(relay, tmp_path, BACKEND_SMTP_MAX_CONNECTIONS="4") as spool:
            delivery: Any = spool._delivery
            for _ in range(12):
                await send(spool)
            await until(lambda: len(server.messages) == 12 or delivery._gate.closed)
            assert not delivery._gate.closed
            await until_states(spool)
    assert most == 4
