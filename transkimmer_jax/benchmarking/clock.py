"""Contenders timed by turns, in one process."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

Rounds = dict[str, list[float]]  # seconds by contender, round by round

_SHORTEST_MEASUREMENT = 0.1  # seconds; what is quicker is run several times


def interleaved(runs: Mapping[str, Callable[[], Any]], repeats: int, after_round: Callable[[Rounds], None] | None = None) -> Rounds:
    """Seconds of every repeat of every contender, which take turns. after_round: is told them, round by round."""

    def seconds_of_round(inner: dict[str, int]) -> dict[str, float]:
        seconds = {}
        for name, run in runs.items():
            started = time.perf_counter()
            for _ in range(inner[name]):
                run()
            seconds[name] = (time.perf_counter() - started) / inner[name]
        return seconds

    # Shapes that only a part of the examples makes may be new to a compiler.
    for run in runs.values():
        run()
    once = seconds_of_round(dict.fromkeys(runs, 1))
    inner = {name: max(1, math.ceil(_SHORTEST_MEASUREMENT / seconds)) for name, seconds in once.items()}
    # Where nothing is too quick for the clock, that was a round like any other.
    rounds = [once] if max(inner.values()) == 1 else []
    while True:
        seconds = {name: [times[name] for times in rounds] for name in runs}
        if rounds and after_round is not None:
            after_round(seconds)
        if len(rounds) == repeats:
            return seconds
        rounds.append(seconds_of_round(inner))
