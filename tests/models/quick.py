"""Compilation for tests: XLA's passes as ever, LLVM's optimiser off. Tiny programs are built three times faster so."""

import functools

import jax

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def program(model):
    """`model.__call__`, compiled once for each form of its arguments."""
    return quick_jit(lambda *batch, **options: model(*batch, **options))
