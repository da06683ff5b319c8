"""Contenders timed by turns, in one process."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples

Rounds = dict[str, list[float]]  # seconds by contender, round by round
_PAUSE_SECONDS = 0.05  # within which threads that wait for work have gone to sleep


def settle() -> None:
    """To be called before a contender is timed. After a run the threads of ONNX Runtime wait actively for a while. On two cores that takes
    30 ms from the next contender, unless it is of the same session."""
    time.sleep(_PAUSE_SECONDS)


def interleaved(
    runs: Mapping[str, Callable[[Any], Any]], inputs: Sequence[Any], after_round: Callable[[Rounds], None] | None = None
) -> Rounds:
    """Seconds of every round of every contender, which take turns.

    Args:
      runs: take the round's input.
      inputs: one a round, see `samples`. The first round warms up, and is not counted.
      after_round: is told the seconds of all rounds so far.
    """
    seconds: Rounds = {name: [] for name in runs}
    for number, given in enumerate(inputs):
        for name, run in runs.items():
            settle()
            started = time.perf_counter()
            run(given)
            if number:
                seconds[name].append(time.perf_counter() - started)
        if number and after_round is not None:
            after_round(seconds)
    return seconds


def calls(examples: TokenizedExamples, batch_size: int) -> list[TokenizedExamples]:
    """All in one call; or, where texts come alone, each in its own."""
    return [examples] if batch_size > 1 else [examples.take(np.array([row])) for row in range(len(examples))]


def samples(examples: TokenizedExamples, size: int, repeats: int) -> list[TokenizedExamples]:
    """The inputs of `interleaved` for so many rounds that count: `size` of the examples, others in each where there are more.

    A runtime may make a program for every shape that it meets. In a round of the same texts it would find them ready, as it does for no
    user's.
    """
    generator = np.random.default_rng(0)
    return [examples.take(generator.permutation(len(examples))[:size]) for _ in range(repeats + 1)]
