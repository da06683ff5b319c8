"""How much faster one engine is than another, in one process."""

import statistics
import time

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.inference.engine import SkimEngine

ROUNDS = 5


def seconds(engines: dict[str, SkimEngine], examples: TokenizedExamples, rounds: int = ROUNDS) -> dict[str, float]:
    """The median time [seconds] that each engine takes for all examples, in interleaved rounds behind one that counts for nothing."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        for name, engine in engines.items():
            started = time.perf_counter()
            engine.predict_tokenized(examples)
            if number:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}
