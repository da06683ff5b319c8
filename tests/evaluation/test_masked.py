"""Laws of evaluation: sums over the split, the same whatever the batches, and nothing counted that is not an example."""

import dataclasses

import numpy as np
import pytest
from checkpoints.handmade import CONFIG, random_tensors, write_checkpoint
from flax import nnx

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.data import batches
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.evaluation import masked, summary
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture

MAX_LENGTH, COUNT, LAYERS = 30, 37, CONFIG["num_hidden_layers"]
TASK = Task("test", ("text",), ("no", "yes", "maybe"), MAX_LENGTH, ("accuracy", "macro_f1"))


class Setting:
    """A random model whose margins spread around 0, and examples of 2 to 30 tokens."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        lengths = rng.integers(2, MAX_LENGTH + 1, COUNT)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.labels = rng.integers(0, 3, COUNT).astype(np.int32)
        ids = rng.integers(1, CONFIG["vocab_size"], offsets[-1]).astype(np.int32)
        self.examples = batches.TokenizedExamples(ids, np.zeros(len(ids), np.int8), offsets, self.labels, np.zeros(len(self.labels), bool))
        model = TranskimmerForSequenceClassification.from_pretrained(write_checkpoint(folder, random_tensors(CONFIG, predictor_size=24)))
        self.arch = model.arch
        graph, self.params = nnx.split(model)
        self.step = masked.evaluation_step(graph)

    def batches(self, batch_size, buckets):
        return batches.evaluation_batches(self.examples, batch_size, buckets, MAX_LENGTH, pad_id=0)

    def predict(self, batches, threshold=0.0):
        return masked.predict(self.step, self.params, batches, COUNT, threshold)

    def evaluate(self, batches, threshold=0.0):
        return summary.summarize(self.predict(batches, threshold), self.labels, TASK, self.arch)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting(tmp_path_factory.mktemp("model"))


def test_batches_and_buckets_do_not_matter(setting):
    """Every example decides and predicts the same; so every reported number is the same."""
    plans = [setting.batches(COUNT, (MAX_LENGTH,)), setting.batches(4, (8, 20)), setting.batches(7, (MAX_LENGTH,))]
    first, *others = [setting.predict(plan) for plan in plans]
    assert 0.1 < first.kept.sum() / (LAYERS * first.lengths.sum()) < 0.9, "else there is nothing to tell apart"
    np.testing.assert_array_equal(first.lengths, setting.examples.lengths)
    for other in others:
        np.testing.assert_array_equal(other.kept, first.kept)
        np.testing.assert_array_equal(other.lengths, first.lengths)
        np.testing.assert_allclose(other.logits, first.logits, atol=1e-5 * np.abs(first.logits).max(), rtol=0)
    results = [setting.evaluate(plan) for plan in plans]
    assert results[1] == results[0] and results[2] == results[0]


def test_the_threshold_is_a_run_time_value(setting):
    """From everything kept to [CLS] alone, by one program."""
    batches = setting.batches(7, (MAX_LENGTH,))
    shares = [setting.evaluate(batches, threshold).kept_tokens for threshold in (-np.inf, -0.5, 0.0, 0.5, np.inf)]
    assert shares[0] == 1.0 and shares == sorted(shares, reverse=True) and len(set(shares)) == 5
    assert shares[-1] == pytest.approx(COUNT / setting.examples.lengths.sum(), rel=1e-12)
    assert setting.step._cache_size() <= 5, "one program a shape, for every test of this file"


def test_rows_that_fill_a_batch_count_nowhere():
    """A step that says of them what is false: it must not reach anybody's answer, the last example's in particular."""
    batch = {name: np.zeros((4, 3), np.int32) for name in ("input_ids", "attention_mask", "token_type_ids")}
    batches = [batch | {"index": np.array([2, 0, -1, -1])}, batch | {"index": np.array([-1, 1, -1, -1])}]
    answers = iter([[12.0, 10.0, 666.0, 666.0], [666.0, 11.0, 666.0, 666.0]])

    def step(params, inputs, threshold):
        values = np.array(next(answers), np.float32)
        texts = {"logits": np.stack([values, -values], axis=1)}
        return {"texts": texts, "tokens": {}, "kept": np.stack([values, values - 5]), "lengths": values + 1}

    predictions = masked.predict(step, None, batches, 3, 0.0)
    assert predictions.logits.tolist() == [[10, -10], [11, -11], [12, -12]]
    assert predictions.kept.tolist() == [[10, 11, 12], [5, 6, 7]]
    assert predictions.lengths.tolist() == [11, 12, 13]


def test_sums_over_examples_not_averages_of_shares():
    """A long example that keeps little and a short one that keeps all: the share is of tokens, not of examples."""
    arch = Architecture(
        hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=6, skim=SkimArchitecture(predictor_size=3)
    )
    task = dataclasses.replace(TASK, label_names=("no", "yes"), max_length=128)
    kept, lengths = np.array([[10.0, 2.0], [4.0, 2.0]]), np.array([98.0, 2.0])
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    result = summary.summarize(Predictions({"logits": logits}, kept, lengths), np.array([0, 0]), task, arch)
    assert result.kept_per_layer == [0.12, 0.06] and result.kept_tokens == pytest.approx(0.09, rel=1e-12)
    assert result.metrics["accuracy"] == 0.5
    used = flops.skimmed(arch, kept, lengths).sum()
    unpadded, padded = flops.dense(arch, lengths).sum(), 2 * flops.dense(arch, 128.0)
    assert result.flops_vs_unpadded == pytest.approx(unpadded / used, rel=1e-12)
    assert result.flops_vs_padded == pytest.approx(padded / used, rel=1e-12)
    assert result.flops_share == pytest.approx(used / unpadded, rel=1e-12)
    whole = summary.summarize(Predictions({"logits": logits}, np.stack([lengths, lengths]), lengths), np.array([0, 0]), task, arch)
    described = summary.describe(task, {"validation": result, "test": whole}, {"validation": 2, "test": 1})
    assert described["examples"] == {"validation": 2, "test": 1}
    for name, of_split in (("validation", result), ("test", whole)):
        assert described["costs"][name] == {field: getattr(of_split, field) for field in described["costs"][name]}
    assert described["costs"]["validation"].items() <= described.items() and described["costs"]["test"]["kept_tokens"] == 1.0
