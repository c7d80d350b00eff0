"""kill -9 at every marked point: see `crashing.py`. `SPOOL_CRASH_ROUNDS=200` does more of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from realservers.postgres import require_programs
from realservers.processes import require
from spool import crashing
from spool.support import Backend, spooling, until_states

pytestmark = pytest.mark.long

ROUNDS = os.environ.get("SPOOL_CRASH_ROUNDS")


@pytest.mark.fault("D1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", crashing.POINTS)
def test_what_a_device_read_250_for_arrives(kind: str) -> None:
    rounds = int(ROUNDS or 2 * len(crashing.POINTS[kind]))
    if kind == "postgres":
        require_programs()
    done = subprocess.run(
        [sys.executable, crashing.__file__, str(rounds), kind],
        capture_output=True,
        text=True,
        timeout=50 + 5 * rounds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{rounds} rounds")


SYNC = ("fsync", "fdatasync")


@pytest.mark.fault("D2")
def test_synced_before_the_250_is_written(tmp_path: Path) -> None:
    """The order of system calls, as the kernel saw it."""
    _traced(["trace=openat,write,pwrite64,fsync,fdatasync,unlink,rename"], tmp_path)
    trace = tmp_path / "trace"
    for kind in ("small", "large"):
        assert _between(trace.read_text().splitlines(), kind) == []


def _between(lines: list[str], kind: str) -> list[str]:
    """What is wrong between the begin of a message and its 250."""
    begin = next(place for place, line in enumerate(lines) if f'"begin {kind}' in line)
    end = next(place for place, line in enumerate(lines) if f'"250 {kind}' in line)
    during = lines[begin:end]

    def last(*words: str) -> int:
        return max((place for place, line in enumerate(during) if all(word in line for word in words)), default=-1)

    log = max(last(f"{name}(", "spool.db-wal") for name in SYNC)
    wrong = [] if log > last("pwrite64(", "spool.db-wal") >= 0 else ["the log was not synced behind its last write"]
    if kind == "large":
        written, synced = last(" write(", "spool.db.bodies/"), last("fsync(", "spool.db.bodies/")
        named = last("fsync(", "spool.db.bodies>")
        record = next(place for place, line in enumerate(during) if "pwrite64(" in line and "spool.db-wal" in line)
        if not 0 <= written < synced < named < record:
            wrong.append(f"body written {written}, synced {synced}, its name {named}, the record {record}")
    return wrong


@pytest.mark.fault("D3")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
async def test_an_error_of_the_kernel_is_no_250(tmp_path: Path, call: str, error: str) -> None:
    """Now and then such a call fails; what had a 250 all the same is there afterwards."""
    async with spooling(Backend(), tmp_path):
        pass
    when = "60+90" if call == "pwrite64" else "4+4"
    options = [f"inject={call}:error={error}:when={when}"]
    done = await anyio.to_thread.run_sync(_traced, options, tmp_path, "many")
    said = [line.split() for line in done.stdout.splitlines()]
    accepted = {number.encode() for verdict, number in said if verdict == "250"}
    refused = {verdict for verdict, _ in said} - {"250"}
    assert accepted
    assert refused
    # For SQLite a sync that finds no room is an I/O error like any other.
    assert refused == {"452" if error == "ENOSPC" and call != "fdatasync" else "451"}
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        await until_states(spool)
    arrived = [content.partition(b" ")[0] for content in backend.contents]
    assert len(arrived) == len(set(arrived))
    assert accepted <= set(arrived)


def _traced(options: list[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("sending.py")
    wanted = [word for option in options for word in ("-e", option)]
    strace = require("strace", "shows the system calls, and lets them fail")
    command = [strace, "-f", "-y", *wanted, "-o", str(folder / "trace"), sys.executable, str(script), str(folder)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=50, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    return done
