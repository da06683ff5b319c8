"""Tokens and batches."""

import resource
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

from transkimmer_jax.data.batches import BatchPlan, TokenizedExamples, effective_buckets, evaluation_batches
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.pipeline import load_tokenizer, tokenize, training_iterator
from transkimmer_jax.errors import CheckpointError, DataError

MAX_LENGTH = 20
PAD = 99
lengths_lists = st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=60)
bucket_sets = st.sets(st.integers(1, 40), max_size=4).map(sorted)


def tokenized(lengths):
    """Examples whose every token says which example and which position it is."""
    ids = [100 * example + position for example, length in enumerate(lengths) for position in range(length)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = np.arange(len(lengths), dtype=np.int32)
    return TokenizedExamples(np.asarray(ids, np.int32), np.ones(len(ids), np.int8), offsets, labels, np.zeros(len(labels), bool))


def assert_padding_only_beyond_length(batch, lengths):
    for row, example in enumerate(batch["labels"]):
        length = lengths[example]
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (batch["attention_mask"].shape[1] - length)
        assert batch["input_ids"][row, :length].tolist() == [100 * example + position for position in range(length)]
        assert (batch["input_ids"][row, length:] == PAD).all()
        assert (batch["token_type_ids"][row] == batch["attention_mask"][row]).all()


@settings(deadline=None)
@given(bucket_sets, st.integers(1, 40))
def test_buckets(buckets, max_length):
    result = effective_buckets(buckets, max_length)
    assert list(result) == sorted(set(result)) and result[-1] == max_length and set(result) <= {*buckets, max_length}
    assert {bucket for bucket in buckets if bucket <= max_length} <= set(result)


@settings(deadline=None)
@given(lengths_lists, st.integers(1, 8), bucket_sets, st.integers(1, 5), st.integers(0, 2**32), st.integers(0, 5))
def test_batch_plan(lengths, batch_size, buckets, window, seed, epoch):
    arguments = (np.asarray(lengths), batch_size, buckets, MAX_LENGTH, window, seed)
    if len(lengths) < batch_size:
        with pytest.raises(DataError, match=rf"data\.batch_size={batch_size} .* {len(lengths)} training"):
            BatchPlan(*arguments)
        return
    plan = BatchPlan(*arguments)
    batches = plan.batches(epoch)
    assert len(batches) == plan.steps_per_epoch == len(lengths) // batch_size
    used = np.concatenate([rows for rows, _ in batches])
    assert len(set(used.tolist())) == len(used) == plan.steps_per_epoch * batch_size
    for rows, padded in batches:
        longest = max(lengths[row] for row in rows)
        assert rows.shape == (batch_size,) and padded == min(bucket for bucket in plan.buckets if bucket >= longest)
    again = BatchPlan(*arguments)
    for step in (0, plan.steps_per_epoch * epoch + plan.steps_per_epoch - 1, 0):  # back again, out of the cache
        rows, padded = again.batch(step)
        expected_rows, expected_padded = plan.batches(step // plan.steps_per_epoch)[step % plan.steps_per_epoch]
        assert rows.tolist() == expected_rows.tolist() and padded == expected_padded


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [5, 6, 7, 12, 13])
def test_pairs_are_cut_as_the_tokenizer_cuts_them(tokenizer_folder, side, max_length):
    """The longer text first, then both: ids, types, and whether anything is missing."""
    tokenizer, rng = load_tokenizer(tokenizer_folder), np.random.default_rng(max_length)
    tokenizer.truncation_side = side
    texts, pairs = (
        [" ".join(rng.choice(["good", "bad", "film", "a", "b"], count)) for count in rng.integers(0, 20, 200)] for _ in range(2)
    )
    expected = tokenizer(texts, pairs, truncation="longest_first", max_length=max_length, return_token_type_ids=True)
    read = tokenize(Examples(texts, pairs, np.zeros(200, np.int32)), tokenizer, max_length)
    for values, wanted in ((read.input_ids, "input_ids"), (read.token_type_ids, "token_type_ids")):
        assert [part.tolist() for part in np.split(values, read.offsets[1:-1])] == expected[wanted]
    assert read.truncated.tolist() == [bool(one.overflowing) for one in expected.encodings]


def test_a_long_pair_takes_the_memory_of_its_length(tokenizer_folder):
    """And not that of every piece of one text with every piece of the other."""
    tokenizer = load_tokenizer(tokenizer_folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokenize(Examples(["." * 4096] * 4, ["." * 4096] * 4, np.zeros(4, np.int32)), tokenizer, 64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes; with all pieces it takes gigabytes


def test_epochs_and_seeds_differ_and_the_remainder_changes():
    lengths = np.ones(103, int)
    epochs = [
        np.concatenate([rows for rows, _ in BatchPlan(lengths, 10, (), 1, 4, seed).batches(epoch)]) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({frozenset(range(103)) - set(epoch.tolist()) for epoch in epochs}) == 4


def test_grouping_saves_padding():
    lengths = np.random.default_rng(0).integers(1, 128, 2000)
    buckets = range(8, 128, 8)
    cost = {window: sum(padded for _, padded in BatchPlan(lengths, 16, buckets, 128, window, 0).batches(0)) for window in (1, 64)}
    assert cost[64] * 16 < 1.15 * lengths.sum() and cost[1] > 1.5 * cost[64]


def test_an_example_beyond_max_length_is_refused():
    with pytest.raises(ValueError, match="5 tokens"):
        BatchPlan(np.array([5]), 1, (), 4, 1, 0)
    with pytest.raises(ValueError, match="5 tokens"):
        evaluation_batches(tokenized([5]), 1, (), 4, PAD)


@settings(deadline=None)
@given(lengths_lists, st.integers(1, 8), bucket_sets)
def test_evaluation_batches(lengths, batch_size, buckets):
    batches = evaluation_batches(tokenized(lengths), batch_size, buckets, MAX_LENGTH, PAD)
    buckets = effective_buckets(buckets, MAX_LENGTH)
    seen, shapes = [], set()
    for batch in batches:
        shape = batch["input_ids"].shape
        assert shape[0] == batch_size and shape[1] in buckets
        shapes.add(shape)
        assert all(
            batch[name].shape == shape and batch[name].dtype == np.int32 for name in ("input_ids", "attention_mask", "token_type_ids")
        )
        assert all(batch[name].shape == (batch_size,) for name in ("labels", "weight", "index"))
        assert batch["weight"].dtype == np.float32 and batch["index"].dtype == np.int32
        real = batch["weight"] == 1
        assert ((batch["index"] >= 0) == real).all() and (batch["weight"][~real] == 0).all()
        assert (batch["labels"][real] == batch["index"][real]).all() and (batch["labels"][~real] == batch["labels"][0]).all()
        assert_padding_only_beyond_length(batch, lengths)
        assert all(min(b for b in buckets if b >= lengths[example]) == shape[1] for example in batch["labels"])
        seen += batch["index"][real].tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert len(list(batches)) == len(batches) and len(batches) < len(lengths) / batch_size + len(shapes)


def test_training_batches():
    lengths = np.random.default_rng(0).integers(1, MAX_LENGTH, 21)
    plan = BatchPlan(lengths, 4, (8, 16), MAX_LENGTH, 2, seed=1)
    batches = list(training_iterator(tokenized(lengths), plan, 12, PAD))
    assert len(batches) == 12
    for step, batch in enumerate(batches):
        rows, padded = plan.batch(step)
        assert batch["labels"].tolist() == rows.tolist() and batch["input_ids"].shape == (4, padded)
        assert batch["weight"].tolist() == [1] * 4 and batch["weight"].dtype == np.float32
        assert_padding_only_beyond_length(batch, lengths)


@pytest.mark.parametrize("taken", [0, 3, 7])  # 5 steps an epoch
def test_iterator_resumes_exactly_from_an_orbax_checkpoint(tmp_path, taken):
    lengths = np.random.default_rng(0).integers(1, MAX_LENGTH, 21)

    def fresh():
        return training_iterator(tokenized(lengths), BatchPlan(lengths, 4, (8, 16), MAX_LENGTH, 2, seed=1), 12, PAD)

    iterator = fresh()
    for _ in range(taken):
        next(iterator)
    with ocp.training.Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save_checkpointables(taken, {"data": iterator})
        expected = list(iterator)
        restored = fresh()
        next(restored)  # a running iterator with batches in flight is set back as well
        checkpointer.load_checkpointables(taken, {"data": restored})
    resumed = list(restored)
    assert len(resumed) == len(expected) == 12 - taken
    for one, other in zip(resumed, expected, strict=True):
        assert all((one[name] == other[name]).all() for name in one)


def test_tokenize_pairs_cuts_the_longer_text(tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)
    examples = Examples(["a", ""], ["b c a b c", ""], np.zeros(2, np.int32))
    result = tokenize(examples, tokenizer, max_length=7)
    assert tokenizer.convert_ids_to_tokens(result.input_ids[:7].tolist()) == ["[CLS]", "a", "[SEP]", "b", "c", "a", "[SEP]"]
    assert result.token_type_ids.tolist() == [0, 0, 0, 1, 1, 1, 1] + [0, 0, 1] and result.lengths.tolist() == [7, 3]
    assert (result.input_ids.dtype, result.token_type_ids.dtype, len(result)) == (np.int32, np.int8, 2)
    assert result.first_segments.tolist() == [3, 2] and result.take(np.array([1])).first_segments.tolist() == [2]
    with pytest.raises(DataError, match=r"data\.max_length=2 .* 3 special"):
        tokenize(examples, tokenizer, max_length=2)


@pytest.mark.parametrize(("count", "shown"), [(2500, False), (5001, True)])
def test_a_progress_bar_from_5000_examples_on(tokenizer_folder, capsys, count, shown):
    tokenize(Examples.without_labels(["a"] * count), load_tokenizer(tokenizer_folder), 8)
    assert ("tokenizing" in capsys.readouterr().err) == shown


def test_tokenizers_that_cannot_be_loaded(tokenizer_folder, tmp_path):
    config_only, broken, unpadded = tmp_path / "config_only", tmp_path / "broken", tmp_path / "unpadded"
    config_only.mkdir()
    (config_only / "config.json").write_text('{"model_type": "bert"}')
    shutil.copytree(tokenizer_folder, broken)
    (broken / "tokenizer.json").write_text("{")
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(unpadded)
    for folder, says in ((tmp_path / "absent", "no tokenizer"), (config_only, "is missing"), (broken, "JSON"), (unpadded, "padding token")):
        with pytest.raises(CheckpointError, match=says) as error:
            load_tokenizer(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_of_another_vocabulary(tokenizer_folder):
    size = len(load_tokenizer(tokenizer_folder))
    load_tokenizer(tokenizer_folder, size)
    with pytest.raises(CheckpointError, match=f"ids up to {size - 1}, but the model's vocabulary has {size - 1} entries"):
        load_tokenizer(tokenizer_folder, size - 1)
