"""Files whose texts have any number of labels."""

import json

import numpy as np
import pytest

from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.labelled_files import holds_lists, infer_label_sets, infer_labels, read_file
from transkimmer_jax.data.sources import load_split, read_unlabelled, with_unlabelled
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import DataError

NAMES = ("insult", "threat", "toxic")
LISTS = [["toxic", "insult"], [], ["threat"], [" toxic "]]
INDICATORS = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
TEXTS = ["one", "two", "three, four", "five"]


def cell(text):
    """As a CSV file has it."""
    return '"' + text.replace('"', '""') + '"'


def array(labels):
    """As pandas writes a column of NumPy's arrays, which is what data sets of hubs become there."""
    return str(np.array(labels, object))


@pytest.fixture(params=["jsonl", "csv of JSON", "csv of lists", "csv of arrays"])
def labelled(request, write):
    """The same file in each of the ways to write it."""

    def make(lists, name="train"):
        if request.param == "jsonl":
            return write(f"{name}.jsonl", [{"text": text, "label": labels} for text, labels in zip(TEXTS, lists, strict=False)])
        shown = {"csv of JSON": json.dumps, "csv of lists": str, "csv of arrays": array}[request.param]
        rows = [f"{cell(text)},{cell(shown(labels))}\n" for text, labels in zip(TEXTS, lists, strict=False)]
        return write(f"{name}.csv", "text,label\n" + "".join(rows))

    return make


def test_lists_become_indicators(labelled):
    path = labelled(LISTS)
    assert holds_lists(path, "label") and infer_label_sets(path, "label") == NAMES
    data = DataConfig(task="files", train_file=str(path), validation_file=str(path))
    task = get_task(data)
    assert task.multi_label and not task.is_regression and (task.num_labels, task.metrics) == (3, ("micro_f1", "macro_f1"))
    examples = load_split(task, "train", data)
    assert examples.texts == TEXTS and examples.labels.tolist() == INDICATORS and examples.labels.dtype == np.float32


def test_integers_are_names_or_numbers_of_names(labelled):
    """As hubs' data sets have them: names of their own, or places in the names of a model."""
    path = labelled([[10, 9], [], [9]])
    assert infer_label_sets(path, "label") == ("9", "10")
    assert read_file(path, ("text",), "label", ("9", "10"), multi_label=True).labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    places = labelled([[0, 2], [1]], "places")
    assert read_file(places, ("text",), "label", NAMES, multi_label=True).labels.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_one_label_that_some_texts_have(labelled):
    assert infer_label_sets(labelled([["toxic"], []]), "label") == ("toxic",)


@pytest.mark.parametrize("lists", [[["toxic"], ["toxic"]], [[], []], [[0, 1], [1, 0], [0, 1]]])
def test_nothing_to_tell_apart(labelled, lists):
    path = labelled(lists)
    with pytest.raises(
        DataError, match="every list of labels is .*: there is nothing to tell apart; is 'label' the column of labels"
    ) as caught:
        infer_label_sets(path, "label")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_indicators_are_no_names(labelled):
    """0 or 1 of every label, as libraries make of lists, would be two labels that nearly all texts have."""
    path = labelled(INDICATORS)
    for read in (infer_label_sets, lambda path, column: read_file(path, ("text",), column, NAMES, multi_label=True)):
        with pytest.raises(DataError, match=r"line [12]: the list of labels .* holds '1' twice: write each label that the text has, once"):
            read(path, "label")


def test_what_labels_are_taken_for_is_said(labelled, caplog):
    caplog.set_level("INFO", "transkimmer_jax")
    path = labelled(LISTS)
    for _ in range(2):
        infer_label_sets(path, "label")
    assert caplog.messages == [f"{path}: 3 labels, of which a text has any number, insult, threat, toxic"]


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("toxic", 'label \'toxic\' is no list, and a text has any number of labels: write ["a", "b"], or [] for none'),
        (None, "label null is no list"),
        ({"toxic": 1}, 'label {"toxic": 1} is no list'),
        (["toxic", None], 'the list of labels ["toxic", null] holds null: write each label as a text or an integer'),
        ([True], "the list of labels [true] holds true"),
        ([0.5], "the list of labels [0.5] holds 0.5"),
        ([["toxic"]], 'the list of labels [["toxic"]] holds ["toxic"]'),
        ([" "], "the list of labels [\" \"] holds ' '"),
        (["toxic", "insult", " toxic"], 'the list of labels ["toxic", "insult", " toxic"] holds \'toxic\' twice: write each'),
        (["toxic", "rude"], "label 'rude' is none of the labels trained on (insult, threat, toxic): correct it, or leave the line out"),
        ([3], "label 3 is none of the labels trained on"),
        (["\ud83d"], "column 'label' is no valid Unicode"),
    ],
)
def test_errors(write, label, says):
    """One line with file, line and cure."""
    path = write("bad.jsonl", [{"text": "a", "label": ["toxic"]}, {"text": "b", "label": label}])
    with pytest.raises(DataError) as caught:
        read_file(path, ("text",), "label", NAMES, multi_label=True)
    assert str(caught.value).startswith(f"{path}, line 2: {says}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("first", "second", "says"), [("toxic", ["toxic"], "is a list, and the task has one"), (["a"], "b", "is no list")])
def test_lists_in_some_lines(write, first, second, says):
    """The first line says what a file holds."""
    path = write("mixed.jsonl", [{"text": "a", "label": first}, {"text": "b", "label": second}])
    with pytest.raises(DataError, match=f"line 2: label .* {says}"):
        get_task(DataConfig(task="files", train_file=str(path)))


def test_cells_that_are_no_lists_stay_classes(write):
    """As they are written; what begins as a list and is none is a name."""
    path = write("a.csv", "text,label\na,[UNK\nb,[x y]\nc,[a]]\n")
    assert not holds_lists(path, "label") and infer_labels(path, "label") == ("[UNK", "[a]]", "[x y]")


def test_quotes_and_line_breaks_in_cells(write):
    """As Python and NumPy write them: either kind of quotes, and an array of many labels on several lines."""
    names = ["it's", 'a "b"', "c\\d", *(f"label {number}" for number in range(20))]
    for shown in (str, array):
        path = write("a.csv", f"text,label\na,{cell(shown(names))}\nb,[]\n")
        assert infer_label_sets(path, "label") == tuple(sorted(names))
    assert "\n" in array(names)


@pytest.mark.parametrize("written", ["[b'toxic']", "[...]", "['a'], ['b']", "['a''b']", "[{'a'}]", "[(1, 2)]", "[np.str_('a')]"])
def test_other_python_is_no_list(write, written):
    """Of all that Python can write in brackets, lists of labels are little: the rest is refused in one line."""
    path = write("a.csv", f"text,label\na,[]\nb,{cell(written)}\n")
    with pytest.raises(DataError, match=r"a\.csv, line 3: label .* is no list"):
        infer_label_sets(path, "label")


def test_texts_without_labels_follow_the_labelled(write):
    train = write("train.jsonl", [{"text": text, "label": labels} for text, labels in zip(TEXTS, LISTS, strict=True)])
    data = DataConfig(task="files", train_file=str(train), validation_file=str(train))
    task = get_task(data)
    more = with_unlabelled(load_split(task, "train", data), read_unlabelled(task, write("more.txt", "x\ny\n")))
    assert more.labels.shape == (6, 3) and more.labels[:4].tolist() == INDICATORS and more.labelled.tolist() == [True] * 4 + [False] * 2
