"""How much faster one engine is than another, in one process."""

import statistics
import time
from collections.abc import Mapping
from typing import Any, Protocol

from transkimmer_jax.data.batches import TokenizedExamples

ROUNDS = 5


class Contender(Protocol):
    """A `SkimEngine`, or what stands in its place."""

    def predict_tokenized(self, examples: TokenizedExamples) -> Any:
        """Compute all examples."""


def seconds(engines: Mapping[str, Contender], examples: TokenizedExamples, rounds: int = ROUNDS) -> dict[str, float]:
    """The median time [seconds] that each engine takes for all examples, in interleaved rounds behind one that counts for nothing."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        for name, engine in engines.items():
            started = time.perf_counter()
            engine.predict_tokenized(examples)
            if number:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}
