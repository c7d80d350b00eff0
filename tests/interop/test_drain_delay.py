"""A proxy that is about to stop says so first, and still serves everybody until the balancer has seen it."""

from __future__ import annotations

import poplib
import signal
import smtplib
from http.client import HTTPConnection
from pathlib import Path

from interop.proxy import maildirs, running


def test_devices_are_served_until_the_delay_is_over(tmp_path: Path) -> None:
    variables = {
        **maildirs(tmp_path),
        "ADMIN_BIND_PORT": "0",
        "DRAIN_DELAY_SECONDS": "1000",
    }
    with running(variables) as proxy:

        def status(path: str) -> int:
            asked = HTTPConnection(*proxy.place("admin"), timeout=50)
            asked.request("GET", path)
            found = asked.getresponse().status
            asked.close()
            return found

        assert [status(path) for path in ("/readyz/service", "/readyz", "/livez")] == [200, 200, 200]
        proxy.send(signal.SIGTERM)
        proxy.wait_for(" stopping ")
        while status("/readyz/service") == 200:
            pass
        assert [status(path) for path in ("/readyz/service", "/readyz", "/livez")] == [503, 503, 200]
        with smtplib.SMTP(*proxy.smtp, timeout=50) as device:
            device.sendmail("a@example.test", ["b@example.test"], b"Subject: x\r\n\r\nhello\r\n")
        reader = poplib.POP3(*proxy.pop3, timeout=50)
        reader.user("u")
        reader.pass_("p")
        reader.quit()
        assert len(list((tmp_path / "out" / "new").iterdir())) == 1
        # Who can not wait sends a second signal.
        proxy.process.send_signal(signal.SIGTERM)
