"""Laws of `transkimmer evaluate`: what it prints is what the model does, and a mistake is one line that names the culprit."""

import csv
import json
import shutil

import numpy as np
import pytest
from cli.saved import make_tensors, save_dense, save_model, save_prompted
from models.reference import transkimmer
from training import runs

from transkimmer_jax import cli
from transkimmer_jax.data import sources
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.pipeline import load_tokenizer

TENSORS = make_tensors()
RECORDS = runs.make_reviews(30, seed=7)


@pytest.fixture
def reviews(write):
    return write("reviews.jsonl", RECORDS)


@pytest.fixture
def evaluate(model_folder, capsys):
    """What the command prints, as a result."""

    def run(*arguments):
        capsys.readouterr()
        cli.main(["evaluate", "--model", str(model_folder), *map(str, arguments)])
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def predict(model_folder, capsys):
    """The answers of the other command."""

    def run(*arguments):
        capsys.readouterr()
        cli.main(["predict", "--model", str(model_folder), "--quiet", *map(str, arguments)])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.fixture
def refusal(refused):
    return lambda *arguments: refused("evaluate", *arguments)


def test_the_numbers_are_the_models(model_folder, evaluate, reviews):
    """Against the NumPy reference, example by example and unpadded, at the threshold the model was saved with."""
    tokenizer = load_tokenizer(model_folder)
    right, kept, total = 0, np.zeros(runs.TINY["num_hidden_layers"]), 0
    for record in RECORDS:
        ids = np.array(tokenizer(record["text"], truncation=True, max_length=12)["input_ids"])
        answer = transkimmer(TENSORS, runs.TINY, ids, np.zeros_like(ids), threshold=0.25)
        assert np.nanmin(np.abs(answer.margin - 0.25)) > 1e-4, "a decision that two programs may take differently"
        right += ["neg", "pos"][int(np.argmax(answer.logits))] == record["label"]
        kept += answer.keep.sum(axis=1)
        total += len(ids)
    result = evaluate("--data", reviews)
    assert set(result["reports"]) == set(result["metrics"]) == {"test file"}
    assert 0.05 < kept.mean() / total < 0.95 and 0.2 < right / len(RECORDS) < 0.8, "else there is nothing to tell apart"
    assert result["metric"] == "accuracy" and result["value"] == right / len(RECORDS)
    assert result["kept_per_layer"] == [float(share) for share in kept / total] and result["threshold"] == 0.25
    assert (
        result["examples"] == {"test file": 30}
        and result["data"] == str(reviews)
        and result["task"] == "files"
        and result["model"] == str(model_folder)
    )


def test_threshold(evaluate, reviews):
    """Higher keeps fewer; one below all margins keeps all, one above them [CLS] only."""
    lengths = [2 + len(record["text"].split()) for record in RECORDS]
    shares = [evaluate("--data", reviews, f"--threshold={threshold}")["kept_tokens"] for threshold in ("-1e9", "-1", "0.25", "1", "1e9")]
    assert shares == sorted(shares, reverse=True) and len(set(shares)) == 5
    assert shares[0] == 1.0 and shares[-1] == pytest.approx(len(RECORDS) / sum(lengths), rel=1e-12)
    assert shares[2] == evaluate("--data", reviews)["kept_tokens"]


def test_two_labels_as_transformers_saves_them(model_folder, evaluate, reviews, write, tmp_path):
    """transformers leaves default names of two labels out of config.json: the data's labels are their numbers."""
    plain = shutil.copytree(model_folder, tmp_path / "plain")
    (plain / "SHA256SUMS").unlink()
    saved = json.loads((plain / "config.json").read_text(encoding="utf-8"))
    config = {name: value for name, value in saved.items() if name not in ("id2label", "label2id", "problem_type", "task")}
    (plain / "config.json").write_text(json.dumps(config), encoding="utf-8")
    numbered = write("numbered.jsonl", [record | {"label": ["neg", "pos"].index(record["label"])} for record in RECORDS])
    expected = evaluate("--data", reviews)["value"]
    assert evaluate("--model", plain, "--data", numbered, "--max-length", 12)["value"] == expected


def test_csv_and_other_columns(evaluate, reviews, tmp_path):
    """The same examples from a CSV file with other names for the columns, and labels by their index."""
    with (tmp_path / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["stars", "review"], *([int(record["label"] == "pos"), record["text"]] for record in RECORDS)])
    expected = evaluate("--data", reviews) | {"data": str(tmp_path / "reviews.csv")}
    assert evaluate("--data", tmp_path / "reviews.csv", "--text-columns", "review", "--label-column", "stars") == expected


def test_labels_are_the_models_whichever_occur(evaluate, write):
    """A file of one class only, which would be the first class if the file were asked."""
    positive = [record for record in RECORDS if record["label"] == "pos"]
    both = (
        evaluate("--data", write("pos.jsonl", positive))["value"],
        evaluate("--data", write("flipped.jsonl", [r | {"label": "neg"} for r in positive])),
    )
    assert 0 < both[0] < 1 and both[0] + both[1]["value"] == pytest.approx(1, rel=1e-12)


def test_json_file(evaluate, reviews, tmp_path):
    result = evaluate("--data", reviews, "--json", tmp_path / "deep" / "result.json")
    assert json.loads((tmp_path / "deep" / "result.json").read_text(encoding="utf-8")) == result


def test_predictions_and_tables(model_folder, predict, reviews, tmp_path, capsys):
    """Text by text as `predict` says, and summed up as scikit-learn does."""
    file = tmp_path / "deep" / "predictions.jsonl"
    cli.main(["evaluate", "--model", str(model_folder), "--data", str(reviews), "--predictions", str(file)])
    printed = capsys.readouterr()
    found, said = json.loads(printed.out)["reports"]["test file"], printed.err
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["label"] for line in lines] == [record["label"] for record in RECORDS]
    for line, answer in zip(lines, predict("--input", reviews), strict=True):
        assert set(line) == {"label", "predicted", "probabilities", "kept"} and line["predicted"] == answer["label"]
        assert line["probabilities"] == pytest.approx(answer["probabilities"], rel=1e-4) and line["kept"] == pytest.approx(answer["kept"])
    pairs = [(line["label"], line["predicted"]) for line in lines]
    counts = [[pairs.count((label, predicted)) for predicted in ("neg", "pos")] for label in ("neg", "pos")]
    assert found["confusion_matrix"] == counts and min(map(min, counts)) > 0, "else a transposed one is not told apart"
    for number, name in enumerate(("neg", "pos")):
        precision, recall = counts[number][number] / sum(row[number] for row in counts), counts[number][number] / sum(counts[number])
        expected = {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}
        assert found["classes"][name] == pytest.approx(expected | {"support": sum(counts[number])})
        assert f"{name:5} {precision:10.4f} {recall:10.4f}" in said
    assert "test file reviews.jsonl:" in said and "confusion matrix: a row a label, a column a prediction" in said


@pytest.mark.parametrize("mode", ["compacted", "masked"])
def test_a_default_prompt(model_folder, evaluate, predict, reviews, tmp_path, mode):
    """Stands before texts, as it does when the model is served."""
    prompted, file = save_prompted(tmp_path / "prompted", model_folder, "bad films "), tmp_path / "predictions.jsonl"
    answers, others = (predict("--model", model, "--input", reviews) for model in (prompted, model_folder))
    assert [answer["kept"] for answer in answers] != [answer["kept"] for answer in others], "else there is nothing to tell apart"
    evaluate("--model", prompted, "--data", reviews, "--predictions", file, "--mode", mode)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for line, answer in zip(lines, answers, strict=True):
        assert line["probabilities"] == pytest.approx(answer["probabilities"], rel=1e-4) and line["kept"] == pytest.approx(answer["kept"])


def test_residuals(tokenizer_folder, write, tmp_path, capsys):
    """A regression has no classes; its answers are values, as its labels are."""
    config = runs.TINY | {"id2label": {"0": "LABEL_0"}}
    model = save_model(tmp_path, tokenizer_folder, config=config, label_names=None)
    stars = [{"text": record["text"], "label": number / 7} for number, record in enumerate(RECORDS[:8])]
    file, table = tmp_path / "predictions.jsonl", tmp_path / "result.json"
    data = write("stars.jsonl", stars)
    cli.main(["evaluate", "--model", str(model), "--data", str(data), "--predictions", str(file), "--json", str(table)])
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    residuals = np.array([line["predicted"] - line["label"] for line in lines])
    assert [line["label"] for line in lines] == pytest.approx([record["label"] for record in stars]) and "probabilities" not in lines[0]
    found = json.loads(table.read_text(encoding="utf-8"))["reports"]["test file"]["residuals"]
    assert found["mean"] == pytest.approx(residuals.mean()) and found["standard_deviation"] == pytest.approx(residuals.std())
    assert found["mean_absolute_error"] == pytest.approx(np.abs(residuals).mean())
    assert found["farthest"] == residuals[np.abs(residuals).argmax()]
    assert found["quantiles"]["50%"] == pytest.approx(np.median(residuals))
    assert f"mean absolute error  {np.abs(residuals).mean():10.4f}" in capsys.readouterr().err


def test_masked_and_compacted_agree(evaluate, reviews):
    """The parity law (docs/design.md, section 2.1), as a user can check it."""
    masked = evaluate("--data", reviews, "--mode=masked")
    assert masked.pop("mode") == "masked"
    compacted = evaluate("--data", reviews)
    assert compacted.pop("mode") == "compacted" and compacted == masked


def test_examples_and_max_length(evaluate, reviews):
    assert evaluate("--data", reviews, "--examples", 7)["examples"] == {"test file": 7}
    # Cut to [CLS], one word and [SEP], of which the padded baseline has three as well.
    cut = evaluate("--data", reviews, "--max-length", 3, "--threshold=-1e9")
    assert cut["flops_vs_padded"] == pytest.approx(cut["flops_vs_unpadded"], rel=1e-12) and cut["kept_tokens"] == 1.0


def test_a_folder_that_names_no_length(evaluate, predict, write, tokenizer_folder, tmp_path):
    """A file's texts are read as far as the other command reads them: to the last position."""
    folder = save_model(tmp_path, tokenizer_folder, config=runs.TINY | {"max_position_embeddings": 160})
    (folder / "SHA256SUMS").unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["task"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del tokenizer["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    texts = [{"text": " ".join(["good", "film"] * count)} for count in (1, 70, 79, 80)]
    answers = predict("--model", folder, "--input", write("texts.jsonl", texts))
    assert [answer["truncated"] for answer in answers] == [False, False, False, True]
    data = write("labelled.jsonl", [text | {"label": answer["label"]} for text, answer in zip(texts, answers, strict=True)])
    result = evaluate("--model", folder, "--data", data)
    assert result["value"] == 1.0 and result["truncated"] == {"test file": 1}


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_does_not_matter(evaluate, reviews, batch_size):
    assert evaluate("--data", reviews, "--batch-size", batch_size) == evaluate("--data", reviews)


def test_refusals(refusal, model_folder, reviews, write, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert refusal("--model", nowhere, "--data", reviews) == f"no checkpoint folder {str(nowhere)!r}"
    assert refusal("--model", tmp_path, "--data", reviews) == f"{tmp_path}: no config.json, so this is not a checkpoint folder"
    model = ("--model", model_folder)
    assert refusal(*model, "--data", nowhere) == f"{nowhere}: cannot be read: No such file or directory"
    unnamed = write("reviews", "good")
    assert (
        refusal(*model, "--data", unnamed)
        == f"{unnamed}: the name must end in .jsonl or .csv, which says how it is read: rename or convert it"
    )
    message = refusal(*model, "--data", reviews, "--text-columns", "review")
    assert message.endswith("no column 'review', only 'text', 'label'")
    message = refusal(*model, "--data", reviews, "--text-columns", "text", "label")
    assert message == f"--text-columns text label, but {model_folder} reads single texts: name one column"
    message = refusal(*model, "--data", reviews, "--label-column", "stars")
    assert message.endswith("no column 'stars', only 'text', 'label'")
    assert refusal(*model, "--data", reviews, "--split", "test") == "--split test is of --task: a file has no splits"
    assert refusal(*model, "--data", reviews, "--threshold", "high") == "Invalid value for '--threshold': 'high' is not a valid float."
    mixed = write("mixed.jsonl", [{"text": "a", "label": "mixed"}, {"text": "b", "label": "pos"}])
    assert f"{mixed}, line 1: label 'mixed' is none of the labels trained on (neg, pos)" in refusal(*model, "--data", mixed)
    assert refusal(*model, "--data", write("empty.jsonl", "")).endswith("the file holds no example: write one a line")
    assert "did you mean 'glue/sst2'" in refusal(*model, "--task", "glue/sst")
    assert "--text-columns and --label-column are of --data" in refusal(*model, "--task", "glue/sst2", "--label-column", "label")
    assert "--precision is of compacted computation" in refusal(*model, "--data", reviews, "--mode", "masked", "--precision", "int8")


def test_a_head_that_was_never_trained(refusal, tokenizer_folder, reviews, tmp_path):
    """Its numbers would be those of chance."""
    bare = runs.write_model(tmp_path / "bare", tokenizer_folder)
    message = refusal("--model", bare, "--data", reviews)
    assert message.startswith(f"{bare} has no trained classifier, and can neither answer nor teach: train it first")


def test_a_task_with_other_labels(refusal, model_folder, tokenizer_folder, tmp_path):
    """Before any data is looked for: another number of labels, other names, or the same in another order."""
    assert refusal("--model", model_folder, "--task", "glue/mnli", "--max-length", 12) == f"{model_folder} has 2 labels, glue/mnli has 3"
    message = refusal("--model", model_folder, "--task", "glue/sst2", "--max-length", 12)
    assert message.startswith(f"{model_folder} calls its labels neg, pos, glue/sst2 calls them negative, positive: one would be scored as")
    turned = save_model(tmp_path / "turned", tokenizer_folder, label_names=("positive", "negative"))
    assert "calls its labels positive, negative" in refusal("--model", turned, "--task", "glue/sst2", "--max-length", 12)


@pytest.mark.parametrize("names", [("NEGATIVE", "Positive"), ("LABEL_0", "LABEL_1")])
def test_a_task(monkeypatch, tokenizer_folder, tmp_path, write, capsys, caplog, names):
    """Of labels whose names differ in case alone, or say nothing: as of a file of the same texts. What is assumed of the latter is said."""
    folder = save_model(tmp_path / "model", tokenizer_folder, label_names=names)
    texts, labels = [record["text"] for record in RECORDS], [int(record["label"] == "pos") for record in RECORDS]
    monkeypatch.setattr(sources, "load_split", lambda *_: Examples(texts, None, np.array(labels, np.int32)))
    path = write("labels.jsonl", [{"text": text, "label": names[label]} for text, label in zip(texts, labels, strict=True)])
    values = []
    for given in (["--task", "glue/sst2", "--max-length", "12"], ["--data", str(path)]):
        cli.main(["evaluate", "--model", str(folder), *given])
        values.append(json.loads(capsys.readouterr().out)["value"])
    assert values[0] == values[1]
    assumed = [message for message in caplog.messages if "LABEL_0 -> negative, LABEL_1 -> positive" in message]
    assert len(assumed) == (names[0] == "LABEL_0") and all(message.startswith(f"{folder} and glue/sst2 are") for message in assumed)


def test_more_columns_than_a_pair_has(refusal, model_folder, reviews):
    message = refusal("--model", model_folder, "--data", reviews, "--text-columns", "a", "b", "c")
    assert message == "--text-columns names one column or two, not 3"


def test_a_maximal_length_beyond_the_positions(refusal, model_folder, reviews):
    """Given, or the task's own."""
    complaint = f"tokens are more than the 40 positions of {model_folder}: give a lower --max-length"
    assert refusal("--model", model_folder, "--data", reviews, "--max-length", 41) == f"41 {complaint}"
    assert refusal("--model", model_folder, "--task", "imdb_reviews") == f"512 {complaint}"


def test_a_test_split_that_is_not_there(refusal, tokenizer_folder, tmp_path):
    folder = save_model(tmp_path / "model", tokenizer_folder, label_names=("negative", "positive"))
    message = refusal("--model", folder, "--task", "glue/sst2", "--max-length", 12, "--split", "test")
    assert message == "glue/sst2 has no labelled test split: its validation split is all that can be scored"


def test_a_budget_of_a_dense_model(refusal, model_folder, reviews, tokenizer_folder, tmp_path):
    """It has none: the number would be printed as if it had been used."""
    dense = save_dense(tmp_path / "dense", model_folder, tokenizer_folder)
    message = refusal("--model", dense, "--data", reviews, "--threshold", 0.5, "--max-length", 12)
    assert message == f"--threshold is of skimming models, and {dense} is a dense one: leave it out"


def test_how_many_texts_are_cut(evaluate, reviews, model_folder, capsys):
    cli.main(["evaluate", "--model", str(model_folder), "--data", str(reviews), "--max-length", "4"])
    lengths = [len(record["text"].split()) + 2 for record in RECORDS]
    cut = json.loads(capsys.readouterr().out)["truncated"]
    assert 0 < cut["test file"] == sum(length > 4 for length in lengths)
