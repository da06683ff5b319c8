"""Compiled programs that outlive the process."""

import os
import pathlib

import jax

from transkimmer_jax.processors import xla_processors


def use_compilation_cache() -> None:
    """Keep compiled programs on the disk for the next process, unless the user has said where or that they should not be kept.

    A server that starts again, and a run that resumes, then read what they would compile. Each number of processors has a folder of its
    own: XLA's programs for a CPU divide their loops among those that the process which compiles may use, and JAX's key does not tell
    them apart. Read from a process that had one, they would leave the others idle.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(base / "transkimmer_jax" / "programs" / f"{xla_processors()}-processors"))
        # A layer's program takes a few tenths of a second to compile, and there are dozens.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
