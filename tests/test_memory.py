"""What `keep_freed_memory` is for: a block that is freed and asked for again is not cleared by the system again."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from transkimmer_jax.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def touch():
    np.empty(64 * 2**20, np.uint8).fill(1)

touch()
before = faults()
for _ in range(10):
    touch()
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_pages_are_kept():
    faults = {}
    for what in ("keep", "as it is"):
        done = subprocess.run([sys.executable, "-c", CODE, what], capture_output=True, text=True, check=True)
        faults[what] = int(done.stdout)
    # Huge pages, where the system hands them out unasked, take 32 faults for 64 MiB.
    assert faults["as it is"] >= 10 * 32
    assert faults["keep"] < 10
