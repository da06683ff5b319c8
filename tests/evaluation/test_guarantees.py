"""Laws of guarantees: a p-value is small no more often than it says, and a choice breaks its promise no more often than it says.

The slack of a simulation is three standard deviations of a share that is exactly what is allowed.
"""

import itertools
import math

import numpy as np
import pytest

from transkimmer_jax.evaluation import guarantees


def binomial(count, probability):
    """The probability of each number of events, [count + 1]."""
    return np.array([math.comb(count, k) * probability**k * (1 - probability) ** (count - k) for k in range(count + 1)])


def slack(probability, runs):
    return 3 * math.sqrt(probability * (1 - probability) / runs)


def assert_never_too_small(p_values, probabilities):
    """Over all outcomes there are: P(p <= u) <= u for every u, of which only the p-values themselves matter."""
    assert sum(probabilities) == pytest.approx(1, rel=1e-9)
    order = np.argsort(p_values, kind="stable")
    values, total = np.asarray(p_values)[order], np.cumsum(np.asarray(probabilities)[order])
    last = np.append(values[1:] != values[:-1], True)
    assert (total[last] <= values[last] + 1e-9).all()


def test_certified():
    """Up to the first that is not rejected, whatever comes behind it."""
    assert guarantees.certified([0.01, 0.02, 0.2, 0.001], 0.95) == 2
    assert guarantees.certified([0.2, 0.001], 0.95) == guarantees.certified([], 0.95) == 0
    assert guarantees.certified([0.01, 0.04], 0.95) == 2 and guarantees.certified([0.01, 0.04], 0.97) == 1
    later = iter([0.5, 0.0])
    assert guarantees.certified(later, 0.95) == 0 and list(later) == [0.0], "the others are not even looked at"


@pytest.mark.parametrize("tolerated", [0.01, 0.1, 0.5])
def test_binomial(tolerated):
    expected = np.cumsum(binomial(80, tolerated))
    p_values = [guarantees.binomial_p_value(events, 80, tolerated) for events in range(81)]
    np.testing.assert_allclose(p_values, expected, rtol=1e-10)
    assert_never_too_small(p_values, binomial(80, tolerated))


# Probabilities of the losses -1, 0 and 1.
RARE, COMMON, ALWAYS = (0.002, 0.986, 0.012), (0.4, 0.19, 0.41), (0.495, 0.0, 0.505)


@pytest.mark.parametrize(
    ("losses", "tolerated"), [((0.05, 0.85, 0.1), 0.05), ((0.3, 0.3, 0.4), 0.1), ((0.5, 0.0, 0.5), 0.0), ((0.0, 0.5, 0.5), 0.5)]
)
@pytest.mark.parametrize("level", [0.05, 0.5])
def test_betting_is_never_too_small(losses, tolerated, level):
    """Over all sequences of 7 losses, of which the expectation is what is tolerated."""
    sequences = np.array(list(itertools.product([-1, 0, 1], repeat=7)))
    probabilities = np.prod(np.array(losses)[sequences + 1], axis=1)
    possible = probabilities > 0
    p_values = [guarantees.betting_p_value(sequence, tolerated, level) for sequence in sequences[possible]]
    assert min(p_values) < 0.3, "else there is nothing to see"
    assert_never_too_small(p_values, probabilities[possible])


def test_a_bet_does_not_know_its_own_loss():
    """What the capital becomes is then a straight line in the last loss."""
    before = np.tile([-1.0, 1.0, -1.0, -1.0], 10)
    capitals = [1 / guarantees.betting_p_value(np.append(before, last), 0.1, 0.05) for last in (-1.0, -0.6, -0.2)]
    assert capitals[0] - capitals[1] == pytest.approx(capitals[1] - capitals[2], rel=1e-9) and capitals[0] > 1.01 * capitals[1]


@pytest.mark.parametrize("losses", [RARE, COMMON, ALWAYS])
def test_betting_in_long_runs(losses):
    """At the level that the bets are made for."""
    drawn = np.random.default_rng(0).choice([-1, 0, 1], (2000, 1000), p=losses)
    share = np.mean([guarantees.betting_p_value(run, 0.01, 0.05) <= 0.05 for run in drawn])
    assert 0.002 < share <= 0.05 + slack(0.05, len(drawn)), "not 0 either: the bets are no waste"


def test_betting_has_power():
    """Few disagreements, as many for the better as for the worse, on the few thousand texts that there are."""
    drawn = np.random.default_rng(0).choice([-1, 0, 1], (100, 3000), p=[0.005, 0.99, 0.005])
    assert np.mean([guarantees.betting_p_value(run, 0.01, 0.05) <= 0.05 for run in drawn]) > 0.95


def test_betting_with_more_data_and_more_tolerance():
    losses = np.tile([0, 0, 0, 1, 0, 0, 0, -1, 0, 0], 30)
    by_count = [guarantees.betting_p_value(np.tile(losses, times), 0.05, 0.05) for times in (1, 2, 4, 8)]
    by_tolerance = [guarantees.betting_p_value(losses, tolerated, 0.05) for tolerated in (0.01, 0.05, 0.1, 0.2, 0.5)]
    for p_values in (by_count, by_tolerance):
        assert p_values == sorted(p_values, reverse=True) and len(set(p_values)) == len(p_values) and p_values[-1] < 1e-3
    assert guarantees.betting_p_value(np.ones(300), 0.05, 0.05) == 1.0


TOLERANCE, CONFIDENCE, COUNT, RUNS = 0.05, 0.9, 500, 1000
# True risks of thresholds: the last three are too high, by as little as may be.
RISKS = np.array([0.0, 0.01, 0.02, 0.0501, 0.0502, 0.0503])


def disagreement(draw):
    return guarantees.binomial_p_value(int(draw.sum()), COUNT, TOLERANCE)


def accuracy(draw):
    return guarantees.betting_p_value(draw, TOLERANCE, 1 - CONFIDENCE)


@pytest.mark.parametrize(("p_value", "gains"), [(disagreement, 0.0), (accuracy, 0.0), (accuracy, 0.1)])
def test_a_promise_is_kept(p_value, gains):
    """Draws that have nothing to do with each other give chance the most to play with. gains: share of texts answered better."""
    rng, broken, found = np.random.default_rng(1), 0, []
    for _ in range(RUNS):
        uniform = rng.random((len(RISKS), COUNT))
        draws = (uniform < RISKS[:, None] + gains).astype(float) - (uniform > 1 - gains)
        count = guarantees.certified(map(p_value, draws), CONFIDENCE)
        found.append(count)
        broken += RISKS[:count].max(initial=0.0) > TOLERANCE
    assert broken / RUNS <= 1 - CONFIDENCE + slack(1 - CONFIDENCE, RUNS)
    assert broken > 0 and np.mean(np.array(found) > 0) > (0.9 if gains == 0 else 0.3), "else nothing was promised"


@pytest.mark.parametrize("risk", ["accuracy", "disagreement"])
def test_the_whole_choice_keeps_its_promise(risk):
    """With the part that says which thresholds are worth a test, which sees none of the texts that test them."""
    rng, broken, certified = np.random.default_rng(2), 0, 0
    choosing, testing = np.split(np.arange(COUNT), [COUNT // 4])
    for _ in range(RUNS):
        losses = (rng.random((len(RISKS), COUNT)) < RISKS[:, None]).astype(float)
        count, p_values = guarantees.tested(risk, losses, choosing, testing, TOLERANCE, CONFIDENCE)
        assert count <= len(p_values) <= len(RISKS)
        assert all(values[choosing].mean() <= TOLERANCE for values in losses[: len(p_values)])
        broken += RISKS[:count].max(initial=0.0) > TOLERANCE
        certified += count > 0
    assert broken / RUNS <= 1 - CONFIDENCE + slack(1 - CONFIDENCE, RUNS) and certified / RUNS > 0.9


def test_losses():
    answers, dense, labels = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]])
    assert guarantees.losses_of("accuracy", answers, dense, labels).tolist() == [0, -1, 1, 0]
    assert guarantees.losses_of("disagreement", answers, dense, labels).tolist() == [0, 1, 1, 0]
