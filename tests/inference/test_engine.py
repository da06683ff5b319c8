"""Laws of the engine: answers are those of the masked evaluation, in the caller's order, whatever ran beside them; nothing is
compiled in steady state; and what cannot be answered is one line that names the culprit."""

import dataclasses
import itertools
import json
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from inference.skimmers import ARCH, is_decided, make_examples, make_model, masked, stages_beginning
from training import runs

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError, DataError, InferenceError
from transkimmer_jax.inference.batching import Batching, Sizes, by_bucket, filled
from transkimmer_jax.inference.call import Call
from transkimmer_jax.inference.engine import SkimEngine, cast
from transkimmer_jax.inference.schedule import Calibration
from transkimmer_jax.models.encoder import Stage

LAYERS = ARCH.num_hidden_layers
TOLERANCE = 1e-4
rng = np.random.default_rng(0)
STREAM = make_examples(rng.integers(1, 41, 150), seed=6)


@pytest.fixture(scope="module", autouse=True)
def build_quickly(quickly_built_programs):
    """For every test here."""


@pytest.fixture(scope="module")
def engine():
    """An engine whose calibration is right, with a stage for every layer."""
    with stages_beginning():
        engine = SkimEngine(make_model(), batch_tokens=160, depths=True)
        engine.calibrate(STREAM)
    return engine


@pytest.fixture(scope="module")
def unstaged(engine):
    """The same with one program a batch: what a layer keeps has to fit what was calibrated."""
    return SkimEngine(make_model(), calibration=engine.calibration, batch_tokens=160, depths=True, rebatch=False)


@pytest.fixture(scope="module")
def deep():
    """A model of six layers."""
    return make_model(dataclasses.replace(ARCH, num_hidden_layers=6))


@pytest.fixture(scope="module")
def expected():
    found = masked(make_model(), STREAM, 0.0)
    assert is_decided(found, 0.0)
    return found


def assert_same(predictions, expected):
    for row, example in enumerate(expected):
        np.testing.assert_array_equal(predictions.depths[row], example.depth)
        np.testing.assert_array_equal(predictions.kept[:, row], [(example.depth > layer).sum() for layer in range(LAYERS)])
        np.testing.assert_allclose(predictions.logits[row], example.logits, atol=TOLERANCE, rtol=0)


def taken(examples, rows):
    """Some of the examples, in another order."""
    spans = [slice(examples.offsets[row], examples.offsets[row + 1]) for row in rows]
    return dataclasses.replace(
        examples,
        input_ids=np.concatenate([examples.input_ids[span] for span in spans]),
        token_type_ids=np.concatenate([examples.token_type_ids[span] for span in spans]),
        offsets=np.concatenate([[0], np.cumsum(examples.lengths[list(rows)])]),
        labels=examples.labels[list(rows)],
        truncated=examples.truncated[list(rows)],
    )


@pytest.fixture(scope="module")
def chosen(engine):
    """The same in the stages that the engine chooses, and with the first decisions looked up."""
    return SkimEngine(make_model(), calibration=engine.calibration, batch_tokens=160, depths=True)


def test_a_stream(engine, chosen, unstaged, expected):
    for each in (engine, chosen, unstaged):
        assert_same(each.predict_tokenized(STREAM), expected)
    assert chosen.stages == (Stage(1, LAYERS + 1),) and len(engine.stages) == LAYERS


def test_token_ids_of_any_integer_type(chosen, unstaged, expected):
    wide = dataclasses.replace(
        STREAM, input_ids=STREAM.input_ids.astype(np.int64), token_type_ids=STREAM.token_type_ids.astype(np.int64)
    )  # fmt: skip
    for each in (chosen, unstaged):
        assert_same(each.predict_tokenized(wide), expected)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, len(STREAM) - 1), min_size=1, max_size=40))
def test_batch_mates_and_order_do_not_matter(engine, chosen, expected, rows):
    for each in (engine, chosen):
        assert_same(each.predict_tokenized(taken(STREAM, rows)), [expected[row] for row in rows])


@pytest.mark.parametrize("threshold", [-np.inf, -2.0, 1.0, np.inf])
def test_thresholds_far_from_the_calibrated_one(engine, unstaged, threshold):
    """A run-time value: what keeps more than was calibrated climbs, and is exact."""
    expected = masked(make_model(), STREAM, threshold)
    assert is_decided(expected, threshold)
    assert_same(engine.predict_tokenized(STREAM, threshold=threshold), expected)
    before = unstaged.statistics.overflows
    assert_same(unstaged.predict_tokenized(STREAM, threshold=threshold), expected)
    assert (unstaged.statistics.overflows > before) == (threshold < 0)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 4}, {"batch_tokens": 41}, {"batch_tokens": 5000}], ids=str)
def test_batching_does_not_matter(expected, options):
    assert_same(SkimEngine(make_model(), depths=True, **options).predict_tokenized(STREAM), expected)


def in_stages(cuts, calibration, model=None, **options):
    """An engine that makes its batches anew behind the predictors of these layers; behind the first it looks decisions up."""
    engine = SkimEngine(model or make_model(), calibration=calibration, depths=True, **options)
    bounds = [*([] if 1 in cuts else [0]), *cuts, LAYERS + 1]
    sizes = Sizes(options.get("batch_tokens"), options.get("batch_size"), 40, 8, 64)
    parts = [Stage(*each) for each in itertools.pairwise(bounds)]
    engine.batchings = tuple(Batching(part, ARCH, engine.calibration, sizes, engine.calibration.of_stage(part).lengths) for part in parts)
    return engine


@pytest.mark.parametrize(
    ("cuts", "options"),
    [((1,), {"batch_size": 2}), ((2,), {"batch_tokens": 160}), ((1, 3), {"batch_size": 2}), ((1, 2, 3), {"batch_tokens": 160})],
    ids=str,
)
def test_stages_do_not_matter(engine, expected, cuts, options):
    """Wherever batches are made anew, from before the first layer to before the last, and whatever waits for whom."""
    staged = in_stages(cuts, engine.calibration, **options)
    assert_same(staged.predict_tokenized(STREAM), expected)
    assert staged.statistics.examples == len(STREAM)
    rows = list(range(0, len(STREAM), 3))
    assert_same(staged.predict_tokenized(taken(STREAM, rows)), [expected[row] for row in rows])
    above = masked(make_model(), STREAM, 1.0)
    assert_same(staged.predict_tokenized(STREAM, threshold=1.0), above)


def test_states_wait_for_few_batches_only(engine, expected, monkeypatch):
    """What waits between two stages is bounded, however long the stream, and the answers are the same if hardly anything may wait."""
    waiting, room = [], []
    take, make_room = Call._take, Call._make_room
    monkeypatch.setattr(Call, "_take", lambda self, *args: (take(self, *args), waiting.append(self._states.nbytes))[0])
    monkeypatch.setattr(Call, "_make_room", lambda self: (make_room(self), room.append(self._states.nbytes)))
    longer = taken(STREAM, list(range(len(STREAM))) * 3)
    for batches in (0, 2):
        staged = in_stages((1, 2), engine.calibration, batch_size=2)
        batch = 2 * 40 * 4 * ARCH.hidden_size
        staged._waiting_bytes = batches * batch
        waiting.clear()
        room.clear()
        assert_same(staged.predict_tokenized(longer), list(expected) * 3)
        assert len(room) >= 3 and max(room) <= batches * batch
        # Beside what came last, and what of it goes on at once.
        assert 0 < max(waiting) <= (batches + 2) * batch


def test_overflow_is_climbed_out_of(expected):
    """A calibration that promises that next to nothing is kept: every first try overflows, every answer is exact."""
    lengths = np.arange(1, 41)
    wrong = Calibration(lengths, np.ones((LAYERS, 40), int), 0.0)
    engine = SkimEngine(make_model(), batch_tokens=160, calibration=wrong, depths=True, rebatch=False)
    assert_same(engine.predict_tokenized(STREAM), expected)
    assert engine.statistics.overflows >= len(engine.batchings[0].buckets) // 2
    assert engine.statistics.examples == len(STREAM) and engine.statistics.again >= len(STREAM) // 2

    def cost_of_a_pass():
        engine.programs.calls.clear()
        engine.predict_tokenized(STREAM)
        return sum(count * schedule.flops(ARCH) for schedule, count in engine.programs.calls.items())

    costs = [cost_of_a_pass() for _ in range(6)]
    batches = len(engine.batchings[0].plan(STREAM.lengths))
    full = max(engine.batchings[0].ladder(bucket)[-1].flops(ARCH) for bucket in engine.batchings[0].buckets)
    assert costs[-1] <= costs[0] and costs[-1] < 1.5 * batches * full, "it learns what trying costs"


def test_what_fills_no_batch_goes_together(engine, expected, monkeypatch):
    """Lost texts wait for batches of such as were lost as often; what fills none runs with what is left of the others."""
    times = []
    original = Call._pass

    def watched(self, stage, plan, together):
        times.append({int(self._times[row]) for _, rows in plan for row in rows})
        original(self, stage, plan, together)

    monkeypatch.setattr(Call, "_pass", watched)
    few = engine.calibration.kept.copy()
    few[2] = np.maximum(1, few[2] // 3)
    few = Calibration(engine.calibration.lengths, few, 0.0)
    staged = in_stages((1, 2), few, batch_tokens=160)
    # So few may wait that leftovers are run now and then, not in the end alone.
    staged._waiting_bytes = 2 * 160 * 4 * ARCH.hidden_size
    assert_same(staged.predict_tokenized(STREAM), expected)
    assert staged.statistics.overflows > 0
    assert any(len(each) > 1 for each in times) and any(len(each) == 1 for each in times)


def test_a_text_alone_goes_through_one_program(engine, expected):
    """Between stages there is nothing that it could wait for."""
    single = SkimEngine(make_model(), calibration=engine.calibration, batch_size=1, depths=True)
    assert single.stages == (Stage(1, LAYERS + 1),)
    rows = list(range(0, len(STREAM), 10))
    assert_same(single.predict_tokenized(taken(STREAM, rows)), [expected[row] for row in rows])


def count_compilations(work):
    """How many programs `work` has compiled."""
    seen = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: seen.append(name) if "backend_compile" in name else None)
    try:
        work()
    finally:
        jax.monitoring.clear_event_listeners()
    return len(seen)


@given(st.lists(st.integers(1, ARCH.max_position_embeddings), max_size=80))
def test_no_batch_is_rather_empty(engine, lengths):
    """Each text is in one batch that holds it, and batches of whole size or small ones alone would not have done with fewer rows."""
    lengths, batching = np.array(lengths, int), engine.batchings[0]
    plan = batching.plan(lengths)
    assert sorted(row for _, rows in plan for row in rows) == list(range(len(lengths)))
    for bucket, rows in plan:
        assert bucket.holds(len(rows), lengths[rows].sum(), lengths[rows].max())
    home = np.searchsorted([bucket.width for bucket in batching.buckets], lengths)
    whole = 0
    for number, bucket in enumerate(batching.buckets):
        full, rest = filled(bucket, np.flatnonzero(home == number), lengths)
        assert all(len(rows) == bucket.sequences or lengths[rows].sum() > bucket.tokens - bucket.width for _, rows in full)
        whole += bucket.tokens * (len(full) + (len(rest) > 0))
    assert sum(bucket.tokens for bucket, _ in plan) <= whole
    assert all(bucket in batching.buckets for bucket, _ in batching.full(lengths))


def test_steady_state_compiles_nothing(engine):
    """Other texts, other thresholds: the programs are there already."""
    engine.warm_up(progress=False)
    engine.predict_tokenized(STREAM)
    others = make_examples(rng.integers(1, 41, 90), seed=6)

    def serve():
        for threshold in (0.0, 0.3, -0.7, -np.inf, np.inf):
            engine.predict_tokenized(others, threshold=threshold)

    assert count_compilations(serve) == 0
    assert count_compilations(lambda: jax.jit(lambda x: x * 3.0)(np.float32(1))) > 0, "else the count counts nothing"


def test_the_number_of_programs_is_bounded(engine, unstaged):
    """Of whole networks at most five rungs of a bucket's largest batches, one of each smaller size, of which batches as these have no more
    than eight, and three more that hold all; of layers, which lose no text, one for each of ten sizes."""
    whole = unstaged.batchings[0]
    assert len(whole.buckets) < len(set(whole.schedules(None))) <= (5 + 8 + 3) * len(whole.buckets)
    engine.warm_up(progress=False)
    before = SkimEngine(make_model(), batch_tokens=160).batchings  # it began without a calibration
    assert 0 < len(engine.programs) <= 10 * sum(len(batching.buckets) for batching in (*before, *engine.batchings))


def test_layers_share_programs(deep):
    """All but the first and the last run the same ones with their own parameters, and the answers are those of the masked evaluation."""
    some = taken(STREAM, list(range(60)))
    expected = masked(deep, some, 0.0)
    assert is_decided(expected, 0.0)
    kept = np.repeat([[16], [8], [8], [4], [4], [2]], 40, axis=1)
    for calibration, first, programs in (
        (None, (), {Stage(1, 2), Stage(2, 3), Stage(6, 7)}),
        (Calibration(np.full(40, 20), kept, 0.0), (1, 2, 4, 6), {Stage(1, 2), Stage(2, 4), Stage(6, 7)}),
    ):
        with stages_beginning(*first):
            engine = SkimEngine(deep, calibration=calibration, batch_tokens=160, depths=True)
        found = engine.predict_tokenized(some)
        for row, example in enumerate(expected):
            np.testing.assert_array_equal(found.depths[row], example.depth)
            np.testing.assert_allclose(found.logits[row], example.logits, atol=TOLERANCE, rtol=0)
        assert {schedule.stage for schedule in engine.programs.calls} == programs
        assert (engine.statistics.overflows > 0) == (calibration is not None)
    shares = [example.depth.mean() / 6 for example in expected]
    assert 0.2 < np.mean(shares) < 0.8 and len({tuple(example.depth) for example in expected}) > 50


@pytest.mark.parametrize("batch_size", [2, 8, 64])
def test_batches_are_half_as_large_as_those_of_the_longest_texts(batch_size):
    """Most texts are short, but what is left of them fills batches of half as many rows as long ones have in a dense run, and of no more:
    two of these and what waits then need no more memory than two dense ones. Where nothing waits, of as many rows."""
    long = np.array([6] * 300 + [40] * 2 * batch_size)
    calibration = Calibration(long, np.maximum(1, long // [[2], [3], [4]]), 0.0)
    dense = Batching(Stage.whole(LAYERS), ARCH, calibration, Sizes(None, batch_size, ARCH.max_position_embeddings, 8, 2048), long)
    ((widest, _),) = by_bucket(np.array([40]), dense.buckets)

    def rows(first, lengths):
        with stages_beginning(*first):
            calibration = Calibration(lengths, np.maximum(1, lengths // [[2], [3], [4]]), 0.0)
            engine = SkimEngine(make_model(), batch_size=batch_size, calibration=calibration)
        return {bucket.tokens for batching in engine.batchings for bucket in batching.buckets}

    one = long[: 300 + 1]
    for first, part in (((), 2), ((1, 3), 2), ((1,), 1)):
        assert rows(first, long) == {min(widest.tokens // part, 2048)}
        if first != (1,):
            assert rows(first, one) == {min(widest.tokens // part, 2048)}
    # A dense run has no two batches of such texts, one behind the other, but of the short ones, whose bucket has a width of 16.
    assert max(rows((1,), one)) == max(16 * batch_size, 40)


def test_warming_up_for_some_lengths_compiles_for_no_others():
    engine = SkimEngine(make_model(), batch_tokens=160, rebatch=False)
    engine.warm_up([10, 12, 16], progress=False)
    narrowest = [schedule for schedule in engine.batchings[0].schedules(None) if schedule.bucket.width == 16]
    assert len(engine.programs) == len(set(narrowest)) > 1


def test_logits_that_are_not_numbers():
    graph, params = nnx.split(make_model())
    params = jax.tree.map(lambda leaf: leaf * 1, params)
    params["classifier"]["kernel"][...] = params["classifier"]["kernel"][...] * np.nan
    engine = SkimEngine(nnx.merge(graph, params), batch_tokens=160)
    with pytest.raises(InferenceError, match="the logits of example 0 and 149 more are not finite"):
        engine.predict_tokenized(STREAM)
    with pytest.raises(InferenceError, match="the logits of example 0 are not finite"):
        engine.predict_tokenized(taken(STREAM, [3]))


def test_no_examples(engine):
    assert len(engine.predict_tokenized(make_examples([])).logits) == 0


def test_too_long(engine):
    with pytest.raises(InferenceError, match="41 tokens, more than the engine's max_length of 40"):
        engine.predict_tokenized(make_examples([41]))


def test_post_softmax_is_refused():
    arch = dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, attention_masking="post_softmax"))
    with pytest.raises(CheckpointError, match="cannot be compacted"):
        SkimEngine(make_model(arch))


def test_weights_are_stored_as_they_are_computed_with():
    """bfloat16, but for norms, decisions and the classifier."""
    arch = dataclasses.replace(ARCH, compute_dtype="bfloat16")
    stored = cast(make_model(arch))
    assert stored.encoder.layers[0].up.kernel[...].dtype == "bfloat16" and stored.embeddings.word.embedding[...].dtype == "bfloat16"
    for exact in (stored.classifier.kernel, stored.encoder.predictors[0].decision.kernel, stored.encoder.layers[0].output_norm.scale):
        assert exact[...].dtype == "float32"
    rough = SkimEngine(stored, batch_tokens=160).predict_tokenized(STREAM, threshold=-np.inf)
    exact = np.stack([example.logits for example in masked(make_model(), STREAM, -np.inf)])
    assert np.abs(rough.logits - exact).max() < 0.1 * np.abs(exact).max()
    # States go from stage to stage in bfloat16 as well.
    staged = in_stages((1, 2), Calibration.assumed(LAYERS, 0.0), model=stored, batch_tokens=160)
    assert np.abs(staged.predict_tokenized(STREAM, threshold=-np.inf).logits - exact).max() < 0.1 * np.abs(exact).max()


TEXTS = ["good film", "", "bad bad the film is bad", "a", "the films"]


@pytest.fixture(scope="module")
def folder(tokenizer_folder, tmp_path_factory):
    """A saved model of single texts, without a calibration."""
    folder = tmp_path_factory.mktemp("served") / "model"
    arch = dataclasses.replace(ARCH, vocab_size=60)
    make_model(arch).save_pretrained(
        folder,
        tokenizer=load_tokenizer(tokenizer_folder),
        label_names=("bad", "fair", "good"),
        extra_config={"task": {"name": "files", "max_length": 12, "text_columns": ["text"], "label_column": "label"}},
    )
    return folder


@pytest.fixture(scope="module")
def served(folder):
    return SkimEngine.from_pretrained(folder)


def test_texts(served, folder):
    """Answers in order, with what the model's own call gives for each text alone."""
    model = TranskimmerForSequenceClassification.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    answers = served.predict(TEXTS, progress=False)
    for text, answer in zip(TEXTS, answers, strict=True):
        ids = np.array(tokenizer(text)["input_ids"])[None]
        out = model(ids)
        np.testing.assert_allclose(answer.logits, out.logits[0], atol=TOLERANCE, rtol=0)
        assert (
            answer.label == ("bad", "fair", "good")[int(np.argmax(out.logits))] == max(answer.probabilities, key=answer.probabilities.get)
        )
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert answer.tokens == ids.shape[1] and answer.kept == pytest.approx(float(out.keep.mean()), abs=1e-6)
        assert not answer.truncated
    assert [answer.tokens for answer in answers] == [4, 2, 8, 3, 5]


def test_a_stream_of_texts_in_windows(served):
    texts = [TEXTS[number % 5] for number in range(23)]
    whole = served.predict(texts, progress=False)
    for window in (1, 4, 100):
        streamed = list(served.predict_stream(iter(texts), window=window))
        assert [answer.label for answer in streamed] == [answer.label for answer in whole]
        assert [answer.tokens for answer in streamed] == [answer.tokens for answer in whole]


def test_no_texts(served):
    assert served.predict([]) == [] and list(served.predict_stream([])) == []


def test_long_texts_are_cut_and_counted(served):
    before = served.statistics.truncated
    answers = served.predict(["good " * 50, "good " * 10, "good"], progress=False)
    assert [(answer.tokens, answer.truncated) for answer in answers] == [(12, True), (12, False), (3, False)]
    assert served.statistics.truncated == before + 1


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([("a", "b")], "text 0 is a pair, expected single texts"),
        (["a", 3], "text 1 is not a string or a pair of strings but 3"),
        (["a", None], "text 1 is not a string or a pair of strings but None"),
        (["a", ("a", "b", "c")], "text 1 has 3 parts"),
    ],
)
def test_texts_that_are_none(served, texts, says):
    with pytest.raises(DataError, match=says) as error:
        served.predict(texts)
    assert "\n" not in str(error.value)


def test_pairs(folder, tokenizer_folder):
    """Either, where nobody has said which; but not both at once."""
    engine = SkimEngine.from_pretrained(folder, pairs=None)
    single, pair = engine.predict(["good"], progress=False)[0], engine.predict([("good", "bad")], progress=False)[0]
    assert (single.tokens, pair.tokens) == (3, 5)
    with pytest.raises(DataError, match="text 1 is a pair, expected single texts"):
        engine.predict(["good", ("good", "bad")])


def test_a_folder_without_a_calibration_gets_one(folder, served, tmp_path):
    assert not (folder / "skim_calibration.json").exists()
    calibration = served.calibrate(TEXTS * 10)
    calibration.save(tmp_path)
    saved = json.loads((tmp_path / "skim_calibration.json").read_text())
    assert len(saved["lengths"]) == 50 and sorted(set(saved["lengths"])) == [2, 3, 4, 5, 8]
    assert [answer.label for answer in served.predict(TEXTS, progress=False)] == [
        answer.label for answer in SkimEngine.from_pretrained(folder, calibration=calibration).predict(TEXTS, progress=False)
    ]


def test_a_regression_model(tokenizer_folder, tmp_path):
    arch = dataclasses.replace(ARCH, vocab_size=60, num_labels=1)
    make_model(arch).save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder))
    answer = SkimEngine.from_pretrained(tmp_path / "model").predict(["good film"], progress=False)[0]
    assert answer.probabilities is None and answer.label == float(answer.logits[0])


def test_several_devices():
    """Each packs its own batches; the answers are those of one device."""
    code = """
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
        import sys
        sys.path.insert(0, "tests")
        import jax, numpy as np
        from inference.skimmers import make_examples, make_model, stages_beginning
        from transkimmer_jax.inference.engine import SkimEngine
        assert len(jax.local_devices()) == 4
        examples = make_examples(np.random.default_rng(1).integers(1, 41, 70), seed=8)
        engine = SkimEngine(make_model(), batch_tokens=160, depths=True)
        assert engine.programs.device_count == 4
        many = engine.predict_tokenized(examples)
        one = SkimEngine(make_model(), batch_tokens=160, depths=True, devices=jax.local_devices()[:1]).predict_tokenized(examples)
        assert all((a == b).all() for a, b in zip(many.depths, one.depths)) and (many.kept == one.kept).all()
        assert np.abs(many.logits - one.logits).max() < 1e-4 and np.abs(one.logits).max() > 0.1
        with stages_beginning():
            engine.calibrate(examples)
        staged = engine.predict_tokenized(examples)
        assert all((a == b).all() for a, b in zip(staged.depths, one.depths)) and (staged.kept == one.kept).all()
        assert np.abs(staged.logits - one.logits).max() < 1e-4
        print("the same")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=runs.TRAIN_PY.parent, check=False
    )
    assert done.stdout == "the same\n", done.stderr
