"""Laws of the budget: what is spent against NumPy counts, the goal against the FLOPs counter, the controller against a simulated model."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.config import SkimConfig
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture, SkimArchitecture
from transkimmer_jax.training import budget
from transkimmer_jax.training.budget import Controller, LengthDistribution, target_share

ARCH = Architecture(
    hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, num_labels=2, skim=SkimArchitecture(predictor_size=3)
)
lengths_lists = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_kept_tokens_are_a_count(lengths, seed):
    rng = np.random.default_rng(seed)
    mask = (np.arange(6) < np.array(lengths)[:, None]).astype(np.float32)
    gates = rng.random((2, *mask.shape)) < 0.6
    keep = np.cumprod(gates, axis=0).astype(np.float32) * mask
    np.testing.assert_allclose(budget.kept_tokens(ARCH, jnp.array(keep)), keep.sum(axis=-1), rtol=1e-6)


@settings(deadline=None)
@given(lengths_lists, lengths_lists)
def test_served_lengths(served, training):
    """Training texts stand for all served texts, none for less than nothing; where both are alike each stands for one."""
    lengths = LengthDistribution.from_lengths(np.array(served), np.array(training))
    counts = np.asarray(lengths.counts_at(jnp.array(training)))
    assert lengths.mean == pytest.approx(np.mean(served)) and counts.mean() == pytest.approx(1.0, rel=1e-5) and (counts >= 0).all()
    assert (counts > 0).all(), "no class without served texts"
    alike = LengthDistribution.from_lengths(np.array(served), np.array(served * 3))
    np.testing.assert_allclose(alike.counts, 1.0, rtol=1e-6)


def test_served_lengths_make_one_distribution_of_the_other():
    """Phrases of 2 to 20 tokens for sentences of 11 to 30: weighted, their mean is that of the sentences up to 20."""
    rng = np.random.default_rng(0)
    served, training = rng.integers(11, 31, 4000), rng.integers(2, 21, 4000)
    counts = np.asarray(LengthDistribution.from_lengths(served, training).counts_at(jnp.array(training)))
    common = served[served < 21]
    # Not wholly: the first class reaches down to the shortest phrases.
    assert np.average(training, weights=counts) == pytest.approx(common.mean(), rel=0.1)
    assert common.mean() > 1.4 * training.mean()
    assert LengthDistribution.from_lengths(served, training).counts_at(jnp.array([100.0])) == 0, "no training text is that long"


def test_alike_without_being_told():
    np.testing.assert_array_equal(LengthDistribution.like(9.0).counts_at(jnp.array([1.0, 500.0])), [1.0, 1.0])


@pytest.mark.parametrize("target", [0.15, 0.3, 0.6, 0.95, 1.0])
@pytest.mark.parametrize(("head", "steepness"), [("sequence_classification", 0.5), ("sentence_embedding", 0.1)])
def test_a_plan_costs_the_budget(head, steepness, target):
    """Behind each predictor a falling part of the tokens other than position 0 is left."""
    arch = dataclasses.replace(ARCH, num_hidden_layers=12, hidden_size=384, intermediate_size=1536, head=head)
    plan = budget.plan(target, arch, mean_length=40.0)
    kept = plan.astype(np.float64) * 40
    spent = flops.skimmed(arch, kept, np.array(40.0)) / flops.dense(arch, np.array(40.0))
    assert float(spent) == pytest.approx(target, rel=1e-4)
    parts = (kept - 1) / np.concatenate([[39.0], kept[:-1] - 1])
    np.testing.assert_allclose(parts[1:], parts[0] ** np.diff(np.arange(1, 13) ** steepness), rtol=1e-3)


@pytest.mark.parametrize("layers", [(0,), (1,), (0, 2), (1, 3), (2,), (0, 1, 2, 3)])
def test_a_goal_of_some_predictors_costs_the_budget(layers):
    """Layers without one compute what is left before them: all tokens where nobody has decided yet."""
    arch = dataclasses.replace(ARCH, num_hidden_layers=4, skim=dataclasses.replace(ARCH.skim, layers=layers))
    goal = budget.plan(0.7, arch, 20.0)
    assert goal.shape == (len(layers),) and (np.diff(goal) < 0).all()
    kept, left = [], 20.0
    for layer in range(4):
        left = 20.0 * goal[layers.index(layer)] if layer in layers else left
        kept.append(left)
    assert flops.skimmed(arch, np.array(kept), np.array(20.0)) / flops.dense(arch, np.array(20.0)) == pytest.approx(0.7, rel=1e-4)
    least = flops.skimmed(arch, np.array([20.0 if layer < layers[0] else 1.0 for layer in range(4)]), np.array(20.0))
    assert budget.least(arch, LengthDistribution.like(20.0)) == pytest.approx(least / flops.dense(arch, np.array(20.0)))
    keep = jnp.zeros((4, 2, 9)).at[0, :, :9].set(1).at[1, :, :7].set(1).at[2, :, :4].set(1).at[3, :, :2].set(1)
    np.testing.assert_array_equal(budget.kept_tokens(arch, keep), np.array([[9, 9], [7, 7], [4, 4], [2, 2]])[list(layers)])


def test_a_dense_model_has_goals_that_nobody_reads():
    """Of a shape that can be saved, and restored from states of packages in which all layers had predictors."""
    dense = dataclasses.replace(ARCH, num_hidden_layers=4, skim=None)
    goals = budget.plans(SkimConfig(enabled=False, levels=(0.6,), target=0.4), dense, LengthDistribution.like(20.0))
    assert goals.shape == (2, 4) and np.isfinite(goals).all()


def test_a_budget_below_what_stands_before_the_first_predictor(caplog):
    arch = dataclasses.replace(ARCH, num_hidden_layers=4, skim=dataclasses.replace(ARCH.skim, layers=(2,)))
    budget.warn_of_unreachable(SkimConfig(target=0.3), arch, LengthDistribution.like(20.0))
    assert "all tokens stay before layer 2, and that alone costs" in caplog.text
    assert "on texts of 20 tokens" in caplog.text and "or name an earlier layer in skim.layers" in caplog.text


def test_a_budget_below_the_possible():
    """All but position 0 go, and the plan asks for no more than that."""
    np.testing.assert_allclose(budget.plan(0.001, ARCH, mean_length=20.0), 1 / 20, rtol=1e-3)


def test_a_plan_beside_tokens_that_always_stay(caplog):
    """Other tokens are left in falling parts. A budget that cannot be met is reported once, and leaves only what always stays."""
    arch = dataclasses.replace(ARCH, num_hidden_layers=6, hidden_size=384, intermediate_size=1536)
    served = LengthDistribution.from_lengths(np.full(9, 40), np.full(9, 40), always_kept=10.0)
    skim = SkimConfig(target=0.5, levels=(0.3, 0.1), always_keep="first_segment")
    kept = budget.plans(skim, arch, served).astype(np.float64) * 40
    spent = [flops.skimmed(arch, row, np.array(40.0)) / flops.dense(arch, np.array(40.0)) for row in kept]
    floor = budget.least(arch, served)
    assert [float(share) for share in spent] == pytest.approx([0.5, 0.3, floor], rel=1e-3) and 0.2 < floor < 0.3
    assert (kept > 10 - 1e-4).all() and (np.diff(kept[:2]) < 0).all()
    np.testing.assert_allclose(kept[2], 10, rtol=1e-3)
    budget.warn_of_unreachable(dataclasses.replace(skim, levels=(0.3,)), arch, served)
    budget.warn_of_unreachable(dataclasses.replace(skim, always_keep=None), arch, LengthDistribution.like(40.0))
    assert not caplog.records
    budget.warn_of_unreachable(skim, arch, served)
    (record,) = caplog.records
    assert f"keeps 10 of 40 tokens of a text, which cost {100 * floor:.1f} % of the dense model: a budget of 10 %" in record.getMessage()


def test_a_budget_that_position_0_alone_exceeds(caplog):
    arch = dataclasses.replace(ARCH, num_hidden_layers=6, hidden_size=384, intermediate_size=1536, skim=SkimArchitecture(predictor_size=96))
    served = LengthDistribution.like(4.0)
    floor = budget.least(arch, served)
    assert 0.28 < floor < 0.3
    for other in (SkimConfig(target=floor), SkimConfig(target=0.1, coefficient=0.5), SkimConfig(target=0.1, enabled=False)):
        budget.warn_of_unreachable(other, arch, served)
    assert not caplog.records
    budget.warn_of_unreachable(SkimConfig(target=0.5, levels=(floor - 0.01,)), arch, served)
    (record,) = caplog.records
    said = f"position 0 alone costs {100 * floor:.1f} % of the dense model on texts of 4 tokens: a budget of {100 * floor - 1:.4g} %"
    assert record.getMessage() == f"{said} cannot be met. Ask for more by skim.target and skim.levels"


def test_a_budget_of_layers_that_are_left_out():
    """Four layers of twelve, with nothing skimmed, cost less than a third of all: that is no budget to skim to, a quarter is."""
    arch = dataclasses.replace(ARCH, num_hidden_layers=4, dense_layers=12, hidden_size=384, intermediate_size=1536)
    goal = budget.plan(0.25, arch, mean_length=40.0)
    spent = flops.skimmed(arch, goal.astype(np.float64) * 40, np.array(40.0)) / flops.dense(arch, np.array(40.0))
    assert float(spent) == pytest.approx(0.25, rel=1e-4) and len(goal) == 4
    says = re.escape("skim.target=0.4 is more than the model costs with nothing skimmed, 0.285 of the dense one")
    with pytest.raises(ConfigError, match=says):
        budget.require_spendable(SkimConfig(target=0.4), arch, mean_length=40.0)
    budget.require_spendable(SkimConfig(target=0.25), arch, mean_length=40.0)


def schedule(skim, total_steps):
    return [float(target_share(skim, np.float32(skim.target), jnp.int32(step), total_steps)) for step in range(total_steps + 1)]


def test_target_share():
    """1 through the warm-up, then a straight line to the target, then constant."""
    targets = schedule(SkimConfig(target=0.4, warmup=0.1, anneal=0.5), 100)
    np.testing.assert_allclose(targets[:11], 1.0, rtol=1e-6)
    np.testing.assert_allclose(targets[10:61], np.linspace(1.0, 0.4, 51), rtol=1e-5)
    np.testing.assert_allclose(targets[60:], 0.4, rtol=1e-6)


def test_target_share_without_annealing_is_a_step():
    targets = schedule(SkimConfig(target=0.25, warmup=0.5, anneal=0.0, noise_end=None), 10)
    np.testing.assert_allclose(targets, [1.0] * 6 + [0.25] * 5, rtol=1e-6)


ONE = jnp.ones((1, 1), jnp.float32)


@pytest.mark.parametrize("share", [0.5, 1.1])
def test_the_controller_waits_through_the_warmup(share):
    """Neither gates that skim of themselves nor predictors' overhead, which makes the share exceed 1, move anything."""
    controller = Controller.start((1, 1))
    for _ in range(50):
        controller, shift = controller.update(0.03, ONE, share * ONE, ONE[0])
        assert float(controller.price[0, 0]) == 0 == float(shift[0, 0])
    assert float(controller.measured[0, 0]) == pytest.approx(min(share, 1.0), rel=1e-6)
    later, shift = controller.update(0.03, 0.8 * ONE, share * ONE, ONE[0])
    sign = 1 if share > 0.8 else -1
    assert sign * float(later.price[0, 0]) > 0 > sign * float(shift[0, 0]), "too much: dearer, and margins fall"


def test_the_controller_by_hand():
    controller, shift = Controller.start((1, 1)).update(0.5, 0.4 * ONE, 0.8 * ONE, 1.5 * ONE[0])
    measured = (0.7 + 0.3 * 0.8) / (0.7 + 0.3 * 1.5)
    assert float(controller.measured[0, 0]) == pytest.approx(measured, rel=1e-6)
    assert float(controller.price[0, 0]) == pytest.approx(0.5 * (measured - 0.4), rel=1e-6)
    assert float(shift[0, 0]) == pytest.approx(-(measured - 0.4), rel=1e-6)


@pytest.mark.parametrize("target", [0.2, 0.4, 0.7])
@pytest.mark.parametrize("resistance", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("gain", [0.03, 0.3])
def test_the_controller_reaches_its_target(target, resistance, gain):
    """A simulated model whose margins fall where the price exceeds the worth of its tokens, and rise where it does not.

    The controller is told neither the worth nor how fast the model moves. It follows the falling goal closely from when the gates
    begin to close, and does not swing. What the model raises the margins by in a step, as long as the price is below the worth, the
    controller takes back in the step; for that it needs a share that is off by as much.
    """
    skim, total_steps, speed = SkimConfig(target=target, warmup=0.05, anneal=0.5), 1000, 0.02
    # As a whole, and as two layers of which the second is reluctant.
    goal, resistance = np.array([[target, target / 2]], np.float32), jnp.array([[resistance, 2 * resistance]])

    def step(state, now):
        controller, margin = state
        wanted = target_share(skim, goal, now, total_steps)
        margin = jnp.clip(margin - speed * (controller.price - resistance), -10.0, 10.0)
        share = jax.nn.sigmoid(margin)
        # Every fourth batch is of longer texts, which keep less.
        longer = jnp.where(now % 4 == 0, 3.0, 1.0)
        controller, shift = controller.update(gain, wanted, share * longer, longer[None])
        pull = speed * jnp.maximum(resistance - controller.price, 0.0)
        return (controller, margin + shift), (share, wanted, pull)

    _, followed = jax.jit(lambda: jax.lax.scan(step, (Controller.start((1, 2)), jnp.full((1, 2), 5.0)), jnp.arange(total_steps)))()
    shares, wanted, pull = jax.device_get(followed)
    assert np.all(np.abs(shares[-100:] - goal) < 0.05 * goal + pull[-100:])
    assert np.all(np.abs(shares[300:] - wanted[300:]) < 0.05 + pull[300:])
    assert np.all(pull[-1] < pull[0]) or np.all(pull == 0), "the price takes over"
    assert np.all(shares[:50] > 0.95), "still dense at the end of the warm-up"


@pytest.mark.parametrize(("fields", "gain"), [({"num_labels": 2}, 0.03), ({"num_labels": 1}, 0.3), ({"head": "sentence_embedding"}, 0.05)])
def test_the_gain_is_the_heads(fields, gain):
    assert budget.price_gain(dataclasses.replace(ARCH, **fields)) == gain


def test_an_embedder_pays_for_shares_of_its_texts():
    """Half of a short text costs as much as half of a long one. Others pay for tokens."""
    embedder = dataclasses.replace(ARCH, head="sentence_embedding")
    lengths, served = jnp.array([0.0, 4.0, 20.0, 60.0]), LengthDistribution.like(20.0)
    kept = 0.5 * jnp.stack([lengths] * 2)
    shares = budget.penalised(embedder, kept, lengths, served)
    np.testing.assert_allclose(shares[:, 1:], 10.0, rtol=1e-6)
    np.testing.assert_array_equal(shares[:, 0], 0.0)
    for other in (ARCH, dataclasses.replace(embedder, pooling=PoolingArchitecture("cls"))):
        np.testing.assert_array_equal(budget.penalised(other, kept, lengths, served), kept)


def test_gate_noise():
    """All of it until the target is reached, none from `noise_end` on, a straight line between; always all where it is not wanted."""
    skim = SkimConfig(warmup=0.1, anneal=0.4, noise_end=0.9)
    noise = [float(budget.gate_noise(skim, jnp.int32(step), 100)) for step in range(101)]
    np.testing.assert_allclose(noise[:51], 1.0, rtol=1e-6)
    np.testing.assert_allclose(noise[50:91], np.linspace(1, 0, 41), atol=1e-5)
    np.testing.assert_allclose(noise[90:], 0.0, atol=1e-6)
    for always in (SkimConfig(noise_end=None), SkimConfig(coefficient=0.5)):
        assert [float(budget.gate_noise(always, jnp.int32(step), 100)) for step in (0, 60, 100)] == [1.0, 1.0, 1.0]
    abrupt = SkimConfig(warmup=0.1, anneal=0.8, noise_end=0.9)
    assert [float(budget.gate_noise(abrupt, jnp.int32(step), 100)) for step in (89, 90, 91)] == pytest.approx([1.0, 0.0, 0.0], abs=1e-5)
