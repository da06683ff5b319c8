"""Compiled programs on the disk."""

import os
import subprocess
import sys

import pytest

# Prints whether XLA divides a loop among the processors.
_PROGRAM = """
import os, sys
os.sched_setaffinity(0, set(map(int, sys.argv[1].split(","))))
import jax, jax.numpy as jnp
from transkimmer_jax.compilation import use_compilation_cache
use_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
program = jax.jit(lambda x: jnp.tanh(x) * jnp.exp(x)).lower(jax.ShapeDtypeStruct((1024, 4096), jnp.float32)).compile()
print('outer_dimension_partitions":["' in program.as_text())
"""


def _is_divided(processors: list[int], folder) -> bool:
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _PROGRAM, ",".join(map(str, processors))]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    return printed.strip() == "True"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_programs_of_one_processor_are_not_read_by_a_process_that_has_more(tmp_path):
    """XLA compiles loops for as many as there are, and JAX's cache does not ask; a run pinned to one would slow all later ones down."""
    several = sorted(os.sched_getaffinity(0))
    assert not _is_divided(several[:1], tmp_path)
    assert any(tmp_path.rglob("*-cache"))  # it was kept
    assert _is_divided(several, tmp_path)
