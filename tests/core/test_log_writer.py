"""The log's writer: it never lets a session wait, says what it dropped, and stays readable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import logging, sys, time
from legacy_email_proxy import log
log.configure("info", sys.argv[1])
say = logging.getLogger("legacy_email_proxy.smtp")
"""


def run(code: str, stderr: int, form: str = "text") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", START + code, form]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=stderr)


@pytest.mark.fault("D16")
def test_a_log_reader_that_stalls_stops_nobody_and_is_told_what_it_missed() -> None:
    reading, writing = os.pipe()
    code = """
for number in range(50_000):
    log.event(say, logging.INFO, "message relayed", number=number)
print("not held up", flush=True)
sys.stdin.readline()
log.event(say, logging.INFO, "message spooled", last=True)
logging.shutdown()
"""
    with run(code, writing) as process:
        os.close(writing)
        assert process.stdout is not None
        assert process.stdout.readline() == b"not held up\n", "before anybody has read a line"
        read = b""
        while b"dropped" not in read:
            read += os.read(reading, 1 << 16)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        while octets := os.read(reading, 1 << 16):
            read += octets
        os.close(reading)
        assert process.wait(50) == 0
    lines = read.decode().splitlines()
    written = [line for line in lines if " message relayed number=" in line]
    (dropped,) = [line for line in lines if "log lines dropped, because the log was not read lines=" in line]
    assert len(written) + int(dropped.rpartition("=")[2]) == 50_000
    assert lines[-1].endswith(" info message spooled last=True")


@pytest.mark.fault("D16")
def test_the_end_of_the_process_does_not_wait_for_the_reader() -> None:
    reading, writing = os.pipe()
    code = """
for number in range(5_000):
    log.event(say, logging.INFO, "message relayed", number=number)
logging.shutdown()
"""
    with run(code, writing) as process:
        os.close(writing)
        assert process.wait(50) == 0
    os.close(reading)


@pytest.mark.fault("D10")
@pytest.mark.parametrize("form", ["text", "json"])
def test_of_one_kind_there_are_few_lines_a_second_and_then_a_count(tmp_path: Path, form: str) -> None:
    code = """
def wait_for_a_new_second():
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.001)
wait_for_a_new_second()
for number in range(1000):
    log.event(say, logging.WARNING, "smtp command refused", number=number)
    log.event(say, logging.INFO, "message relayed", number=number)
log.event(say, logging.WARNING, "smtp session ended", other=True)
logging.shutdown()
"""
    with (tmp_path / "log").open("wb") as file, run(code, file.fileno(), form) as process:
        assert process.wait(50) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    refused = [line for line in lines if "smtp command refused" in line]
    assert len(refused) < 100
    assert len([line for line in lines if "message relayed" in line]) == 1000
    assert len([line for line in lines if "smtp session ended" in line]) == 1
    counts = [
        int("".join(filter(str.isdigit, line.partition("and_more")[2]))) for line in refused if "and_more" in line
    ]
    assert counts
    assert len(refused) - len(counts) + sum(counts) == 1000
