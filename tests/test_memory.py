"""What `keep_freed_memory` is for: a block that is freed and asked for again is not cleared by the system again."""

import os
import pathlib
import subprocess
import sys

import pytest

from transkimmer_jax import memory

CODE = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from transkimmer_jax.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def touch(times):
    for _ in range(times):
        blocks = [np.empty(int(sys.argv[2]) * 2**20, np.uint8) for _ in range(4)]
        for block in blocks:
            block.fill(1)
        del block, blocks

with ThreadPoolExecutor(1) as thread:
    run = touch if sys.argv[3] == "main" else lambda times: thread.submit(touch, times).result()
    run(1)
    before = faults()
    run(10)
    print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
@pytest.mark.parametrize(("mebibytes", "thread"), [(64, "main"), (20, "other")])
def test_pages_are_kept(mebibytes, thread):
    """Also of a thread that is not the first: its heap would be given back whole."""
    faults = {}
    for what in ("keep", "as it is"):
        done = subprocess.run([sys.executable, "-c", CODE, what, str(mebibytes), thread], capture_output=True, text=True, check=True)
        faults[what] = int(done.stdout)
    # Huge pages, where the system hands them out unasked, take half as many faults as there are MiB.
    assert faults["as it is"] >= 10 * 4 * mebibytes // 2
    assert faults["keep"] < 20


def test_freed_memory_goes_back():
    """Also out of the middle of the heap."""
    if not memory.keep_freed_memory():
        pytest.skip("not glibc")
    blocks = [b"x" * (1 << 20) for _ in range(200)]
    last = b"x" * (1 << 20)  # on top: what is below it cannot simply be cut off
    full = resident_bytes()
    del blocks
    memory.give_back_freed_memory()
    assert resident_bytes() < full - 150 * 2**20 and len(last) == 1 << 20


def resident_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
