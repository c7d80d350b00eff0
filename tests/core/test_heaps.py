"""Many threads that take memory share few heaps."""

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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="it is glibc that has many heaps")
@pytest.mark.parametrize(("own", "heaps"), [({}, 2), ({"MALLOC_ARENA_MAX": "4"}, 4)])
def test_threads_share_few_heaps(own: dict[str, str], heaps: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env=clean_environment(**own),
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.count("<heap nr=") == heaps
