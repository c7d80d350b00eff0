"""One proxy in front of one account of the real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interop.proxy import Proxy, backends, running
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix


@pytest.fixture
def proxy(dovecot: Dovecot, postfix: Postfix, account: Account) -> Iterator[Proxy]:
    """A proxy for this test's own account."""
    with running(backends(dovecot, postfix, account)) as proxy:
        yield proxy
