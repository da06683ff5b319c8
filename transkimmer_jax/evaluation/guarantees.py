"""Risk-controlled thresholds: Learn then Test (Angelopoulos et al., 2021), for thresholds in a fixed order.

A threshold is certified when the hypothesis that it is too risky is rejected on a calibration split that chose nothing else. Thresholds
are tested from the one that skims least on, each at the full level, up to the first that cannot be certified: fixed-sequence testing,
under which the probability of certifying any too risky threshold is at most 1 - confidence.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import scipy.stats

Risk = Literal["accuracy", "disagreement"]


def binomial_p_value(events: int, count: int, tolerated: float) -> float:
    """Of the hypothesis that the events' probability is at least `tolerated`: the chance of so few among `count`. Exact."""
    return float(scipy.stats.binom.cdf(events, count, tolerated))


def betting_p_value(losses: np.ndarray, tolerated: float, level: float) -> float:
    """Of the hypothesis that losses in [-1, 1] have an expectation of at least `tolerated` (Waudby-Smith & Ramdas, 2023).

    Whoever bets, loss after loss, that the next one lies below `tolerated` cannot expect to gain if the hypothesis is true; the p-value
    is one over the most the bets ever made of a capital of 1 (Ville's inequality). It adapts to the variance, which is small where two
    models agree on most examples; the bounds for losses in [0, 1] do not.

    Args:
      losses: [N], in an order that does not depend on them.
      level: at which the p-value will be compared; only the size of the bets depends on it.
    """
    shifted, limit = (np.asarray(losses, np.float64) + 1) / 2, (1 + tolerated) / 2
    count = np.arange(1, len(shifted) + 1)
    means = (0.5 + np.cumsum(shifted)) / (count + 1)
    variances = (0.25 + np.cumsum(np.square(shifted - means))) / (count + 1)
    # What a bet knows is what came before it.
    known = np.concatenate([[0.25], variances[:-1]])
    bets = np.minimum(np.sqrt(2 * np.log(1 / level) / (len(shifted) * known)), 0.75 / (1 - limit))
    capital = np.cumsum(np.log1p(-bets * (shifted - limit)))
    return float(min(1.0, np.exp(-capital.max(initial=0.0))))


def certified(p_values: Iterable[float], confidence: float) -> int:
    """How many hypotheses, tested in this order, are rejected before the first that is not."""
    rejected = 0
    for p_value in p_values:
        if p_value > 1 - confidence:
            break
        rejected += 1
    return rejected


def losses_of(risk: Risk, answers: np.ndarray, dense: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What each text costs, [N]: in accuracy, -1, 0 or 1 right answers fewer than the dense model has; in agreement, 1 for another answer.

    answers, dense, labels: [N] int, of the model, of the dense model, and right. In agreement also [N, labels], whether a text has each.
    """
    if risk == "accuracy":
        return (dense == labels).astype(np.float64) - (answers == labels).astype(np.float64)
    return (answers != dense).reshape(len(answers), -1).any(axis=1).astype(np.float64)


def tested(
    risk: Risk, losses: Iterable[np.ndarray], choosing: np.ndarray, testing: np.ndarray, tolerated: float, confidence: float
) -> tuple[int, list[float]]:
    """How many thresholds are certified, from the one that skims least on, and the p-values of those that were worth a test.

    Args:
      losses: [N] of each threshold in that order, of `losses_of`. choosing, testing: rows of these. A threshold that is too risky on the
        choosing part would end the sequence: it is left out, as are all behind it.
    """
    p_values: list[float] = []
    for values in losses:
        if values[choosing].mean() > tolerated:
            break
        if risk == "accuracy":
            p_values.append(betting_p_value(values[testing], tolerated, 1 - confidence))
        else:
            p_values.append(binomial_p_value(int(values[testing].sum()), len(testing), tolerated))
    return certified(p_values, confidence), p_values
