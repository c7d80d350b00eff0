"""A signal while the service starts: it ends the process, and does not wait for a plugin that takes long."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from interop.proxy import STOP_SECONDS, clean_environment, command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_that_takes_long(number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory() as state, socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(STOP_SECONDS)
        variables = {
            "MAILDROP_PLUGIN": "none",
            "RELAY_PLUGIN": "spool",
            "SPOOL_URL": f"postgresql://user:password@127.0.0.1:{silent.getsockname()[1]}/spool?connect_timeout=600",
            "BACKEND_SMTP_HOST": "localhost",
            "SMTP_BIND_ADDR": "127.0.0.1",
            "SMTP_BIND_PORT": "0",
            "STATE_DIR": str(Path(state)),
        }
        with subprocess.Popen(command("serve"), env=clean_environment(**variables), stderr=subprocess.PIPE) as process:
            connected, _ = silent.accept()  # the spool is starting, and waits for its database
            with connected:
                process.send_signal(number)
                _, said = process.communicate(timeout=STOP_SECONDS)
        assert process.returncode == 0, said
        assert f" stopped signal={number.name}" in said.decode()
        assert b" started " not in said
        assert b"Traceback" not in said
