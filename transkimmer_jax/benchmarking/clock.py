"""Contenders timed by turns, in one process."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples

Rounds = dict[str, list[float]]  # seconds by contender, round by round


def interleaved(runs: Mapping[str, Callable[[int], Any]], repeats: int, after_round: Callable[[Rounds], None] | None = None) -> Rounds:
    """Seconds of every round of every contender, which take turns, after one that warms them up.

    Args:
      runs: is told the number of its round, 0 to `repeats`: see `samples`.
      after_round: is told the seconds of all rounds so far.
    """
    seconds: Rounds = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run(number)
            if number:
                seconds[name].append(time.perf_counter() - started)
        if number and after_round is not None:
            after_round(seconds)
    return seconds


def samples(examples: TokenizedExamples, size: int, repeats: int) -> list[TokenizedExamples]:
    """What each round of `interleaved` computes: `size` of the examples, others in each.

    A runtime may make a program for every shape that it meets. In a round of the same texts it would find them ready, as it does for no
    user's.
    """
    generator = np.random.default_rng(0)
    return [examples.take(generator.permutation(len(examples))[:size]) for _ in range(repeats + 1)]
