"""The runtime of compiled programs: what it compiles, what it learns, how texts that find no room are answered, and several devices."""

import dataclasses
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from inference.skimmers import ARCH, make_examples, make_model, masked
from training import runs

from transkimmer_jax.inference import jax_runtime
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.hardware import ENOUGH_TEXTS_OF_A_THRESHOLD, MOST_CALIBRATIONS, RUNGS, THRESHOLD_STEP
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.inference.programs import cast
from transkimmer_jax.inference.shapes import Schedule

LAYERS = ARCH.num_hidden_layers
WIDTH = 16  # one bucket, so that few programs are compiled
rng = np.random.default_rng(0)
STREAM = make_examples(rng.integers(1, WIDTH + 1, 130), seed=6)


@pytest.fixture(scope="module", autouse=True)
def build_quickly(quickly_built_programs):
    """For every test here."""


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def expected(model):
    return np.stack([example.logits for example in masked(model, STREAM, 0.0)])


def make_engine(model, **options):
    return SkimEngine(model, runtime="jax", batch_tokens=96, max_length=WIDTH, **options)


@pytest.fixture(scope="module")
def engine(model):
    """An engine that has seen the stream and has all programs."""
    engine = make_engine(model)
    engine.calibrate(STREAM)
    engine.calibrate(STREAM, threshold=1.0)
    engine.warm_up(progress=False)
    return engine


def assert_exact(engine, expected):
    np.testing.assert_allclose(engine.predict_tokenized(STREAM).logits, expected, atol=1e-4, rtol=0)


def count_compilations(work):
    """How many programs `work` has compiled."""
    seen = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: seen.append(name) if "backend_compile" in name else None)
    try:
        work()
    finally:
        jax.monitoring.clear_event_listeners()
    return len(seen)


def test_texts_that_find_no_room_run_again(model, expected):
    """A calibration that promises that next to nothing is kept: most texts are lost at first, every answer is exact."""
    lengths = np.arange(1, WIDTH + 1)
    engine = make_engine(model, calibration=Calibration(lengths, np.ones((LAYERS, WIDTH), int), 0.0))
    assert_exact(engine, expected)
    statistics = engine.statistics
    assert statistics.examples == len(STREAM) and statistics.overflows >= 3 and statistics.again >= len(STREAM) // 4

    def cost_of_a_call():
        engine.runtime.programs.runs.clear()
        assert_exact(engine, expected)
        return sum(count * schedule.flops(ARCH) for schedule, count in engine.runtime.programs.runs.items())

    first, *_, last = [cost_of_a_call() for _ in range(6)]
    ((large, _),) = engine.runtime.buckets
    batches = np.ceil(STREAM.lengths.sum() / large.tokens)
    assert last <= first and last < 1.5 * batches * Schedule.full(large, LAYERS).flops(ARCH), "it learns what trying costs"


@pytest.mark.parametrize("rung", range(len(RUNGS)))
def test_every_rung_is_exact(engine, expected, monkeypatch, rung):
    """Whichever a batch begins on; the expected rows do not hold every batch, all rows do."""
    monkeypatch.setattr(engine.runtime.ladders(0.0), "choose", lambda bucket, threshold, lowest, batches: max(rung, lowest))
    before = engine.statistics.again
    assert_exact(engine, expected)
    again = engine.statistics.again - before
    assert (again > 0) if rung == 0 else (again == 0) if rung == len(RUNGS) - 1 else again < len(STREAM) / 10


def test_steady_state_compiles_nothing(engine):
    """Other texts, other thresholds: the programs are there already."""
    others = make_examples(rng.integers(1, WIDTH + 1, 90), seed=6)

    def serve():
        for threshold in (0.0, 0.3, 1.2, -0.7, -np.inf, np.inf):
            engine.predict_tokenized(others, threshold=threshold)

    assert count_compilations(serve) == 0
    assert count_compilations(lambda: jax.jit(lambda x: x * 3.0)(np.float32(1))) > 0, "else the count counts nothing"
    assert engine.statistics.programs <= 2 * (2 * len(RUNGS) - 1), "of large and small batches, at two thresholds that share the last rung"


def test_warming_up_for_some_lengths_compiles_for_no_others(model):
    engine = SkimEngine(model, runtime="jax", batch_tokens=96)
    engine.warm_up([10, 12, 16], progress=False)
    assert engine.statistics.programs == 2, "large and small batches with room for all"
    assert count_compilations(lambda: engine.predict_tokenized(STREAM)) == 0


def test_capacities_are_made_from_what_was_seen(model):
    """Where nobody has calibrated: batches have room for all until enough texts were answered, and then for what those kept."""
    runtime = (engine := make_engine(model)).runtime

    def has_room_for_all():
        runtime.programs.runs.clear()
        engine.predict_tokenized(STREAM)
        return [schedule == Schedule.full(schedule.bucket, LAYERS) for schedule in runtime.programs.runs]

    assert all(has_room_for_all()) and runtime.ladders(0.0).calibration is None, "130 texts are too few"
    assert all(has_room_for_all())
    learned = runtime.ladders(0.0).calibration
    assert len(learned.lengths) == 2 * len(STREAM) and learned.threshold == 0.0
    assert not all(has_room_for_all()) and runtime.ladders(0.0).calibration is learned, "once"


def cost_of_a_call(engine, threshold):
    """FLOPs of the programs that the stream runs, and how many of its texts run again."""
    programs, again = engine.runtime.programs, engine.statistics.again
    programs.runs.clear()
    engine.predict_tokenized(STREAM, threshold=threshold)
    return sum(count * schedule.flops(ARCH) for schedule, count in programs.runs.items()), engine.statistics.again - again


@pytest.fixture
def learns_quickly(monkeypatch):
    """Thresholds have calibrations of their own once the stream was answered twice."""
    monkeypatch.setattr(jax_runtime, "ENOUGH_TEXTS_OF_A_THRESHOLD", 2 * len(STREAM))


@pytest.mark.usefixtures("learns_quickly")
def test_a_tighter_threshold_computes_fewer_rows(model):
    """Until enough of its texts were answered, the programs of the lower threshold do, which have room enough."""
    engine = make_engine(model, threshold=-2.0)
    engine.calibrate(STREAM)
    calibrated, _ = cost_of_a_call(engine, -2.0)
    before = [cost_of_a_call(engine, 2.0) for _ in range(2)]
    assert all(cost <= calibrated and again == 0 for cost, again in before)
    after, _ = min(cost_of_a_call(engine, 2.0) for _ in range(2))
    assert after < 0.7 * calibrated
    assert cost_of_a_call(engine, -2.0)[0] == calibrated, "the other threshold's are as they were"
    exact = np.stack([example.logits for example in masked(model, STREAM, 2.0)])
    np.testing.assert_allclose(engine.predict_tokenized(STREAM, threshold=2.0).logits, exact, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("learns_quickly")
def test_a_looser_threshold_loses_no_text(model):
    """It starts with room for all, and ends with programs of its own."""
    engine = make_engine(model, threshold=2.0)
    calibrated = engine.calibrate(STREAM)
    full = [cost_of_a_call(engine, 0.0) for _ in range(2)]
    assert full[0] == full[1] and full[0][1] == 0
    after, _ = min(cost_of_a_call(engine, 0.0) for _ in range(2))
    assert after < 0.9 * full[0][0] and engine.runtime.ladders(2.0).calibration is calibrated
    exact = np.stack([example.logits for example in masked(model, STREAM, 0.0)])
    np.testing.assert_allclose(engine.predict_tokenized(STREAM, threshold=0.0).logits, exact, atol=1e-4, rtol=0)


def calibration(threshold):
    return Calibration.of_shares([0.9, 0.5, 0.1], WIDTH, threshold)


def test_the_nearest_calibration_below_serves(model):
    runtime = make_engine(model, calibration=calibration(0.7150000000000001)).runtime
    runtime.set_calibration(calibration(0.5))
    served = {threshold: runtime.ladders(threshold).calibration for threshold in (-np.inf, 0.4, 0.5, 0.7, 0.715, 0.9, np.inf)}
    made_for = [None if known is None else known.threshold for known in served.values()]
    assert made_for == [None, None, 0.5, 0.5, *[0.7150000000000001] * 3]
    # What is written in fewer digits is the same threshold, whose calibration is replaced.
    runtime.set_calibration(anew := calibration(0.715))
    assert runtime.ladders(0.7150000000000001).calibration is runtime.ladders(0.715).calibration is anew
    assert runtime.ladders(0.5).calibration is served[0.5]


def test_thresholds_without_number_end_in_a_bounded_number_of_programs(model):
    """Of each step of thresholds one calibration is learned, of so many steps; each from enough texts of its own."""
    runtime = make_engine(model, calibration=calibration(0.5)).runtime
    answers = Predictions.empty([], LAYERS, np.full(ENOUGH_TEXTS_OF_A_THRESHOLD // 4, WIDTH), False)

    def known():
        return {None if its.calibration is None else its.calibration.threshold for its in runtime._ladders.values()}

    for threshold in [np.inf, -np.inf, 1e308, 0.51, 0.55] * 5:
        runtime._learn(answers, threshold)
    assert known() == {None, 0.5}, "no step of finite size, or one that is calibrated"
    for threshold in (0.57, 0.62, 0.57, 0.65):
        runtime._learn(answers, threshold)
    assert known() == {None, 0.5}, "not enough of one step"
    runtime._learn(answers, 0.6)
    assert known() == {None, 0.5, 0.5625}
    for threshold in np.random.default_rng(0).uniform(-1, 2, 2000).tolist():
        runtime._learn(answers, threshold)
    assert len(known()) == 1 + MOST_CALIBRATIONS and not runtime._seen
    assert all(threshold % THRESHOLD_STEP == 0 for threshold in known() - {None})
    for number in range(2000):
        runtime._learn(answers, 3.0 + number)
    assert len(known()) == 1 + MOST_CALIBRATIONS


def test_programs_of_a_replaced_calibration_are_freed(model, expected):
    """A process that calibrates from time to time keeps as many as it needs."""
    engine = make_engine(model)
    counts = []
    for seed in range(4):
        engine.calibrate(make_examples(rng.integers(1, WIDTH + 1, 60), seed=seed))
        assert_exact(engine, expected)
        counts.append(engine.statistics.programs)
    assert max(counts) <= 2 * len(RUNGS), counts
    schedules = set(engine.runtime.programs._compiled)
    ladders = engine.runtime._ladders.values()
    assert schedules == {rung for its in ladders for rung in schedules if rung in its.schedules(rung.bucket)}


def test_a_dense_model_has_one_program_a_bucket():
    dense = make_engine(make_model(dataclasses.replace(ARCH, skim=None)))
    dense.warm_up(progress=False)
    assert dense.statistics.programs == 2


def test_weights_are_stored_as_they_are_computed_with(model):
    """bfloat16, but for norms, decisions and the classifier."""
    stored = cast(model, "bfloat16")
    assert stored.encoder.layers[0].up.kernel[...].dtype == "bfloat16" and stored.embeddings.word.embedding[...].dtype == "bfloat16"
    for exact in (stored.classifier.kernel, stored.encoder.predictors[0].decision.kernel, stored.encoder.layers[0].output_norm.scale):
        assert exact[...].dtype == "float32"
    rough = make_engine(model, precision="bfloat16").predict_tokenized(STREAM, threshold=-np.inf)
    exact = np.stack([example.logits for example in masked(model, STREAM, -np.inf)])
    assert 0 < np.abs(rough.logits - exact).max() < 0.1 * np.abs(exact).max()


def test_knots_are_thresholds():
    """A level's knot is what a margin is compared with, so weights in bfloat16 leave it where it is."""
    levels = make_model(dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, levels=(0.6, 0.3))))
    for level, knots in zip(levels.encoder.levels, ([-1.234567, 2.345678], [0.1234567, 3.456789], [0.0, 1.111111]), strict=True):
        level.knots[...] = np.array(knots, np.float32)
    for level, exact in zip(cast(levels, "bfloat16").encoder.levels, levels.encoder.levels, strict=True):
        np.testing.assert_array_equal(level.knots[...], exact.knots[...])
        assert level.knots[...].dtype == "float32"


def test_several_devices():
    """Each packs its own batches; the answers are those of one device."""
    code = """
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
        import sys
        sys.path.insert(0, "tests")
        import jax, numpy as np
        from inference.skimmers import make_examples, make_model
        from transkimmer_jax.inference.engine import SkimEngine
        assert len(jax.local_devices()) == 4
        examples = make_examples(np.random.default_rng(1).integers(1, 41, 70), seed=8)
        options = {"runtime": "jax", "batch_tokens": 160, "depths": True}
        engine = SkimEngine(make_model(), **options)
        assert engine.runtime.programs.device_count == 4
        one = SkimEngine(make_model(), devices=jax.local_devices()[:1], **options).predict_tokenized(examples)
        assert np.abs(one.logits).max() > 0.1
        many = engine.predict_tokenized(examples)
        engine.calibrate(examples)
        for predictions in (many, engine.predict_tokenized(examples)):
            assert all((a == b).all() for a, b in zip(predictions.depths, one.depths)) and (predictions.kept == one.kept).all()
            assert np.abs(predictions.logits - one.logits).max() < 1e-4
        print("the same")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=runs.TRAIN_PY.parent, check=False
    )
    assert done.stdout == "the same\n", done.stderr
