"""Programs for runs in miniature: built quickly and once. As a script: `python quick.py CACHE SCRIPT [ARGUMENTS]` runs a script so."""

import runpy
import sys

import jax

# XLA's passes as ever, LLVM's optimiser off: a training step is built several times faster so.
QUICKLY_BUILT = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # later versions refuse what they no longer know
    QUICKLY_BUILT["xla_cpu_use_fusion_emitters"] = False
FLAGS = " ".join(f"--{name}={value}".lower() for name, value in QUICKLY_BUILT.items())  # the same, for a process's XLA_FLAGS


def settings(cache):
    """Runs with one config share their compiled programs, by way of the folder `cache`."""
    return {"jax_compilation_cache_dir": str(cache), "jax_persistent_cache_min_compile_time_secs": 0.1}


def quick(jit):
    """`jit`, which compiles what the package jits for itself with QUICKLY_BUILT."""

    def quick_jit(function, **options):
        ours = getattr(function, "__module__", "").startswith("transkimmer_jax.")
        return jit(function, **options, **({"compiler_options": QUICKLY_BUILT} if ours else {}))

    return quick_jit


if __name__ == "__main__":
    cache, script, *arguments = sys.argv[1:]
    for name, value in settings(cache).items():
        jax.config.update(name, value)
    jax.jit = quick(jax.jit)
    sys.argv = [script, *arguments]
    sys.path[0] = script.rpartition("/")[0]
    runpy.run_path(script, run_name="__main__")
