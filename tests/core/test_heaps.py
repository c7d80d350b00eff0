"""What many threads take from the C library, and what goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from interop.proxy import clean_environment

COUNT = """
import ctypes, threading
from legacy_email_proxy import heaps
heaps.limit()
together = threading.Barrier(12)
def take():
    together.wait()
    held = [bytearray(5000 + number) for number in range(100)]
    together.wait()
threads = [threading.Thread(target=take) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""


HASH = """
import psutil, threading
from legacy_email_proxy import heaps
from legacy_email_proxy.accounts.users import PasswordHash
heaps.limit()
def resident():
    return psutil.Process().memory_info().rss
def hash_in_threads():
    threads = [threading.Thread(target=PasswordHash.of, args=("x",)) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
import hashlib
hashlib.scrypt(b"", salt=b"", n=2, r=1, p=1)
before = resident()
for _ in range(3): hash_in_threads()
print((resident() - before) >> 20)
"""

glibc_only = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_info"), reason="it is glibc that has many heaps, and keeps much in them"
)


def run(program: str, **own: str) -> str:
    environment = clean_environment(**own)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=True).stdout


@glibc_only
@pytest.mark.parametrize(("own", "heaps"), [({}, 2), ({"MALLOC_ARENA_MAX": "4"}, 4)])
def test_threads_share_few_heaps(own: dict[str, str], heaps: int) -> None:
    assert run(COUNT, **own).count("<heap nr=") == heaps


@glibc_only
def test_what_the_hash_of_a_password_takes_goes_back() -> None:
    assert int(run(HASH)) < 8
    # Where the operator has set another size, that one counts.
    assert int(run(HASH, MALLOC_MMAP_THRESHOLD_="33554432", MALLOC_TRIM_THRESHOLD_="67108864")) >= 16
