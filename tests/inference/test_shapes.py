"""Laws of batches, buckets, calibrations and ladders."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.skimmers import ARCH

from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.inference.batching import by_bucket, by_length
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.hardware import GRAPH_PAIRS_PER_TOKEN, GRAPH_SCORES, RUNGS, THREAD_TOKENS, Hardware, hardware
from transkimmer_jax.inference.shapes import Bucket, Ladders, Schedule, buckets, ladder, round_up
from transkimmer_jax.models import flops

LAYERS = ARCH.num_hidden_layers
HARDWARE = Hardware(batch_tokens=512, row_multiple=8)
lengths_lists = st.lists(st.integers(1, 40), max_size=120).map(lambda lengths: np.array(lengths, int))
sizes = st.one_of(
    st.tuples(st.none(), st.none()), st.tuples(st.integers(8, 3000), st.none()), st.tuples(st.none(), st.integers(1, 60))
)  # fmt: skip


def cost(bucket):
    """FLOPs of a batch with room for all."""
    return Schedule.full(bucket, LAYERS).flops(ARCH)


def sample(seed=0, count=300, longest=40):
    """Kept tokens that fall from layer to layer and differ from text to text."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, count)
    shares = np.minimum.accumulate(rng.uniform(0.1, 1.0, (LAYERS, count)), axis=0)
    return Calibration.of(lengths, np.maximum(1, np.round(shares * lengths)).astype(int), 0.0)


@given(st.integers(1, 5000), st.sampled_from([1, 8, 64, 128]))
def test_round_up(count, multiple):
    rounded = round_up(count, multiple)
    assert rounded % multiple == 0 and count <= rounded < count + multiple


def assert_batches(lengths, batches, fits):
    """Each text once, the longest first, no batch above its limits but a single text, and none that the next text could have joined.

    fits: whether texts of these lengths are within the limits.
    """
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    ordered = [lengths[row] for batch in batches for row in batch]
    assert ordered == sorted(ordered, reverse=True)
    for batch, following in itertools.pairwise([*batches, None]):
        assert len(batch) == 1 or fits(lengths[batch])
        assert following is None or not fits(lengths[[*batch, following[0]]])


@settings(deadline=None)
@given(lengths_lists, st.integers(1, 300), st.integers(1, 30))
def test_batches_by_length(lengths, tokens, texts):
    """Tokens and texts have a limit."""
    assert_batches(lengths, by_length(lengths, tokens, texts), lambda some: len(some) <= texts and some.sum() <= tokens)


@settings(deadline=None)
@given(lengths_lists, st.integers(1, 300), st.integers(1, 30))
def test_batches_of_few_sizes(lengths, tokens, texts):
    """As many texts as one of the sizes, but in the last batch, and in those of fewer than the least."""
    batches = by_length(lengths, tokens, texts, (0, 4, 6, 9))
    expected = [row for batch in by_length(lengths, tokens, texts) for row in batch]
    assert [row for batch in batches for row in batch] == expected
    assert all(len(batch) in (1, 2, 3, 4, 6, 9) for batch in batches[:-1])
    assert all(len(batch) <= texts and (lengths[batch].sum() <= tokens or len(batch) == 1) for batch in batches)


@settings(deadline=None)
@given(lengths_lists, st.integers(1, 300), st.integers(1, 30), st.integers(1, 3000))
def test_batches_of_few_pairs(lengths, tokens, texts, pairs):
    """Attention reads texts as wide as the longest: their squares have a limit, too, above which is a single text alone."""

    def fits(some):
        return len(some) <= texts and some.sum() <= tokens and len(some) * some.max() ** 2 <= pairs

    assert_batches(lengths, by_length(lengths, tokens, texts, pairs=pairs), fits)


def test_memory_of_attention_limits_batches_of_long_texts_alone():
    """Of the usual lengths batches of two cores are as they were; on 64 cores texts of 512 tokens go by 85, not by 512."""
    heads, lengths = 12, np.random.default_rng(0).integers(1, 257, 3000)
    for of_thread in THREAD_TOKENS.values():
        limited, whole = (by_length(lengths, 2 * of_thread, 3000, pairs=pairs) for pairs in (GRAPH_SCORES // heads, math.inf))
        assert all(np.array_equal(*both) for both in zip(limited, whole, strict=True))
    long = by_length(np.full(512, 512), 64 * THREAD_TOKENS["openvino"], 512, pairs=GRAPH_SCORES // heads)
    assert [len(batch) for batch in long] == [85] * 6 + [2]


@settings(deadline=None)
@given(lengths_lists, st.integers(1, 300), st.integers(1, 30), st.integers(1, 40))
def test_batches_of_few_pairs_a_token(lengths, tokens, texts, pairs):
    """Attention's view is no wider than that for what a batch holds, and no batch ends before it must."""

    def fits(some):
        longest = some.max()
        return len(some) <= texts and some.sum() <= tokens and len(some) * longest**2 <= max(pairs, 2 * longest) * some.sum()

    assert_batches(lengths, by_length(lengths, tokens, texts, pairs_per_token=pairs), fits)


def test_one_long_text_does_not_widen_many_short_ones():
    """It is computed apart; sentences of usual lengths, and long texts of about one length, go together as without the limit."""
    lengths = np.array([12] * 63 + [512])
    batches = by_length(lengths, 2048, 64, pairs_per_token=GRAPH_PAIRS_PER_TOKEN)
    assert [len(batch) for batch in batches] == [2, 62] and batches[0][0] == 63
    rng = np.random.default_rng(0)
    for usual in (rng.integers(5, 61, 32), rng.integers(5, 61, 3000), np.full(64, 512), rng.integers(260, 513, 200)):
        limited, whole = (by_length(usual, 4096, 3000, pairs_per_token=pairs) for pairs in (GRAPH_PAIRS_PER_TOKEN, math.inf))
        assert all(np.array_equal(*both) for both in zip(limited, whole, strict=True))


@settings(deadline=None)
@given(st.integers(1, 512), sizes)
def test_every_text_has_a_bucket_that_holds_a_batch_of_its_like(max_length, size):
    found = buckets(HARDWARE, max_length, *size, ARCH.num_attention_heads)
    assert found[-1][0].width == max_length and [large.narrower for large, _ in found] == [0, *(large.width for large, _ in found[:-1])]
    for large, small in found:
        assert large.holds(1, large.width) and small.holds(1, small.width) and small.tokens <= large.tokens
        if size[1] is not None:
            assert large.holds(size[1], size[1] * large.width)
            assert size[1] > 1 or large.sequences == 1
        else:
            texts = large.tokens // ((large.narrower + 1 + large.width) // 2 + 1)
            assert large.holds(texts, large.tokens), "rows run out before slots do, of texts of the mean length"


@settings(deadline=None)
@given(lengths_lists, sizes)
def test_batches_by_bucket(lengths, size):
    """Each text once, in a bucket that holds the batch. A batch that others follow is full, or costs less than its part of a wider one."""
    found = buckets(HARDWARE, 40, *size, ARCH.num_attention_heads)
    batches = list(by_bucket(lengths, found, cost))
    assert sorted(row for _, batch in batches for row in batch) == list(range(len(lengths)))
    for number, (bucket, batch) in enumerate(batches):
        total = lengths[batch].sum()
        assert len(batch) and bucket.holds(len(batch), total) and lengths[batch].max() <= bucket.width
        if number + 1 < len(batches) and len(batch) < bucket.sequences and total + bucket.width <= bucket.tokens:
            longer = lengths[lengths > bucket.width].min()
            wider = next(large for large, _ in found if large.width >= longer)
            assert cost(bucket) < max(len(batch) / wider.sequences, total / wider.tokens) * cost(wider)
    assert [bucket.width for bucket, _ in batches] == sorted(bucket.width for bucket, _ in batches)


def test_few_texts_run_in_a_small_batch():
    ((bucket, _),) = by_bucket(np.array([12, 30]), buckets(HARDWARE, 40, None, None, ARCH.num_attention_heads), cost)
    assert bucket.width == 32 and bucket.tokens == HARDWARE.batch_tokens * HARDWARE.small_batch


BASE = dataclasses.replace(ARCH, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)


def cost_of_base(bucket):
    return Schedule.full(bucket, BASE.num_hidden_layers).flops(BASE)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("size", [(None, None), (None, 32), (10**6, None)])
def test_long_texts_have_buckets_of_about_their_length(platform, size):
    """A text of 600 tokens does not pay for the 8,192 that the model reads, and no batch asks for more scores than the device may hold."""
    sizes = hardware(platform)
    found = buckets(sizes, 8192, *size, BASE.num_attention_heads)
    assert found[-1][0].width == 8192 and all(large.width <= 1.5 * large.narrower for large, _ in found if large.width > 512)
    for bucket in (bucket for both in found for bucket in both):
        assert bucket.width <= bucket.tokens <= bucket.sequences * bucket.width, "no rows without slots"
        assert bucket.sequences == 1 or bucket.sequences * BASE.num_attention_heads * bucket.width**2 <= sizes.scores
    if size == (None, None):
        ((bucket, _),) = by_bucket(np.array([600]), found, cost_of_base)
        assert cost_of_base(bucket) < 5 * flops.dense(BASE, np.array([600.0]))[0]


def test_short_texts_do_not_go_along_with_one_long_text():
    """Each would be computed as wide as that one, in a batch of its own."""
    lengths = np.array([*[300] * 10, 8000])
    batches = by_bucket(lengths, buckets(hardware("gpu"), 8192, None, None, BASE.num_attention_heads), cost_of_base)
    assert [(bucket.width, len(batch)) for bucket, batch in batches] == [(384, 10), (8192, 1)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), sizes, st.sampled_from([1, 8, 64]), st.integers(0, 2))
def test_a_ladder(seed, size, row_multiple, number):
    """Rising in cost, every rung within the bucket and falling with depth, and the last holds everything."""
    bucket = buckets(HARDWARE, 40, *size, ARCH.num_attention_heads)[number][0]
    rungs = ladder(bucket, ARCH, sample(seed), row_multiple)
    costs = [schedule.flops(ARCH) for schedule in rungs]
    assert costs == sorted(costs) and len(rungs) == len(RUNGS) and rungs[-1] == Schedule.full(bucket, LAYERS)
    for schedule in rungs:
        rows, widths = zip(*schedule.layers, strict=True)
        assert list(rows) == sorted(rows, reverse=True) and list(widths) == sorted(widths, reverse=True)
        assert rows[-1] >= 1 and rows[0] <= bucket.tokens and widths[-1] >= 1 and widths[0] <= bucket.width


def test_a_ladder_by_hand():
    """Rows are the share that texts at home in the bucket keep of it, widths what one of them keeps at most."""
    lengths = np.repeat([10, 20, 40], 40)
    calibration = Calibration(lengths, np.stack([lengths, lengths // 2, lengths // 10]), 0.0)
    rungs = ladder(Bucket(50, 1000, 32, narrower=16), ARCH, calibration, 8)
    assert rungs[0].layers == ((1000, 20), (504, 12), (104, 4))
    assert rungs[1].layers == ((1000, 24), (552, 12), (112, 4))
    assert rungs[2].layers == ((1000, 28), (704, 16), (144, 4))
    # Of texts that nobody has seen, all say what is kept; of one no more than the bucket is wide.
    unseen = ladder(Bucket(50, 1000, 5, narrower=0), ARCH, calibration, 8)
    assert unseen[0].layers == ((1000, 5), (504, 4), (104, 4))


def test_a_ladder_of_some_predictors():
    """Layers that have none compute as many rows as the one before them, all where nobody has decided yet; and no predictor is counted."""
    arch = dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, layers=(1,)))
    kept = np.array([[20, 40], [10, 20], [10, 20]])
    *rungs, full = ladder(Bucket(4, 160, 40), arch, Calibration.of(np.array([20, 40]), kept, 0.0), 8)
    for rung in rungs:
        assert rung.layers[0] == (160, 40) and rung.layers[1] == rung.layers[2] and rung.layers[1][0] < 160
    predicted = flops.per_predicted_token(arch) * 160
    dense = dataclasses.replace(arch, skim=None)
    assert full.flops(arch) == pytest.approx(full.flops(dense) + predicted)


def test_nothing_is_known():
    """Of what is kept, or there is nothing to know: every rung has room for all."""
    bucket, dense = Bucket(8, 256, 32), dataclasses.replace(ARCH, skim=None)
    assert set(ladder(bucket, ARCH, None, 8)) == set(ladder(bucket, dense, sample(), 8)) == {Schedule.full(bucket, LAYERS)}


def test_fewer_tokens_kept_make_cheaper_rungs():
    bucket, calibration = Bucket(32, 1024, 40, narrower=32), sample()
    fewer = dataclasses.replace(calibration, kept=np.maximum(1, calibration.kept // 2))
    cost, less = (ladder(bucket, ARCH, each, 8)[0].flops(ARCH) for each in (calibration, fewer))
    assert less < 0.8 * cost


def test_rungs_are_made_for_the_batches_that_come():
    """Of texts like the calibration's: the expected rows lose few of them, 1.4 times as many hardly any."""
    bucket, losses = Bucket(64, 1024, 40, narrower=32), {rung: [] for rung in range(len(RUNGS))}
    for seed in range(1, 25):
        others = sample(seed, 2000)
        batch = np.flatnonzero(others.lengths > 32)[:25]
        for rung, schedule in enumerate(ladder(bucket, ARCH, sample(), 8)):
            there = np.ones(len(batch), bool)
            for kept, (rows, width) in zip(others.kept[:, batch], schedule.layers, strict=True):
                there &= kept <= width
                there &= np.cumsum(np.where(there, kept, 0)) <= rows
            losses[rung].append(1 - there.mean())
    means = [np.mean(losses[rung]) for rung in range(len(RUNGS))]
    assert 0 < means[0] < 0.15 and means[1] < means[0] and means[2] < 0.005 and means[3] == 0


@pytest.mark.parametrize("lost", [0.0, 0.02, 0.5, 1.0])
def test_the_rung_that_costs_least(lost):
    """What is tried is learned: a rung that loses nothing stays, one that loses much is left."""
    ladders = Ladders(ARCH, HARDWARE, sample())
    bucket = Bucket(50, 1024, 40, narrower=32)
    costs = [schedule.flops(ARCH) for schedule in ladders.schedules(bucket)]
    chosen = []
    for _ in range(1000):
        rung = ladders.choose(bucket, 0.0, 0, 1000)
        chosen.append(rung)
        ladders.remember(bucket, 0.0, rung, np.arange(50) < 50 * (lost if rung == 0 else 0))
    assert chosen[0] == 0 and chosen[-1] == int(lost * costs[-1] > costs[1] - costs[0])
    # Now and then it is tried again, as texts change.
    assert lost < 0.5 or 1 < chosen.count(0) < 50
    assert ladders.choose(bucket, 0.5, 0, 1000) == 0, "another threshold is another matter"
    assert ladders.choose(bucket, 0.0, 2, 1000) == 2, "what was lost on the second rung runs on the third"


def test_thresholds_without_number():
    """What was lost at the oldest of them is forgotten, and memory does not grow."""
    ladders, bucket = Ladders(ARCH, HARDWARE, sample()), Bucket(50, 1024, 40, narrower=32)
    for number in range(5000):
        ladders.remember(bucket, number / 5000, 0, np.ones(50, bool))
    assert len(ladders._seen) == 1024 and ladders.choose(bucket, 4999 / 5000, 0, 1) > 0 == ladders.choose(bucket, 0.0, 0, 1000)


def test_a_batch_alone_is_given_more_room():
    """A text that it loses costs a batch of its own."""
    ladders = Ladders(ARCH, HARDWARE, sample())
    bucket = Bucket(50, 1024, 40, narrower=32)
    for _ in range(50):
        ladders.remember(bucket, 0.0, 0, np.arange(50) < 1)
    assert [ladders.choose(bucket, 0.0, 0, batches) for batches in (1, 1000)] == [1, 0]


@given(st.integers(1, 50), st.integers(1, 50))
def test_a_full_schedule_costs_what_the_texts_cost(sequences, width):
    bucket = Bucket(sequences, sequences * width, width)
    lengths = np.full(sequences, width, float)
    cost = Schedule.full(bucket, LAYERS).flops(ARCH)
    assert cost == pytest.approx(flops.skimmed(ARCH, [lengths] * LAYERS, lengths).sum())


def test_shares_of_texts_of_one_length():
    calibration = Calibration.of_shares([0.9, 0.5, 0.001], 128, 0.0)
    shares, widths = calibration.expected(0, 128)
    assert shares == pytest.approx([115 / 128, 0.5, 1 / 128]) and widths.tolist() == [115, 64, 1]


def test_saved_and_loaded(tmp_path):
    calibration = sample()
    calibration.save(tmp_path)
    loaded = Calibration.load(tmp_path, LAYERS)
    np.testing.assert_array_equal(loaded.lengths, calibration.lengths)
    np.testing.assert_array_equal(loaded.kept, calibration.kept)
    assert loaded.threshold == 0.0 and (tmp_path / "skim_calibration.json").stat().st_size < 20000
    assert Calibration.load(tmp_path / "elsewhere", LAYERS) is None


def test_a_sample_of_a_large_set_is_kept():
    lengths = np.arange(2, 5002)
    calibration = Calibration.of(lengths, np.stack([lengths, lengths // 2]), 0.5)
    assert len(calibration.lengths) == 1024 and (calibration.kept[1] == calibration.lengths // 2).all()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not a calibration"),
        ("[]", "is not a calibration"),
        (json.dumps({"threshold": 0, "lengths": [], "kept": [[], [], []]}), "is not of this model of 3 layers"),
        (json.dumps({"threshold": 0, "lengths": [3], "kept": [[1], [1]]}), "is not of this model of 3 layers"),
    ],
)
def test_a_damaged_calibration(tmp_path, content, says):
    (tmp_path / "skim_calibration.json").write_text(content)
    with pytest.raises(CheckpointError, match=says) as error:
        Calibration.load(tmp_path, LAYERS)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
