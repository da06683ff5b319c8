import dataclasses

import pytest

from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import DataError

LENGTHS = {
    "glue/cola": 64, "glue/rte": 256, "glue/qqp": 128, "glue/mrpc": 128, "glue/sst2": 64, "glue/mnli": 128, "glue/wnli": 128,
    "glue/qnli": 128, "glue/stsb": 64, "imdb_reviews": 512, "movie_reviews": 64,
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_of_the_literature(name):
    task = get_task(DataConfig(task=name))
    assert (task.name, task.max_length) == (name, LENGTHS[name])
    assert get_task(DataConfig(task=name, max_length=7)).max_length == 7


def test_properties():
    mnli, stsb = get_task(DataConfig(task="glue/mnli")), get_task(DataConfig(task="glue/stsb"))
    assert (mnli.num_labels, mnli.is_regression, mnli.is_pair, mnli.primary_metric) == (3, False, True, "accuracy")
    assert mnli.validation_splits == {"matched": "validation_matched", "mismatched": "validation_mismatched"}
    assert (stsb.num_labels, stsb.is_regression, stsb.primary_metric) == (1, True, "pearson")
    imdb = get_task(DataConfig(task="imdb_reviews"))
    assert (imdb.train_split, imdb.validation_splits, imdb.test_splits) == ("train[:90%]", {"validation": "train[90%:]"}, {"test": "test"})
    tested = [name for name in LENGTHS if get_task(DataConfig(task=name)).test_splits]
    assert sorted(tested) == ["glue/mrpc", "glue/stsb", "imdb_reviews"]


@pytest.mark.parametrize("name", LENGTHS)
def test_labels_and_columns_are_those_of_tfds(name):
    if name == "movie_reviews":
        pytest.skip("not in TFDS")
    import tensorflow_datasets as tfds
    import tensorflow_datasets.datasets.imdb_reviews.imdb_reviews_dataset_builder
    import tensorflow_datasets.text.glue

    task = get_task(DataConfig(task=name))
    with tfds.testing.mock_data():
        features = tfds.builder("imdb_reviews/plain_text" if name == "imdb_reviews" else name).info.features
    assert {*task.text_columns, task.label_column} <= set(features)
    assert task.is_regression or list(task.label_names) == features[task.label_column].names


@pytest.mark.parametrize(
    ("name", "hint"), [("sst-2", "'glue/sst2'"), ("glue/mnly", "'glue/mnli'"), ("file", "'files'"), ("xyzzy", "glue/cola")]
)
def test_unknown_task_is_answered_with_a_known_one(name, hint):
    with pytest.raises(DataError) as error:
        get_task(DataConfig(task=name))
    assert repr(name) in str(error.value) and hint in str(error.value) and "\n" not in str(error.value)


def test_task_of_files(write):
    ints = write("ints.jsonl", [{"text": "a", "label": 10}, {"text": "b", "label": 9}])
    floats = write("floats.csv", "text,label\na,1\nb,0.5\n")
    task = get_task(DataConfig(task="files", train_file=str(ints), validation_file=str(floats)))
    assert (task.label_names, task.metrics, task.max_length) == (("9", "10"), ("accuracy", "macro_f1"), 128)
    task = get_task(DataConfig(task="files", validation_file=str(floats)))
    assert (task.label_names, task.primary_metric, task.num_labels) == (None, "pearson", 1)
    task = get_task(DataConfig(task="files", train_file=str(ints)))
    assert task.validation_splits == {"validation": "validation"} and task.test_splits == {}
    assert get_task(DataConfig(task="files", train_file=str(ints), test_file="t.jsonl")).test_splits == {"test": "test"}
    with pytest.raises(DataError, match=r"data\.train_file"):
        get_task(DataConfig(task="files"))


def test_task_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_task(DataConfig()).max_length = 3  # type: ignore[misc]
