"""An update of one proxy after the other, behind the balancer: nobody loses a message, and nobody gets one twice."""

from __future__ import annotations

import pytest

from interop.rolling import Rolling
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.postgres import Postgres
from realservers.processes import wait_until


@pytest.mark.long
def test_two_proxies_are_restarted_in_turn(dovecot: Dovecot, postfix: Postfix, postgres: Postgres) -> None:
    with Rolling(dovecot, postfix, postgres, mailboxes=2) as rolling:
        rolling.begin(senders=4, readers=4, pause=0.1)
        for name in ("one", "two"):
            accepted = len(rolling.found.accepted)
            wait_until(lambda: len(rolling.found.accepted) > accepted + 5, "devices send", 50)  # noqa: B023
            log = rolling.proxies[name].log
            assert " client=127.0.1." in log, "the device is seen behind the balancer"
            rolling.restart(name)
        rolling.settle()
    found = rolling.found
    assert not found.faults
    assert not found.lost
    assert not found.doubled
    assert found.sessions > 4
