"""Laws of `transkimmer predict`: a line for every text in its order, and a mistake is one line that names the culprit."""

import csv
import errno
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from checkpoints.handmade import random_tensors
from cli.answers import assert_same
from cli.saved import make_tensors, save_model
from models.reference import transkimmer
from training import runs

from transkimmer_jax import cli, console
from transkimmer_jax.cli import predict as predict_module
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.inference import hardware
from transkimmer_jax.inference.engine import SkimEngine

TENSORS = make_tensors()
LONG = "good a b c film the is a b c film the is bad"  # 16 tokens, of which 12 are read
TEXTS = ["", LONG, *(record["text"] for record in runs.make_reviews(20, seed=7))]


def main(arguments):
    cli.main(["predict", *map(str, arguments)])


@pytest.fixture(scope="module")
def pair_folder(tokenizer_folder, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("pairs"), tokenizer_folder, text_columns=("question", "sentence"))


@pytest.fixture
def stdin(monkeypatch):
    def give(content):
        raw = content if isinstance(content, bytes) else content.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))

    return give


@pytest.fixture
def predict(model_folder, capsys):
    """The command's answers; standard error is then `predict.err`."""

    def run(*arguments, model=model_folder):
        capsys.readouterr()
        main(["--model", model, *arguments])
        captured = capsys.readouterr()
        run.err = captured.err
        return [json.loads(line) for line in captured.out.splitlines()]

    return run


@pytest.fixture
def refusal(refused, model_folder):
    return lambda *arguments, model=model_folder: refused("predict", "--model", model, "--quiet", *arguments)


@pytest.fixture
def reviews(write):
    return write("reviews.jsonl", [{"id": f"review {number}", "text": text} for number, text in enumerate(TEXTS)])


def without_id(answers):
    return [{name: value for name, value in answer.items() if name != "id"} for answer in answers]


def test_the_answers_are_the_models(model_folder, predict, reviews):
    """Against the NumPy reference, text by text and unpadded, at the threshold the model was saved with."""
    answers = predict("--input", reviews)
    tokenizer = load_tokenizer(model_folder)
    assert [answer["id"] for answer in answers] == [f"review {number}" for number in range(len(TEXTS))]
    for text, answer in zip(TEXTS, answers, strict=True):
        ids = np.array(tokenizer(text, truncation=True, max_length=12)["input_ids"])
        expected = transkimmer(TENSORS, runs.TINY, ids, np.zeros_like(ids), threshold=0.25)
        assert np.nanmin(np.abs(expected.margin - 0.25)) > 1e-4, "a decision that two programs may take differently"
        odds = np.exp(expected.logits - np.max(expected.logits)).ravel()
        assert answer["probabilities"] == pytest.approx(dict(zip(["neg", "pos"], odds / odds.sum(), strict=True)), rel=1e-3)
        assert answer["label"] == ["neg", "pos"][int(odds.argmax())]
        assert answer["tokens"] == len(ids) and answer["kept"] == pytest.approx(expected.keep.sum() / len(ids) / 3, rel=1e-12)
        assert answer["truncated"] == (2 + len(text.split()) > 12)
    assert {answer["label"] for answer in answers} == {"neg", "pos"} and len({answer["kept"] for answer in answers}) > 5
    assert [answer["truncated"] for answer in answers[:2]] == [False, True] and answers[0]["tokens"] == 2, "the empty text is a text"
    assert list(answers[0]) == ["id", "label", "probabilities", "tokens", "kept", "truncated"]


def test_summary(predict, reviews):
    answers = predict("--input", reviews)
    line = predict.err.splitlines()[-1]
    assert line.startswith("22 texts in ") and " texts/s), " in line
    mean, truncated = np.mean([answer["kept"] for answer in answers]), sum(answer["truncated"] for answer in answers)
    assert truncated == 1
    assert re.search(rf"mean share kept: {mean:.3f}, truncated: {truncated}$", line), line
    assert "answered: 22 texts" in predict.err
    assert_same(predict("--input", reviews, "--runtime", "jax"), answers)
    assert re.search(r", programs compiled: [1-9]\d* in \d+\.\d s$", predict.err.splitlines()[-1]) and "compiling" in predict.err


def test_quiet(predict, reviews):
    predict("--input", reviews, "--quiet")
    assert predict.err.startswith("22 texts in ") and predict.err.count("\n") == 1


def test_windows_do_not_matter(predict, reviews, monkeypatch):
    expected, sizes, whole = predict("--input", reviews), [], SkimEngine.predict
    monkeypatch.setattr(hardware, "STREAM_WINDOW", 4)
    monkeypatch.setattr(SkimEngine, "predict", lambda self, texts, **options: sizes.append(len(texts)) or whole(self, texts, **options))
    assert_same(predict("--input", reviews), expected)
    assert sizes == [4, 4, 4, 4, 4, 2]
    assert "answered: 22 texts" in predict.err and predict.err.splitlines()[-1].startswith("22 texts in ")


def test_what_was_answered_before_a_mistake_is_written(capsys, model_folder, write, monkeypatch, tmp_path):
    """To standard output; a file appears whole or not at all."""
    monkeypatch.setattr(hardware, "STREAM_WINDOW", 4)
    broken = write("broken.jsonl", 9 * '{"text": "a"}\n' + '{"text": \n{"text": "b"}\n')
    assert console.run(main, ["--model", model_folder, "--input", broken, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 8
    assert captured.err.startswith(f"error: {broken}, line 10: invalid JSON") and captured.err.count("\n") == 1
    (tmp_path / "out").mkdir()
    assert console.run(main, ["--model", model_folder, "--input", broken, "--quiet", "--output", tmp_path / "out" / "answers.jsonl"]) == 2
    assert list((tmp_path / "out").iterdir()) == [] and capsys.readouterr().out == ""


def test_formats(predict, reviews, tmp_path, write, stdin):
    """The same texts in every format, from a file and from standard input."""
    expected = predict("--input", reviews)
    with (tmp_path / "reviews.CSV").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "id"], *([text, f"review {number}"] for number, text in enumerate(TEXTS))])
    assert_same(predict("--input", tmp_path / "reviews.CSV"), expected)
    lines = write("reviews.txt", "\n".join(TEXTS))
    assert_same(predict("--input", lines), without_id(expected))
    assert_same(predict("--input", write("reviews", "\r\n".join([*TEXTS, ""])), "--format", "text"), without_id(expected))
    stdin(b"\xef\xbb\xbf" + reviews.read_bytes())
    assert_same(predict(), expected)
    stdin(lines.read_bytes())
    assert_same(predict("--format", "text", "--input", "-"), without_id(expected))
    stdin((tmp_path / "reviews.CSV").read_bytes())
    assert_same(predict("--format=csv"), expected)


def test_an_empty_line_of_text_is_a_text(predict, stdin):
    stdin("good film\n\nbad\n")
    assert [answer["tokens"] for answer in predict("--format", "text")] == [4, 2, 3]


@pytest.mark.parametrize(("form", "content"), [("jsonl", ""), ("jsonl", "\n \n"), ("csv", ""), ("csv", "id,text\n"), ("text", "")])
def test_nothing_to_answer(predict, stdin, form, content, tmp_path):
    stdin(content)
    assert predict("--format", form, "--output", tmp_path / "answers.jsonl") == []
    assert (tmp_path / "answers.jsonl").read_bytes() == b""
    line = predict.err.splitlines()[-1]
    assert line.startswith("0 texts in ") and line.endswith("mean share kept: none, truncated: 0")


def test_output_file(predict, reviews, tmp_path):
    expected = predict("--input", reviews)
    target = tmp_path / "deep" / "answers.jsonl"
    assert predict("--input", reviews, "--output", target) == []
    assert [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()] == expected


def test_an_output_that_is_the_input(refusal, reviews, tmp_path):
    """It would be gone: answers do not repeat the texts."""
    before = reviews.read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(reviews)
    for output in (reviews, link):
        complaint = f"--output {output} is the input itself, which the answers would replace: take another file"
        assert refusal("--input", reviews, "--output", output) == complaint
    assert reviews.read_bytes() == before


def test_the_output_is_json(predict, refusal, write):
    """Python reads numbers that JSON does not have, and would write them."""
    for value in ("NaN", "-Infinity", "1e999"):
        path = write("numbers.jsonl", f'{{"text": "a", "id": 1}}\n{{"text": "b", "id": [{value}]}}\n')
        says = f"{path}, line 2: column 'id' holds NaN or Infinity, which are no JSON: correct it"
        assert refusal("--input", path) == says
        assert len(predict("--input", path, "--copy", "text")) == 2, "it is not copied"


def test_files_are_looked_at_before_a_model_is_loaded(refusal, write, tmp_path):
    """All of them, and the first record of each."""
    nowhere = tmp_path / "nowhere.jsonl"
    assert refusal("--input", nowhere, model=tmp_path / "no model") == f"{nowhere}: cannot be read: No such file or directory"
    good, bad = write("good.jsonl", [{"text": "a"}]), write("bad.jsonl", [{"txt": "a"}])
    said = refusal("--input", good, bad, "--output-dir", tmp_path / "out")
    assert said == f"{bad}, line 1: no column 'text', only 'txt'" and not (tmp_path / "out").exists()


def test_long_texts_do_not_wait_for_each_other(predict, write, monkeypatch):
    """A window holds fewer of them."""
    monkeypatch.setattr(predict_module, "_WINDOW_CHARACTERS", 40)
    sizes, whole = [], SkimEngine.predict
    monkeypatch.setattr(SkimEngine, "predict", lambda self, texts, **options: sizes.append(len(texts)) or whole(self, texts, **options))
    texts = ["good " * 5, "bad", "good " * 20, "a", "b"]
    assert len(predict("--input", write("long.txt", "\n".join(texts)))) == 5
    assert sizes == [3, 2]


def test_copied_columns(predict, refusal, write):
    records = [{"text": "a", "stars": 3, "who": {"name": "Zoë 😀"}}, {"text": "b", "stars": None, "who": [], "id": 7}]
    mixed = write("mixed.jsonl", records)
    assert [answer.get("id") for answer in predict("--input", mixed)] == [None, 7]
    copied = predict("--input", mixed, "--copy", "who", "stars", "text")
    assert [{name: answer[name] for name in ("who", "stars", "text")} for answer in copied] == [
        {name: record[name] for name in ("who", "stars", "text")} for record in records
    ]
    assert list(copied[1]) == ["who", "stars", "text", "label", "probabilities", "tokens", "kept", "truncated"]
    assert refusal("--input", mixed, "--copy", "id") == f"{mixed}, line 1: no column 'id', only 'text', 'stars', 'who'"


def test_a_copied_column_with_the_name_of_an_answer(predict, refusal, reviews, write):
    """The right label beside the predicted one."""
    plain = predict("--input", reviews)
    labelled = write("labelled.jsonl", [json.loads(line) | {"label": "right"} for line in reviews.read_text().splitlines()])
    answers = predict("--input", labelled, "--copy", "label")
    fields = ("label", "probabilities", "tokens", "kept", "truncated")
    assert list(answers[0]) == ["label", *("predicted_" + name for name in fields)]
    assert [answer["label"] for answer in answers] == ["right"] * len(plain)
    assert [answer["predicted_label"] for answer in answers] == [answer["label"] for answer in plain]
    assert "probabilities" in predict("--input", labelled, "--copy", "text")[0], "no prefix where there is no need"
    message = refusal("--input", labelled, "--copy", "label", "predicted_kept")
    assert message == "--copy predicted_kept: the answers have a field 'predicted_kept' of their own"


def test_text_columns(predict, refusal, reviews, write):
    other = write("other.jsonl", [{"review": text, "id": f"review {number}"} for number, text in enumerate(TEXTS)])
    assert_same(predict("--input", other, "--text-columns", "review"), predict("--input", reviews))
    assert refusal("--input", other) == f"{other}, line 1: no column 'text', only 'review', 'id'"
    assert refusal("--input", reviews, "--text-columns", "a", "b", "c") == "--text-columns names one column or two, not 3"


def test_threshold(predict, reviews):
    """Higher keeps fewer; one below all margins keeps all, one above them [CLS] only."""
    shares = []
    for threshold in ("-1e9", "-1", "0.25", "1", "1e9"):
        shares.append([answer["kept"] for answer in predict("--input", reviews, f"--threshold={threshold}")])
    means = [np.mean(row) for row in shares]
    assert means == sorted(means, reverse=True) and len(set(means)) == 5
    assert set(shares[0]) == {1.0} and shares[-1] == pytest.approx([1 / min(12, 2 + len(text.split())) for text in TEXTS], rel=1e-12)
    assert shares[2] == [answer["kept"] for answer in predict("--input", reviews)]


def test_max_length(predict, reviews):
    answers = predict("--input", reviews, "--max-length", 5)
    assert [answer["tokens"] for answer in answers] == [min(5, 2 + len(text.split())) for text in TEXTS]
    assert [answer["truncated"] for answer in answers] == [len(text.split()) > 3 for text in TEXTS]
    assert predict.err.splitlines()[-1].endswith(f"truncated: {sum(len(text.split()) > 3 for text in TEXTS)}")
    assert not any(answer["truncated"] for answer in predict("--input", reviews, "--max-length", 40)), "more than the model's 12"


def test_precision(predict, reviews):
    """bfloat16 is nearly the same, and not the same."""
    single, half = (predict("--input", reviews, "--runtime", "jax", "--precision", precision) for precision in ("float32", "bfloat16"))
    difference = [abs(a["probabilities"]["pos"] - b["probabilities"]["pos"]) for a, b in zip(single, half, strict=True)]
    assert 1e-5 < np.median(difference) < 0.02
    assert_same(single, predict("--input", reviews))


def test_pairs(predict, refusal, pair_folder, write, stdin):
    pairs = [("a good film", "is"), ("", ""), ("bad", LONG), ("the", "film is a")]
    records = write("pairs.jsonl", [{"question": first, "sentence": second} for first, second in pairs])
    answers = predict("--input", records, model=pair_folder)
    expected = SkimEngine.from_pretrained(pair_folder).predict(pairs, progress=False)
    assert [answer["tokens"] for answer in answers] == [7, 3, 12, 7] and [answer["truncated"] for answer in answers] == [
        False,
        False,
        True,
        False,
    ]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["label"] == wanted.label and answer["kept"] == wanted.kept
        assert answer["probabilities"] == pytest.approx(wanted.probabilities, rel=1e-4)
    swapped = predict("--input", records, "--text-columns", "sentence", "question", model=pair_folder)
    assert [answer["tokens"] for answer in swapped] == [7, 3, 12, 7] and swapped[0]["probabilities"] != answers[0]["probabilities"]

    complaint = f"--text-columns question, but {pair_folder} reads pairs: name two columns"
    assert refusal("--input", records, "--text-columns", "question", model=pair_folder) == complaint
    stdin("a\n")
    complaint = f"{pair_folder} reads pairs of texts, and the text format has one a line: give jsonl or csv"
    assert refusal("--format", "text", model=pair_folder) == complaint
    lonely = write("lonely.jsonl", [{"question": "a", "sentence": "b"}, {"question": "a"}])
    assert refusal("--input", lonely, model=pair_folder) == f"{lonely}, line 2: no column 'sentence', only 'question'"


def test_a_pair_for_a_model_of_single_texts(refusal, model_folder, reviews):
    complaint = f"--text-columns text id, but {model_folder} reads single texts: name one column"
    assert refusal("--input", reviews, "--text-columns", "text", "id") == complaint


def test_regression(predict, tokenizer_folder, tmp_path, reviews):
    config = runs.TINY | {"id2label": {"0": "LABEL_0"}}
    tensors = random_tensors(config, predictor_size=16, seed=2)
    answers = predict("--input", reviews, model=save_model(tmp_path, tokenizer_folder, tensors=tensors, config=config, label_names=None))
    ids = np.array([2, 3])
    expected = transkimmer(tensors, config, ids, np.zeros_like(ids), threshold=0.25)
    assert answers[0]["label"] == pytest.approx(float(np.ravel(expected.logits)[0]), rel=1e-3)
    assert len({answer["label"] for answer in answers}) > 5
    assert list(answers[0]) == ["id", "label", "tokens", "kept", "truncated"]


def test_refusals(refusal, write, stdin, tmp_path):
    def complaint(content, name="bad.jsonl"):
        path = write(name, content)
        said = refusal("--input", path)
        assert said.startswith(str(path))
        return said.removeprefix(str(path))

    good = {"text": "a"}
    assert complaint([good, {"text": 3}]) == ", line 2: column 'text' holds 3, not text in Unicode"
    assert complaint([good, {"text": None}]).startswith(", line 2: column 'text' holds null, not text")
    assert complaint([good, {"text": ["a", "b"]}]).startswith(', line 2: column \'text\' holds ["a", "b"], not text')
    assert complaint([good, {}]) == ", line 2: no column 'text', only none"
    assert complaint([good, ["a"]]) == ', line 2: ["a"] is no JSON object: write one object a line'
    assert complaint('{"text": "a"}\n\nnonsense\n').startswith(", line 3: invalid JSON")
    assert complaint([good, {"text": "half a \ud83d"}]) == ", line 2: column 'text' holds 'half a \\ud83d', not text in Unicode"
    assert complaint("id,text\n1,a\n2\n", "bad.csv") == ", line 3: 1 cells under 2 columns: put cells with commas in quotes"
    assert complaint("", "bad.tsv") == ": the name must end in .jsonl, .csv or .txt, which says how it is read: rename it, or give --format"
    (tmp_path / "latin.txt").write_bytes("Zoë\n".encode("latin-1"))
    assert refusal("--input", tmp_path / "latin.txt").startswith(f"{tmp_path / 'latin.txt'}: not UTF-8")
    assert refusal("--input", tmp_path / "no.jsonl") == f"{tmp_path / 'no.jsonl'}: cannot be read: No such file or directory"
    assert refusal("--input", tmp_path, "--format", "csv") == f"{tmp_path}: cannot be read: Is a directory"
    stdin('{"text": "a"}\n{"txt": "a"}\n')
    assert refusal() == "standard input, line 2: no column 'text', only 'txt'"
    assert not sys.stdin.closed
    stdin("a\n")
    said = refusal("--format", "text", "--text-columns", "review")
    assert said == "--text-columns is for jsonl and csv: in the text format each line is a text"


def test_models_that_are_none(refusal, tmp_path, stdin):
    stdin("")
    assert refusal(model=tmp_path / "nowhere") == f"no checkpoint folder {str(tmp_path / 'nowhere')!r}"
    assert refusal(model=tmp_path) == f"{tmp_path}: no config.json, so this is not a checkpoint folder"


def test_numbers_that_cannot_be_meant(refusal, reviews, model_folder):
    complaint = f"41 tokens are more than the 40 positions of {model_folder}: give a lower --max-length"
    assert refusal("--input", reviews, "--max-length", 41) == complaint


def test_outputs_that_cannot_be_written(refusal, reviews, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old", encoding="utf-8")
    complaint = f"cannot write {tmp_path}: there is a folder where a file is needed"
    assert refusal("--input", reviews, "--output", tmp_path) == complaint
    inside = tmp_path / "file" / "answers.jsonl"
    assert refusal("--input", reviews, "--output", inside) == f"cannot write {inside}: there is a file where a folder is needed"

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert refusal("--input", reviews, "--output", tmp_path / "file").startswith(
        f"cannot write {tmp_path / 'file'}: no space left on the disk"
    )
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "reviews.jsonl"]


def start(*arguments, **options):
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "transkimmer_jax", "predict", *map(str, arguments)],
        cwd=runs.TRAIN_PY.parent,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_reader_that_has_seen_enough(model_folder, write):
    """More answers than a pipe holds, of which the reader takes the first, like `head -1`."""
    many = write("many.txt", 2000 * "good film\n")
    with start("--model", model_folder, "--input", many, "--quiet", stdout=subprocess.PIPE) as process:
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 0
    assert first["tokens"] == 4


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a Linux device")
def test_standard_output_on_a_full_disk(model_folder, write):
    one = write("one.txt", "good film\n")
    with open("/dev/full", "w") as full, start("--model", model_folder, "--input", one, "--quiet", stdout=full) as process:
        said = process.stderr.read()
        assert process.wait() == 2
    assert said.startswith("error: cannot write standard output: no space left on the disk") and said.count("\n") == 1
