"""Law: masked evaluation gives what really deleting the skimmed tokens gives, to 1e-5, whatever the batch, the
padding and the decisions (docs/design.md, sections 1.4 and 2.1).

Logits and margins are sums of terms of order 1, so their error is measured against at least 1; hidden states are normalised.
"""

import itertools

import numpy as np
import pytest
from checkpoints.handmade import CONFIG, random_tensors, write_checkpoint
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from models.quick import quick_jit
from models.reference import relative_error, transkimmer

from transkimmer_jax import TranskimmerForSequenceClassification

LAYERS, SEEDS, TOLERANCE = CONFIG["num_hidden_layers"], 3, 1e-5
# A decision may differ between float32 and float64 only where the margin is this near to the threshold.
CLEARANCE = 1e-4


class ScriptedGate:
    """Gives prescribed keep values, one [B, S] a layer, whatever the margins say."""

    def __init__(self, decisions):
        self.decisions = iter(decisions)

    def __call__(self, margin, key):
        return next(self.decisions)


class Network:
    """The same random weights in the reference and in JAX."""

    def __init__(self, folder):
        self.tensors = [random_tensors(CONFIG, predictor_size=24, seed=seed) for seed in range(SEEDS)]
        models = [
            TranskimmerForSequenceClassification.from_pretrained(write_checkpoint(folder / str(seed), tensors))
            for seed, tensors in enumerate(self.tensors)
        ]
        graph, _ = nnx.split(models[0])
        self.states = [nnx.state(model) for model in models]
        self.by_threshold = quick_jit(lambda state, *batch, threshold: nnx.merge(graph, state)(*batch, threshold=threshold))
        self.by_script = quick_jit(lambda state, *batch, decisions: nnx.merge(graph, state)(*batch, gate=ScriptedGate(decisions)))

    def clear_threshold(self, seed, examples, wanted):
        """A threshold near `wanted` that no margin of these examples comes close to, and the reference's answers there."""
        for step in itertools.count():
            threshold = float(np.float32(wanted + 3 * CLEARANCE * step))
            answers = [transkimmer(self.tensors[seed], CONFIG, *example, threshold=threshold) for example in examples]
            if not any(np.any(np.abs(answer.margin - threshold) < CLEARANCE) for answer in answers):
                return threshold, answers
        raise AssertionError


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return Network(tmp_path_factory.mktemp("networks"))


def draw_examples(rng, lengths):
    return [(rng.integers(1, CONFIG["vocab_size"], n), rng.integers(0, 2, n)) for n in lengths]


def padded(rng, examples, width):
    """ids, mask, token types [B, width]; the padding holds random ids, which must not matter."""
    ids = rng.integers(0, CONFIG["vocab_size"], (len(examples), width)).astype(np.int32)
    types = rng.integers(0, 2, ids.shape).astype(np.int32)
    mask = np.zeros_like(ids)
    for row, (example, example_types) in enumerate(examples):
        ids[row, : len(example)], types[row, : len(example)], mask[row, : len(example)] = example, example_types, 1
    return ids, mask, types


def assert_same(output, answers):
    """Every answer of the reference, row by row."""
    for row, answer in enumerate(answers):
        length = len(answer.hidden)
        np.testing.assert_array_equal(np.asarray(output.keep)[:, row, :length], answer.keep.astype(np.float32))
        assert not np.asarray(output.keep)[:, row, length:].any(), "padding was kept"
        judged = ~np.isnan(answer.margin)
        assert relative_error(np.asarray(output.margin)[:, row, :length][judged], answer.margin[judged], at_least=1.0) < TOLERANCE
        assert relative_error(output.last_hidden_state[row, :length], answer.hidden) < TOLERANCE
        assert relative_error(output.logits[row], answer.logits, at_least=1.0) < TOLERANCE


# Few shapes, so that few programs are compiled; lengths and padding vary freely below them.
batches = st.sampled_from([(1, 6), (4, 6), (3, 12)]).flatmap(
    lambda shape: st.tuples(st.just(shape[1]), st.lists(st.integers(1, shape[1]), min_size=shape[0], max_size=shape[0]))
)
networks = st.integers(0, SEEDS - 1)
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batch=batches, which=networks, seed=seeds, quantile=st.one_of(st.just(-1.0), st.just(2.0), st.floats(0, 1)))
def test_thresholds(network, batch, which, seed, quantile):
    """Thresholds from below every margin (nothing skimmed) over quantiles of the margins to above all (only [CLS] stays)."""
    width, lengths = batch
    rng = np.random.default_rng(seed)
    examples = draw_examples(rng, lengths)
    margins = np.concatenate([transkimmer(network.tensors[which], CONFIG, *example).margin.ravel() for example in examples])
    margins = margins[~np.isnan(margins)]
    wanted = np.quantile(margins, quantile) if 0 <= quantile <= 1 else (-1e3 if quantile < 0 else 1e3)
    threshold, answers = network.clear_threshold(which, examples, wanted)
    if quantile < 0:
        assert all(answer.keep.all() for answer in answers)
    elif quantile > 1:
        assert all(answer.keep.sum() == LAYERS for answer in answers)
    assert_same(network.by_threshold(network.states[which], *padded(rng, examples, width), threshold=threshold), answers)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batch=batches, which=networks, seed=seeds, rate=st.floats(0, 1))
def test_keep_patterns(network, batch, which, seed, rate):
    """Any pattern of decisions, independent of the margins; patterns that try to bring a token back, or to skim [CLS], fail to."""
    width, lengths = batch
    rng = np.random.default_rng(seed)
    examples = draw_examples(rng, lengths)
    decisions = rng.random((LAYERS, len(lengths), width)) < rate
    answers = [
        transkimmer(network.tensors[which], CONFIG, *example, decisions=decisions[:, row, : len(example[0])])
        for row, example in enumerate(examples)
    ]
    batch = padded(rng, examples, width)
    assert_same(network.by_script(network.states[which], *batch, decisions=decisions.astype(np.float32)), answers)


def test_the_drawn_networks_really_skim(network):
    """Guard of the tests above: at threshold 0 the random predictors skim some tokens and not all, in every layer of some network."""
    rng = np.random.default_rng(0)
    examples = draw_examples(rng, [12] * 8)
    shares = np.array(
        [np.mean([transkimmer(tensors, CONFIG, *example).keep for example in examples], axis=(0, 2)) for tensors in network.tensors]
    )
    skimmed = 1 - shares / np.concatenate([np.ones((SEEDS, 1)), shares[:, :-1]], axis=1)
    assert np.all((skimmed > 0.05).any(axis=0)), shares
    assert np.all((skimmed[:, 0] > 0.05) & (skimmed[:, 0] < 0.5)), shares
