"""Laws of buckets, calibrations and ladders."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.skimmers import ARCH

from transkimmer_jax.analysis import flops
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.inference.batching import Batching, Sizes, filled
from transkimmer_jax.inference.schedule import Bucket, Calibration, Schedule, buckets, ladder, losses, round_up
from transkimmer_jax.inference.staging import stages
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.encoder import Stage

LAYERS = ARCH.num_hidden_layers
WHOLE = Stage.whole(LAYERS)


def sample(seed=0, count=300, longest=40):
    """Kept tokens that fall from layer to layer and differ from text to text."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, count)
    shares = np.minimum.accumulate(rng.uniform(0.1, 1.0, (LAYERS, count)), axis=0)
    return Calibration.of(lengths, np.maximum(1, np.round(shares * lengths)).astype(int), 0.0)


@given(st.integers(1, 5000), st.sampled_from([1, 8, 64, 128]))
def test_round_up(count, granule):
    rounded = round_up(count, granule)
    assert rounded % granule == 0 and count <= rounded < count + granule


def rows_of(count):
    """Of so many sequences of a bucket's width."""
    return lambda width: count * width


@settings(deadline=None)
@given(st.integers(1, 512), st.one_of(st.none(), st.integers(1, 200)), st.integers(8, 20000))
def test_every_text_has_a_bucket_that_holds_a_batch_of_its_like(max_length, batch_size, batch_tokens):
    found = buckets(lambda width: batch_tokens if batch_size is None else batch_size * width, max_length, alone=batch_size == 1)
    assert found[-1].width == max_length and [bucket.width for bucket in found] == sorted({bucket.width for bucket in found})
    shortest = min(8, max_length)
    for bucket in found:
        assert bucket.holds(1, bucket.width, bucket.width), "one of the longest"
        if batch_size is not None:
            assert bucket.holds(batch_size, batch_size * bucket.width, bucket.width)
        if batch_size == 1:
            assert not bucket.holds(2, 2, 1)
            continue
        full = bucket.tokens // shortest
        assert full == 0 or bucket.holds(full, full * shortest, shortest), "rows run out before slots do"
        shortest = bucket.width + 1


@pytest.mark.parametrize(
    ("batch_size", "rows"),
    [(32, {4: 1024, 8: 1024, 16: 1024, 32: 1024, 64: 1024, 96: 1536, 128: 2048}), (8, dict.fromkeys((4, 8, 16, 32, 64, 96, 128), 512))],
)
def test_batches_made_anew_have_rows_enough(batch_size, rows):
    """For fast products and for 16 of the longest texts, but no more than half of those that the longest texts have in a dense run."""
    calibration = Calibration.of(np.full(50, 100), np.full((LAYERS, 50), 100), 0.0)
    batching = Batching(Stage(2, 3), ARCH, calibration, Sizes(None, batch_size, 128, 8, 1024), None)
    assert {bucket.width: bucket.tokens for bucket in batching.buckets} == rows


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(40, 400), st.integers(0, 1000))
def test_a_batch_holds_no_less_than_the_first_ones_that_fit(sequences, tokens, seed):
    """Of the same number: each at most once, and no single exchange would fill it better."""
    bucket = Bucket(sequences, tokens, 40)
    lengths = np.random.default_rng(seed).integers(1, 41, 200)[: bucket.looks_at]
    chosen = bucket.fill(lengths)
    assert bucket.holds(len(chosen), lengths[chosen].sum(), lengths[chosen].max()) and len(set(chosen)) == len(chosen)
    count = max(count for count in range(1, sequences + 1) if lengths[:count].sum() <= tokens)
    assert len(chosen) == count and lengths[chosen].sum() >= lengths[:count].sum()
    room, others = tokens - lengths[chosen].sum(), np.delete(lengths, chosen)
    assert not any(0 < other - one <= room for one in lengths[chosen[-64:]] for other in others[:64])


def test_a_batch_by_hand():
    """10 of 12 rows taken: the 3 goes for the 5, nothing for the 7."""
    assert Bucket(3, 12, 8).fill(np.array([4, 3, 3, 7, 5, 1])).tolist() == [0, 4, 2]
    assert Bucket(3, 12, 8).fill(np.array([4, 3])).tolist() == [0, 1], "no more there"
    assert Bucket(1, 8, 8).fill(np.array([4])).tolist() == [0]


@settings(deadline=None)
@given(st.integers(8, 60), st.integers(10, 30), st.integers(1, 300), st.integers(0, 1000))
def test_what_is_left_of_full_batches_is_foreseen(sequences, mean, count, seed):
    """To a batch in ten, and one, for rows that are too few, about right or too many for the slots: texts are 20 tokens long on average."""
    bucket, lengths = Bucket(sequences, sequences * mean, 40), np.random.default_rng(seed).integers(1, 40, count)
    full, count_left, tokens_left = bucket.expected_fill(count, int(lengths.sum()))
    batches, _ = filled(bucket, np.arange(count), lengths)
    assert abs(full - len(batches)) <= 1 + 0.1 * len(batches)
    assert 0 <= count_left <= sequences and count_left - 1e-9 <= tokens_left <= bucket.tokens


def test_what_is_left_by_hand():
    """Rows run out first; slots do, and longer sequences are exchanged for until rows do, too; nothing fills a batch; nothing is left."""
    assert Bucket(10, 40, 16).expected_fill(12, 100) == (2, pytest.approx(2.4), pytest.approx(20))
    assert Bucket(4, 40, 16).expected_fill(10, 90) == (2, 2, 10)
    assert Bucket(4, 40, 16).expected_fill(3, 20) == (0, 3, 20)
    assert Bucket(4, 40, 16).expected_fill(4, 40) == (1, 0, 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), st.sampled_from([1, 2, 8, 32]), st.sampled_from([16, 32, 40]), st.sampled_from([1, 8, 64]))
def test_a_ladder(seed, batch_size, width, granule):
    """Rising in cost, every rung within the bucket and falling with depth, and the last holds everything."""
    bucket = next(bucket for bucket in buckets(rows_of(batch_size), 40, alone=batch_size == 1) if bucket.width == width)
    rungs = ladder(bucket, WHOLE, ARCH, sample(seed).draw(bucket, 100), granule)
    costs = [schedule.flops(ARCH) for schedule in rungs]
    assert costs == sorted(costs) and len(set(costs)) == len(costs) and 1 <= len(rungs) <= 5
    assert rungs[-1] == Schedule.full(bucket, WHOLE, LAYERS)
    for schedule in rungs:
        rows, widths = zip(*schedule.layers, strict=True)
        assert list(rows) == sorted(rows, reverse=True) and list(widths) == sorted(widths, reverse=True)
        assert rows[-1] >= 1 and rows[0] <= bucket.tokens and widths[-1] >= 1 and widths[0] <= bucket.width


def test_the_lean_rung_costs_least_and_the_safe_one_seldom_loses_a_text():
    """Of batches of the kind it was calibrated on; and neither has much more room than they need."""
    bucket, calibration = buckets(rows_of(32), 40)[-1], sample()
    drawn, others = (calibration.draw(bucket, 200, seed=seed) for seed in (0, 2))
    lean, safe, *_, full = ladder(bucket, WHOLE, ARCH, drawn, 1)
    assert losses(lean, others)[0] > 2 * losses(safe, others)[0]
    assert losses(safe, others)[0] < 0.1 and losses(safe, others)[1] < 0.005
    mean = np.mean([batch.sum(axis=1) for batch in others], axis=0)
    assert (np.array(lean.layers) <= np.array(safe.layers)).all() and (np.array(safe.layers)[:, 0] < 1.25 * mean).all()

    def cost(schedule):
        return schedule.flops(ARCH) + losses(schedule, others)[1] * full.flops(ARCH)

    tight = dataclasses.replace(lean, layers=tuple((round(0.9 * rows), width) for rows, width in lean.layers))
    assert cost(lean) < cost(safe) and cost(lean) < cost(tight)


def test_fewer_tokens_kept_make_cheaper_rungs():
    bucket = buckets(rows_of(32), 40)[-1]
    calibration = sample()
    fewer = dataclasses.replace(calibration, kept=np.maximum(1, calibration.kept // 2))
    cost, less = (ladder(bucket, WHOLE, ARCH, each.draw(bucket, 100), 8)[0].flops(ARCH) for each in (calibration, fewer))
    assert less < 0.8 * cost


def test_a_dense_model_has_one_program_a_bucket():
    dense = dataclasses.replace(ARCH, skim=None)
    bucket = buckets(rows_of(4), 40)[0]
    assert ladder(bucket, WHOLE, dense, Calibration.assumed(LAYERS, 0.0).draw(bucket, 10), 8) == (Schedule.full(bucket, WHOLE, LAYERS),)


def test_an_assumed_calibration_serves_every_bucket():
    arch = Architecture(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    for bucket in buckets(lambda width: 4096, 512):
        rungs = ladder(bucket, Stage.whole(arch.num_hidden_layers), arch, Calibration.assumed(6, 0.0).draw(bucket, 100), 8)
        assert len(rungs) > 1 and rungs[0].flops(arch) < 0.95 * rungs[-1].flops(arch)


def test_rungs_are_made_for_the_batches_that_come():
    """Of streams of other texts of the same kind: small batches and large ones, and what narrower buckets leave for wider ones, lose few
    texts on the safe rung and none on the last."""
    stage = Stage(1, LAYERS + 1)
    batching = Batching(stage, ARCH, sample(), Sizes(None, 8, 40, 8, 2048), sample().of_stage(stage).lengths)
    lost = {True: [], False: []}
    for seed in range(1, 25):
        others = sample(seed, 15 * seed).of_stage(stage)
        for bucket, members in batching.plan(others.lengths):
            *rungs, last = batching.ladder(bucket)
            kept = others.kept[:, members]
            assert last.bucket.holds(len(members), others.lengths[members].sum(), bucket.width) and losses(last, [kept]) == (0.0, 0.0)
            safe = [rung for rung in rungs if losses(rung, batching.drawn(bucket))[0] <= 0.04]
            if safe:
                lost[bucket in batching.buckets].append(losses(safe[0], [kept])[1])
    assert all(len(shares) > 10 and np.mean(shares) < 0.01 for shares in lost.values()), {key: np.mean(each) for key, each in lost.items()}


@pytest.mark.parametrize("stage", [Stage(1, LAYERS + 1), Stage(2, 3), WHOLE], ids=str)
def test_what_is_left_of_a_call_fits_one_of_many_sizes(stage):
    """Above a quarter of a batch, no more than about an eighth of it stays empty; below, an eighth too."""
    lengths = np.full(100, 16)
    batching = Batching(stage, ARCH, Calibration(lengths, np.tile(lengths, (LAYERS, 1)), 0.0), Sizes(1024, None, 16, 8, 512), lengths)
    largest = batching.buckets[-1].tokens
    for count in range(1, 200):
        rows = sum(bucket.tokens for bucket, _ in batching.plan(np.full(count, 16)))
        assert 16 * count <= rows <= 16 * count + largest / 8 + 16, count


def partitions(layers):
    """All ways to cut the layers into stages."""
    for count in range(layers):
        for cuts in itertools.combinations(range(2, layers + 1), count):
            yield tuple(Stage(*bounds) for bounds in itertools.pairwise((1, *cuts, layers + 1)))


@pytest.mark.parametrize("shares", [(1, 0.9, 0.5, 0.3), (0.3, 0.3, 0.3, 0.3), (0.9, 0.2, 0.2, 0.1)], ids=str)
@pytest.mark.parametrize("batch_size", [4, 32])
def test_stages_are_the_cheapest(shares, batch_size):
    """Of all ways to cut the network."""
    arch = Architecture(hidden_size=384, num_hidden_layers=4, num_attention_heads=12, intermediate_size=1536, skim=SkimArchitecture())
    lengths = np.random.default_rng(0).integers(20, 60, 100)
    calibration = Calibration(lengths, np.maximum(1, np.array(shares)[:, None] * lengths).astype(int), 0.0)
    sizes = Sizes(None, batch_size, 64, 8, 2048)

    def cost(parts):
        return sum(
            Batching(part, arch, calibration, sizes, calibration.of_stage(part).lengths, 30).expected_cost for part in parts
        )  # fmt: skip

    costs = {parts: cost(parts) for parts in partitions(4)}
    assert len(costs) == 8 and stages(calibration, arch, sizes) == min(costs, key=costs.__getitem__)


def test_stages_end_where_that_pays():
    """Where much is gone, in batches of many rows and layers that are large; a start, and the way of the states, cost more than little."""
    lengths = np.full(200, 100)
    # What is left is known at the end of a stage only: half of the texts are skimmed much more than the others.
    varied = np.tile([0.5, 1.5], 100)

    def begins(hidden, batch_size, shares, **changes):
        arch = Architecture(
            hidden_size=hidden, num_hidden_layers=6, num_attention_heads=12, intermediate_size=4 * hidden, skim=SkimArchitecture()
        )
        kept = np.maximum(1, np.array(shares)[:, None] * varied * lengths).astype(int)
        calibration = Calibration(lengths, np.minimum.accumulate(np.minimum(kept, lengths)), 0.0)
        found = stages(calibration, dataclasses.replace(arch, **changes), Sizes(None, batch_size, 128, 8, 2048))
        assert all(before.stop == after.first for before, after in itertools.pairwise(found)) and found[-1].stop == 7
        return [stage.first for stage in found]

    falling, at_once = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1), (0.6, 0.6, 0.2, 0.2, 0.2, 0.2)
    assert begins(768, 32, (0.6,) * 6) == [1], "nothing is gone"
    assert begins(384, 32, at_once) == [1, 3] == begins(768, 32, at_once)
    assert begins(384, 4, at_once) == [1], "few rows"
    assert len(begins(768, 32, falling)) > 1 and begins(96, 32, falling) == [1] == begins(96, 32, at_once), "small layers"
    assert begins(768, 1, falling) == [1], "a text alone"
    assert begins(768, 32, falling, skim=None) == [0]


def test_stages_for_texts_longer_than_the_engine_reads():
    """They are cut."""
    arch = dataclasses.replace(ARCH, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
    lengths = np.full(50, 400)
    calibration = Calibration(lengths, np.stack([lengths, lengths // 2, lengths // 8]), 0.0)
    assert stages(calibration, arch, Sizes(4096, None, 64, 8, 2048))[-1].stop == LAYERS + 1


@given(st.sets(st.integers(1, LAYERS)), st.integers(1, 50), st.integers(1, 50))
def test_stages_cost_what_the_whole_costs(cuts, sequences, width):
    """Of the same rows, whole schedules."""
    bucket = Bucket(sequences, sequences * width, width)
    parts = [Stage(*bounds) for bounds in itertools.pairwise([0, *sorted(cuts), LAYERS + 1])]
    whole = Schedule.full(bucket, WHOLE, LAYERS).flops(ARCH)
    assert sum(Schedule.full(bucket, part, LAYERS).flops(ARCH) for part in parts) == pytest.approx(whole)
    lengths = np.full(sequences, width, float)
    assert whole == pytest.approx(flops.skimmed(ARCH, [lengths] * LAYERS, lengths).sum())
    assert [layer for part in parts for layer in part.skims(LAYERS)] == list(range(LAYERS))


def test_a_calibration_of_a_stage():
    """What enters it, and what its predictors keep."""
    whole = sample()
    assert np.array_equal(whole.of_stage(Stage(0, 2)).lengths, whole.lengths)
    later = whole.of_stage(Stage(1, LAYERS + 1))
    assert np.array_equal(later.lengths, whole.kept[0]) and np.array_equal(later.kept, whole.kept[1:])
    assert whole.of_stage(Stage(LAYERS, LAYERS + 1)).kept.shape == (0, len(whole.lengths))


def test_texts_longer_than_all_buckets_but_the_last_still_calibrate_it():
    """And the others are served by shares."""
    long = Calibration.of(np.full(50, 40), np.tile([[30], [20], [10]], 50), 0.0)
    for bucket in buckets(rows_of(8), 40):
        first = ladder(bucket, WHOLE, ARCH, long.draw(bucket, 100), 1)[0]
        assert first.layers[-1][1] < bucket.width and first.layers[-1][0] <= 0.5 * bucket.tokens


def test_losses_by_hand():
    """A text too wide is lost alone; of those that find no rows, the last ones; what is lost frees rows further down."""
    schedule = Schedule(Stage.whole(2), Bucket(3, 12, 6), ((10, 5), (4, 3)))
    assert losses(schedule, [np.array([[3, 5, 2], [1, 2, 1]])]) == (0.0, 0.0)
    assert losses(schedule, [np.array([[3, 6, 2], [1, 3, 1]])]) == (1.0, pytest.approx(1 / 3)), "too wide"
    assert losses(schedule, [np.array([[3, 5, 3], [1, 2, 1]])]) == (1.0, pytest.approx(1 / 3)), "no rows for the last"
    assert losses(schedule, [np.array([[3, 5, 3], [1, 3, 3]])]) == (1.0, pytest.approx(1 / 3)), "whose rows below are free then"
    assert losses(schedule, [np.array([[3, 5, 2], [1, 2, 3]]), np.array([[1, 1, 1], [1, 1, 1]])]) == (0.5, pytest.approx(1 / 6))


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
