"""Faults that need a process of its own."""

from __future__ import annotations

import poplib
import subprocess
from pathlib import Path

import pytest

from interop.proxy import Proxy, clean_environment, command
from realservers.processes import wait_until


@pytest.mark.fault("C19")
def test_a_killed_proxy_deletes_nothing(tmp_path: Path) -> None:
    for folder in ("cur", "new", "tmp"):
        (tmp_path / folder).mkdir()
    for name in ("1.a.b", "2.a.b"):
        (tmp_path / "new" / name).write_bytes(b"Subject: x\r\n\r\n")
    variables = clean_environment(
        RELAY_PLUGIN="none",
        MAILDROP_PLUGIN="maildir",
        MAILDROP_MAILDIR_PATH=str(tmp_path),
        POP3_BIND_ADDR="127.0.0.1",
        POP3_BIND_PORT="0",
    )
    log_file = tmp_path / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(command(), env=variables, stderr=log, stdin=subprocess.DEVNULL)
    try:
        proxy = Proxy(process, log_file)
        wait_until(lambda: bool(proxy.lines(" started ")), "the proxy starts", 20)
        client = poplib.POP3(*proxy.pop3, timeout=50)
        client.user("u")
        client.pass_("p")
        client.dele(1)
        client.dele(2)
        process.kill()
        process.wait(20)
        client.close()
    finally:
        process.kill()
        process.wait(20)
    assert len([*(tmp_path / "new").iterdir(), *(tmp_path / "cur").iterdir()]) == 2
