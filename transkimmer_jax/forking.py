"""A process that has computed cannot be forked: its threads stay behind, and the child waits for them for ever."""

import os

from transkimmer_jax.errors import InferenceError

# The process whose first computation was seen; None before it. A forked child inherits the number and differs from it.
_computing: int | None = None


def require_own_runtime() -> None:
    """Say before anything is computed that this process computes.

    Raises:
      InferenceError: this process was forked from one that had computed already. JAX and the other runtimes hang in such a child.
    """
    global _computing
    process = os.getpid()
    if _computing is None:
        _computing = process
    elif _computing != process:
        raise InferenceError(
            "this process was forked from one that had computed already, and would wait for ever: start it with"
            " multiprocessing.get_context('spawn') (PyTorch's DataLoader: multiprocessing_context='spawn'), or fork before the first model"
        )
