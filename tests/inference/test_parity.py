"""The parity law (docs/design.md, section 2.1): compacted computation gives the masked evaluation's decisions and logits, whatever the
batch mates, the padding, the bucket and the capacities."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from inference.skimmers import ARCH, DISENTANGLED, LAST_TWO, MODERN, is_decided, make_examples, make_model, masked
from models.quick import quick_jit

from transkimmer_jax.errors import CheckpointError

SLOTS, ROWS, WIDTH, LAYERS = 5, 48, 12, ARCH.num_hidden_layers
TOLERANCE = 1e-4
# Tiny, odd, ample and full capacities; the first of each is of the layer nearest to the input.
CAPACITIES = (
    ((ROWS, WIDTH),) * LAYERS,
    ((37, 11), (29, 11), (17, 7)),
    ((24, 12), (11, 9), (5, 1)),
    ((9, 5), (7, 3), (5, 2)),
    ((5, 1), (5, 1), (5, 1)),
    ((48, 12), (24, 6), (23, 5)),
)
HEADS = {
    "three classes": ARCH, "regression": dataclasses.replace(ARCH, num_labels=1), "last two decide": LAST_TWO,
    "second decides": dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, layers=(1,))),
}  # fmt: skip
OTHERS = (
    (CAPACITIES[1], "regression"),  # a head knows nothing of capacities
    (CAPACITIES[1], "last two decide"),
    (CAPACITIES[3], "last two decide"),
    (CAPACITIES[3], "second decides"),
)
lengths_lists = st.lists(st.integers(1, WIDTH), min_size=1, max_size=SLOTS).filter(lambda lengths: sum(lengths) <= ROWS)
thresholds = st.sampled_from([-np.inf, -4.0, -1.5, -0.5, 0.0, 0.4, 1.0, 2.5, 6.0, np.inf])
_programs = {}


def compacted(model, capacities, examples, threshold, only_logits=True, rows=ROWS, slots=SLOTS):
    """The compacted computation of examples in one batch, in quickly compiled programs that are kept."""
    key = (id(model), capacities, only_logits, rows, slots)
    if key not in _programs:
        _programs[key] = quick_jit(
            lambda ids, types, lengths, threshold: model.compacted(
                ids, types, lengths, WIDTH, capacities, threshold=threshold, only_logits=only_logits
            )
        )
    total = min(len(examples.input_ids), rows)
    # What lies behind the last token must not matter.
    ids, types, lengths = np.full(rows, 7, np.int32), np.ones(rows, np.int32), np.zeros(slots, np.int32)
    ids[:total], types[:total], lengths[: len(examples)] = examples.input_ids[:total], examples.token_type_ids[:total], examples.lengths
    return jax.device_get(_programs[key](ids, types, lengths, np.float32(threshold)))


def assert_same(answer, expected, examples):
    """Decisions and logits, example by example, of those that were not lost."""
    depths = np.split(answer.depth[: len(examples.input_ids)], examples.offsets[1:-1])
    for row, (example, depth) in enumerate(zip(expected, depths, strict=True)):
        if not answer.lost[row]:
            np.testing.assert_array_equal(depth, example.depth)
            np.testing.assert_array_equal(answer.kept[:, row], [(example.depth > layer).sum() for layer in range(LAYERS)])
            np.testing.assert_allclose(answer.logits[row], example.logits, atol=TOLERANCE, rtol=0)


def who_fits(expected, capacities, arch=ARCH):
    """Which examples find room, counted from the decisions of masked evaluation and nothing else: one after the other, layer by
    layer, a lost one's rows free for those behind it. A layer without a predictor has as much room as the one before it."""
    there = [True] * len(expected)
    for layer in arch.predictor_layers:
        rows, width = capacities[layer]
        used = 0
        for row, example in enumerate(expected):
            count = int((example.depth > layer).sum())
            if not there[row] or count > width:
                there[row] = False
            else:
                used += count
                there[row] = used <= rows
    return there


@settings(deadline=None, max_examples=150)
@given(lengths_lists, st.integers(0, 3), thresholds, st.sampled_from([*((each, "three classes") for each in CAPACITIES), *OTHERS]))
def test_decisions_and_logits(lengths, seed, threshold, case):
    """Equal for every example that the capacities hold, whatever its batch mates lose; the others are named."""
    capacities, head = case
    model, examples = make_model(HEADS[head]), make_examples(lengths, seed)
    expected = masked(model, examples, threshold)
    assume(is_decided(expected, threshold))
    answer = compacted(model, capacities, examples, threshold)
    assert [not lost for lost in answer.lost[: len(examples)]] == who_fits(expected, capacities, HEADS[head])
    assert not answer.lost[len(examples) :].any()
    assert_same(answer, expected, examples)


@settings(deadline=None, max_examples=40)
@given(lengths_lists, st.integers(0, 3), thresholds, st.sampled_from(CAPACITIES[:2]))
def test_token_level_outputs(lengths, seed, threshold, capacities):
    """Every token's state as of the last layer it was kept in, at its own place: what a tagger or a span head reads."""
    model, examples = make_model(), make_examples(lengths, seed)
    expected = masked(model, examples, threshold, full=True)
    assume(is_decided(expected, threshold) and all(who_fits(expected, capacities)))
    answer = compacted(model, capacities, examples, threshold, only_logits=False)
    assert_same(answer, expected, examples)
    states = np.split(answer.last_hidden_state[: len(examples.input_ids)], examples.offsets[1:-1])
    for state, example in zip(states, expected, strict=True):
        np.testing.assert_allclose(state, example.last, atol=TOLERANCE, rtol=0)


def test_the_thresholds_cover_what_can_be_kept():
    """From every token to [CLS] alone, or the tests above show less than they say."""
    model, examples = make_model(), make_examples([12, 9, 12, 7, 8], 0)
    shares = [
        np.mean([np.mean(example.depth) / LAYERS for example in masked(model, examples, limit)]) for limit in (-np.inf, -1.5, 0.0, 1.0)
    ]
    assert shares[0] == 1.0 and shares == sorted(shares, reverse=True) and len(set(shares)) == 4
    alone = masked(model, examples, np.inf)
    assert all((example.depth[0], example.depth[1:].sum()) == (LAYERS, 0) for example in alone)


def test_only_logits_changes_no_logit():
    """The last layer for position 0 alone gives what the whole last layer gives there."""
    model, examples = make_model(), make_examples([12, 3, 9, 1, 5], 1)
    for threshold in (-np.inf, 0.0, np.inf):
        short, whole = (compacted(model, CAPACITIES[0], examples, threshold, only_logits) for only_logits in (True, False))
        np.testing.assert_allclose(short.logits, whole.logits, atol=1e-5, rtol=0)
        assert short.last_hidden_state is None
        padded = [masked(model, examples, threshold, full)[0].logits for full in (True, False)]
        np.testing.assert_allclose(padded[0], padded[1], atol=1e-5, rtol=0)


def test_a_dense_model_packs_too():
    model = make_model(dataclasses.replace(ARCH, skim=None))
    examples = make_examples([12, 3, 9, 1, 5], 1)
    answer = compacted(model, CAPACITIES[0], examples, 0.0)
    padded = quick_jit(lambda ids, mask, types: model(ids, mask, types).logits)
    for row, (start, end) in enumerate(zip(examples.offsets, examples.offsets[1:], strict=False)):
        ids, types = np.zeros((1, WIDTH), np.int32), np.zeros((1, WIDTH), np.int32)
        ids[0, : end - start], types[0, : end - start] = examples.input_ids[start:end], examples.token_type_ids[start:end]
        expected = padded(ids, (np.arange(WIDTH) < end - start).astype(np.int32)[None], types)
        np.testing.assert_allclose(answer.logits[row], expected[0], atol=TOLERANCE, rtol=0)
    assert not answer.lost.any()


def test_too_long_for_the_width_or_the_rows_overflows():
    """Also where nothing is skimmed, so that a wrong bucket cannot pass unseen."""
    dense = make_model(dataclasses.replace(ARCH, skim=None))
    assert compacted(dense, CAPACITIES[0], make_examples([WIDTH + 1]), 0.0).lost.any()
    model = make_model()
    nothing_skimmed = ((16, 12), (16, 12), (16, 12))
    assert compacted(model, nothing_skimmed, make_examples([12, 5]), -np.inf).lost.any()
    assert not compacted(model, nothing_skimmed, make_examples([12, 4]), -np.inf).lost.any()


@pytest.mark.parametrize("skimming", [True, False])
@pytest.mark.parametrize(
    "arch", [ARCH, DISENTANGLED, dataclasses.replace(MODERN, classifier_pooling="mean")], ids=lambda arch: arch.backbone
)
def test_a_text_that_does_not_fit_spoils_no_other(arch, skimming):
    """One that is too wide leaves those behind it as they are; those behind the end of the buffer are lost."""
    model = make_model(arch if skimming else dataclasses.replace(arch, skim=None))
    for lengths, lost in (((WIDTH + 1, 5, 9, 7), [0]), ((5, 20, 9, WIDTH), [1]), ((12, WIDTH + 1, 3, 20, 4), [1, 3, 4])):
        examples = make_examples(lengths, 3)
        there = np.setdiff1d(np.arange(len(lengths)), lost)
        alone = compacted(model, CAPACITIES[0], examples.take(there), 0.0)
        answer = compacted(model, CAPACITIES[0], examples, 0.0)
        assert np.flatnonzero(answer.lost).tolist() == lost and not alone.lost.any()
        np.testing.assert_allclose(answer.logits[there], alone.logits[: len(there)], atol=1e-5, rtol=0)
        np.testing.assert_array_equal(answer.kept[:, there], alone.kept[:, : len(there)])
        of_alone = alone.depth[: examples.lengths[there].sum()]
        np.testing.assert_array_equal(answer.depth[examples.places(there)], of_alone)
        assert not skimming or of_alone.min() < LAYERS


def test_post_softmax_is_refused():
    arch = dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, attention_masking="post_softmax"))
    with pytest.raises(CheckpointError, match="cannot be compacted: its softmax runs over the skimmed tokens too .* --mode masked"):
        compacted(make_model(arch), CAPACITIES[0], make_examples([3]), 0.0)


@pytest.mark.parametrize("arch", [ARCH, DISENTANGLED], ids=lambda arch: arch.backbone)
def test_bfloat16(arch):
    """Decisions within bfloat16's noise may differ; where none does, so do the logits by no more than that noise."""
    examples = make_examples([12, 9, 7, 5], 2)
    rough = compacted(make_model(dataclasses.replace(arch, compute_dtype="bfloat16")), CAPACITIES[0], examples, -np.inf)
    exact = masked(make_model(arch), examples, -np.inf)
    for row, example in enumerate(exact):
        assert np.abs(rough.logits[row] - example.logits).max() < 0.05 * np.abs(example.logits).max() + 0.05
    assert rough.logits.dtype == np.float32
