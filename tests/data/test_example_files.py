"""Files of examples: each head's form, labels as they are meant, and one line for everything else."""

import json
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.examples import Answers, Examples
from transkimmer_jax.data.files import (
    holds_lists,
    infer_label_sets,
    infer_labels,
    infer_tags,
    read_file,
    read_questions,
    read_tags,
    read_texts,
)
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import DataError

NAMES = ("bad", "good")
LABELS = ("insult", "threat", "toxic")
TAGS = ("O", "B-X", "I-X")
CONTEXT = "the film is good and the plot is bad"
QUESTION = ("question", "context")
READ = {
    "label": lambda path: read_file(path, ("text",), "label", NAMES),
    "value": lambda path: read_file(path, ("text",), "label", None),
    "labels": lambda path: read_file(path, ("text",), "label", LABELS, multi_label=True),
    "tags": lambda path: read_tags(path, "tokens", "tags", TAGS),
    "answers": lambda path: read_questions(path, QUESTION, "answers"),
    "texts": lambda path: read_texts(path, ("text",)),
}
INFER = {
    "label": lambda path: infer_labels(path, "label"),
    "labels": lambda path: infer_label_sets(path, "label"),
    "tags": lambda path: infer_tags(path, "tokens", "tags"),
}


def message(path, read):
    """The error of a file: one line that begins with its path."""
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value) and len(str(error.value)) < 700
    return str(error.value).removeprefix(str(path))


def cell(text):
    return '"' + text.replace('"', '""') + '"'


def array(labels):
    """A column of NumPy arrays in a CSV file that pandas wrote."""
    return str(np.array(labels, object))


def test_jsonl_and_csv_give_the_same(write):
    rows = [("so, so", "bad"), ('a "good"\nfilm', " good"), ("", "good ")]
    jsonl = write("a.jsonl", [{"text": text, "label": label} for text, label in rows])
    table = write("a.csv", '\ufefftext,label\r\n"so, so",bad\r\n"a ""good""\nfilm", good\r\n"",good \r\n')
    for path in (jsonl, table):
        examples = read_file(path, ("text",), "label", infer_labels(path, "label"))
        assert examples.texts == [text for text, _ in rows] and examples.pairs is None
        assert all(type(text) is str for text in examples.texts)
        assert examples.labels.tolist() == [0, 1, 1] and examples.labels.dtype == np.int32


def test_pairs_and_regression(write):
    path = write("a.jsonl", [{"q": "who", "a": "me", "score": 2}, {"q": "how", "a": "", "score": 0.5}])
    examples = read_file(path, ("q", "a"), "score", None)
    assert (examples.texts, examples.pairs) == (["who", "how"], ["me", ""])
    assert examples.labels.tolist() == [2, 0.5] and examples.labels.dtype == np.float32


@pytest.mark.parametrize("shown", [None, json.dumps, str, array])
def test_lists_of_labels_become_indicators(write, shown):
    """In JSONL, and in CSV as JSON or as pandas writes lists and arrays."""

    def make(name, lists):
        if shown is None:
            return write(f"{name}.jsonl", [{"text": "a", "label": labels} for labels in lists])
        return write(f"{name}.csv", "text,label\n" + "".join(f"a,{cell(shown(labels))}\n" for labels in lists))

    path = make("names", [["toxic", "insult"], [], ["threat"], [" toxic "]])
    assert holds_lists(path, "label") and infer_label_sets(path, "label") == LABELS
    data = DataConfig(task="files", train_file=str(path), validation_file=str(path))
    task = get_task(data)
    assert task.multi_label and (task.num_labels, task.metrics) == (3, ("micro_f1", "macro_f1"))
    examples = load_split(task, "train", data)
    assert examples.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]] and examples.labels.dtype == np.float32
    numbers = make("numbers", [[10, 9], [], [9]])
    assert infer_label_sets(numbers, "label") == ("9", "10")
    assert read_file(make("places", [[0, 2], [1]]), ("text",), "label", LABELS, True).labels.tolist() == [[1, 0, 1], [0, 1, 0]]
    names = ["it's", 'a "b"', "c\\d", *(f"label {number}" for number in range(20))]
    assert infer_label_sets(make("many", [names, []]), "label") == tuple(sorted(names))
    for same in ([["toxic"], ["toxic"]], [[], []]):
        assert "every list of labels is" in message(make("same", same), INFER["labels"])
    assert 'not a list of different labels: ["a", "b"], or []' in message(make("indicators", [[1, 0, 1], [0, 0, 0]]), INFER["labels"])


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
def test_labels_are_inferred(write, labels, names):
    assert infer_labels(write("a.jsonl", [{"label": label} for label in labels]), "label") == names
    assert infer_labels(write("a.csv", "label\n" + "".join(f"{label}\n" for label in labels)), "label") == names


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["10", "9"], ("9", "10")),
        ([".5", "1.", "+2E3", "-inf", "NaN"], None),
        (["1.1", "1.10", "A.1", " 001", "1"], ("001", "1", "1.1", "1.10", "A.1")),
        (["042", "001", "10"], ("001", "042", "10")),
        (["NaN", "1e3", "none"], ("1e3", "NaN", "none")),
        (["9" * 5000, "1"], ("1", "9" * 5000)),
        (["[UNK", "[x y]", "[a]]"], ("[UNK", "[a]]", "[x y]")),
    ],
)
def test_cells_are_numbers_where_all_are_and_codes_stay_texts(write, cells, names):
    path = write("a.csv", "text,label\n" + "".join(f"a,{one}\n" for one in cells))
    assert infer_labels(path, "label") == names
    if names is not None:
        assert [names[label] for label in read_file(path, ("text",), "label", names).labels] == [one.strip() for one in cells]


def test_digits_in_quotes_are_text_in_json(write):
    assert infer_labels(write("a.jsonl", [{"label": "10"}, {"label": "9"}]), "label") == ("10", "9")


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([0, 1], ("1", "0"), [1, 0]),
        ([0, 1], NAMES, [0, 1]),
        (["negative", "Positive"], ("NEGATIVE", "POSITIVE"), [0, 1]),
        (["us", "US"], ("US", "us"), [1, 0]),
        ([0], ("1", "2"), None),
        (["Us"], ("US", "us"), None),
        (["1.10"], ("1.1", "A.1"), None),
        (["42"], ("001", "042"), None),
    ],
)
def test_labels_are_names_or_indices(write, labels, names, numbers):
    """An integer is an index where no name is a number; case counts where it tells classes apart."""
    path = write("a.jsonl", [{"text": "a", "label": label} for label in labels])
    if numbers is None:
        assert f"is none of the labels trained on ({', '.join(names)})" in message(
            path, lambda path: read_file(path, ("text",), "label", names)
        )
    else:
        assert read_file(path, ("text",), "label", names).labels.tolist() == numbers


def test_tags(write):
    path = write("t.jsonl", [{"tokens": ["a", "film"], "tags": ["O", "B-X"]}, {"tokens": ["bad"], "tags": ["I-X"]}])
    assert infer_tags(path, "tokens", "tags") == ("O", "B-X", "I-X")
    examples = read_tags(path, "tokens", "tags", TAGS)
    assert examples.texts == [["a", "film"], ["bad"]] and examples.labels.tolist() == [(0, 1), (2,)]


def test_questions(write):
    answers = ({"text": ["good"], "answer_start": [12], "more": 1}, {"text": [], "answer_start": []})
    path = write("q.jsonl", [{"question": "is it", "context": CONTEXT, "answers": one} for one in answers])
    examples = read_questions(path, QUESTION, "answers")
    assert examples.texts == ["is it"] * 2 and examples.pairs == [CONTEXT] * 2
    assert examples.labels.tolist() == [Answers(("good",), (12,)), Answers((), ())]


def test_texts_without_labels(write, caplog):
    """Blank ones are left out, and their number is logged once; of a pair one text may be blank."""
    files = {
        write("more.txt", "a\n\n \t\nb c\n"): (("sentence",), ["a", "b c"], None, "2 of 4 texts are blank under text, and left out"),
        write("more.jsonl", [{"q": "", "a": "x"}, {"q": " ", "a": "\n"}, {"q": "y", "a": ""}]): (
            ("q", "a"), ["", "y"], ["x", ""], "1 of 3 texts are blank under q, a, and left out",
        ),
    }  # fmt: skip
    for path, (columns, texts, pairs, said) in files.items():
        with caplog.at_level("INFO", "transkimmer_jax"):
            for _ in range(2):
                examples = read_texts(path, columns)
                assert (examples.texts, examples.pairs) == (texts, pairs) and not examples.labelled.any()
        assert caplog.messages.count(f"{path}: {said}") == 1
    assert read_texts(write("half.jsonl", [{"q": "", "a": "x"}, {"q": "y", "a": "z"}]), ("q", "a"), whole=True).texts == ["y"]
    assert "all texts are blank under text" in message(write("blank.txt", "\n \n"), READ["texts"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cells.csv", "label\n1\n0.0\n1\n", "a regression, since labels as 0.0 are real numbers"),
        ("few.jsonl", [{"label": "pos"}, {"label": "neg"}, {"label": "pos "}], "2 classes, neg, pos"),
        ("many.csv", "label\n" + "".join(f"{number}\n" for number in range(12)), "12 classes, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."),
    ],
)
def test_inferred_labels_are_logged_once(write, caplog, name, content, said):
    caplog.set_level("INFO", "transkimmer_jax")
    path = write(name, content)
    for _ in range(2):
        infer_labels(path, "label")
    assert caplog.messages == [f"{path}: {said}"]


@pytest.mark.parametrize(
    ("kind", "record", "said"),
    [
        ("label", {"txt": "b", "label": "bad"}, "no column 'text', only 'txt', 'label'"),
        ("label", {"text": "a", "mark": 1}, "no column 'label', only 'text', 'mark'"),
        ("label", {"text": None, "label": "bad"}, "holds null, not text"),
        ("label", {"text": 5, "label": "bad"}, "holds 5, not text"),
        ("label", {"text": "\ud800", "label": "bad"}, "holds '\\ud800', not text in Unicode"),
        *(("label", {"text": "a", "label": label}, "not a label: a text or a number") for label in (None, True, ["x"], " ", "\ud83d")),
        ("label", {"text": "a", "label": "ugly"}, "'ugly' is none of the labels trained on (bad, good)"),
        ("label", {"text": "a", "label": 2}, "label 2 is none of"),
        ("label", {"text": "a", "label": 1.0}, "label 1.0 is none of"),
        *(("value", {"text": "a", "label": label}, "not a finite number") for label in (float("nan"), float("inf"), 1e39, "high")),
        *(
            ("labels", {"text": "a", "label": labels}, "not a list of different labels")
            for labels in ("toxic", None, {"toxic": 1}, ["toxic", None], [True], [0.5], [["toxic"]], [" "], ["toxic", " toxic"], ["\ud83d"])
        ),
        ("labels", {"text": "a", "label": ["rude"]}, "label 'rude' is none of the labels trained on (insult, threat, toxic)"),
        ("labels", {"text": "a", "label": [3]}, "label 3 is none of"),
        ("tags", {"tokens": ["a", "b"], "tags": ["O"]}, "2 words and 1 tags"),
        ("tags", {"tokens": ["a"], "tags": ["Y"]}, "tag 'Y' is none of the tags trained on"),
        *(("tags", {"tokens": words, "tags": ["O"]}, "not a list of texts") for words in ("a", [], ["\ud800"], [1])),
        *(
            ("answers", {"question": "is it", "context": CONTEXT, "answers": answers}, "not answers: {")
            for answers in (
                "good",
                {"text": ["good"]},
                {"text": ["good"], "answer_start": [11, 12]},
                {"text": [""], "answer_start": [0]},
                {"text": ["good"], "answer_start": [-1]},
                {"text": ["good"], "answer_start": ["12"]},
            )
        ),
        ("answers", {"question": "a", "context": CONTEXT, "answers": {"text": ["good"], "answer_start": [3]}}, "not stand at character 3"),
        ("answers", {"question": "a", "context": " ", "answers": {"text": [], "answer_start": []}}, "no text to look for the answer in"),
    ],
)
def test_a_wrong_record_is_reported_with_its_line(write, kind, record, said):
    complaint = message(write("a.jsonl", f"\n{json.dumps(record)}\n"), READ[kind])
    assert complaint.startswith(", line 2: ") and said in complaint


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("txt,label\na,bad\n", 2, "no column 'text', only 'txt', 'label'"),
        ('text,label\n"two\nlines",bad\nso, so,bad\n', 4, "3 cells under 2 columns"),
        ("text,label\na,\n", 2, "not a label"),
        ("text,label\na,ugly\n", 2, "'ugly' is none of"),
        ("text,label\na,[1]\n", 2, "not a label"),
        ('text,label\n"a"b,bad\n', 2, "invalid CSV"),
        *((f"text,label\na,{cell(text)}\n", 2, "label") for text in ("[b'x']", "[...]", "['a'], ['b']", "['a''b']", "[{'a'}]", "[(1, 2)]")),
    ],
)
def test_a_wrong_cell_is_reported_with_its_line(write, content, line, said):
    for read in (READ["label"], READ["labels"])[: 1 + ("[" in content and "[1]" not in content)]:
        complaint = message(write("a.csv", content), read)
        assert complaint.startswith(f", line {line}: ") and said in complaint


@pytest.mark.parametrize(
    ("kind", "name", "content", "said"),
    [
        ("label", "absent.jsonl", None, "No such file"),
        ("label", "a.txt", "x", "must end in .jsonl or .csv"),
        ("tags", "t.csv", "tokens,tags\na,O\n", "must end in .jsonl,"),
        ("texts", "more.tsv", "c\n", "must end in .jsonl or .csv or .txt"),
        ("label", "a.jsonl", "\n", "holds no example"),
        ("label", "a.csv", "text,label\n", "holds no example"),
        ("texts", "a.txt", "", "holds no example"),
    ],
)
def test_a_wrong_file_is_reported(write, tmp_path, kind, name, content, said):
    assert said in message(tmp_path / name if content is None else write(name, content), READ[kind])


def test_a_single_class_cannot_be_learned(write):
    assert "every label is '1'" in message(write("a.jsonl", [{"label": 1}, {"label": 1}]), INFER["label"])
    assert "every tag is 'O'" in message(write("t.jsonl", [{"tokens": ["a"], "tags": ["O"]}]), INFER["tags"])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["O", "good", "toxic"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "answer_start"]), inner, max_size=2),
    max_leaves=6,
)
_RECORDS = st.dictionaries(st.sampled_from(["text", "label", "tokens", "tags", *QUESTION, "answers"]), _JSON, max_size=7)
_CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.text(alphabet='tex,label\n"[]{}:0.', max_size=80).map(str.encode),
    st.lists(_RECORDS, max_size=3).map(lambda records: "\n".join(map(json.dumps, records)).encode()),
)


@settings(deadline=None, max_examples=300)
@given(content=_CONTENTS, ending=st.sampled_from(["jsonl", "csv", "txt"]))
def test_any_bytes_are_examples_or_a_data_error(content, ending):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"a.{ending}"
        path.write_bytes(content)
        for read in (*READ.values(), *INFER.values()):
            try:
                read_as = read(path)
            except DataError as error:
                assert "\n" not in str(error)
            else:
                assert read_as is None or isinstance(read_as, Examples | tuple)
