"""The threshold that spends a given share."""

import math
from collections.abc import Callable

import scipy.optimize


def find_threshold(share_at: Callable[[float], float], target: float, start: float = 0.0) -> float:
    """The threshold at which `share_at(threshold)`, which falls with it, is `target` within 1 %, or the nearest seen in 16 calls. start:
    where it is looked for first."""
    excesses: dict[float, float] = {}

    def excess(threshold: float) -> float:
        if threshold not in excesses:
            excesses[threshold] = share_at(threshold) - target
        return 0.0 if abs(excesses[threshold]) <= 0.01 * target else excesses[threshold]

    # Outwards until the target lies between two thresholds, then Brent's method.
    low, high, step = start, start, math.copysign(0.25, excess(start))
    while abs(high - start) < 64 and excess(high) * step > 0:
        low, high = high, start + (4 * (high - start) or step)
    if excess(low) * excess(high) < 0:
        scipy.optimize.brentq(excess, low, high, maxiter=10, disp=False)
    return min(excesses, key=lambda threshold: abs(excesses[threshold]))
