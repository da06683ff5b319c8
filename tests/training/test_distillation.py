"""Students of teachers with every head, from texts without labels."""

import dataclasses
import itertools
import json
import logging
import shutil
import signal

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from training import runs

from transkimmer_jax import cli
from transkimmer_jax.checkpoints import config_file, folders, sentence_transformers
from transkimmer_jax.config import override
from transkimmer_jax.data import sources
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.data.prepared import prepare
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError
from transkimmer_jax.evaluation.metrics import compute_metrics
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.training import models, students, teaching
from transkimmer_jax.training.distillation import distil_config
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.models import load_task

ARCH = Architecture(
    vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32,
    initializer_range=0.3, skim=None,
)  # fmt: skip
TEACHERS = {
    "classifier": ("sequence_classification", {"num_labels": 3}, ("one", "two", "three")),
    "cross-encoder": ("sequence_classification", {"num_labels": 1}, None),
    "embedder": ("sentence_embedding", {"pooling": PoolingArchitecture("mean", True)}, None),
    "tagger": ("token_classification", {"num_labels": 3}, ("O", "B", "I")),
    "reader": ("question_answering", {}, None),
}
PROMPTED = ("cross-encoder", "embedder")
FEW = {"data.length_buckets": "24", "data.max_length": "24", "data.batch_size": "16", "data.eval_batch_size": "16"}


@pytest.fixture(scope="module")
def teachers(tokenizer_folder, tmp_path_factory):
    """Folders of dense models, by what they are."""
    tokenizer, made = load_tokenizer(tokenizer_folder), {}
    for name, (head, options, label_names) in TEACHERS.items():
        model = HEADS[head](dataclasses.replace(ARCH, **options), rngs=nnx.Rngs(1))
        made[name] = tmp_path_factory.mktemp(name.replace("-", "_")) / "model"
        settings = sentence_transformers.Settings({"query": "the "}, "query") if name in PROMPTED else None
        names = None if head == "question_answering" else label_names
        extra = {"id2label": {"0": "relevance"}, "problem_type": None} if name == "cross-encoder" else None
        model.save_pretrained(made[name], tokenizer=tokenizer, label_names=names, settings=settings, extra_config=extra)
    return made


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("texts"), 200)


@pytest.fixture(scope="module")
def many_texts(tmp_path_factory):
    """As many as it takes for what held-out texts cost to be near what other held-out texts cost."""
    return write_pairs(tmp_path_factory.mktemp("many_texts"), 2000)


def write_pairs(folder, count):
    """A file of pairs of texts, of which all but the first and the last are in both columns."""
    records = [record["text"] for record in runs.make_reviews(count, seed=0)]
    pairs = [{"first": first, "second": second} for first, second in itertools.pairwise(records)]
    return runs.write_jsonl(folder / "pairs.jsonl", pairs)


def make_config(teacher, texts, **changes):
    return override(
        distil_config(),
        {
            "model.pretrained": str(teacher), "distill.teacher": str(teacher), "data.text_files": str(texts), "skim.target": "0.6",
            "data.text_columns": "first,second", "train.steps": "40", "optimizer.learning_rate": "1e-3", **FEW, **changes,
        },
    )  # fmt: skip


@pytest.mark.parametrize("name", TEACHERS)
def test_result_is_what_the_engine_computes(teachers, texts, tmp_path, name):
    """Agreement by masked evaluation is that of two engines on the held-out texts."""
    config = make_config(teachers[name], texts)
    result = train_and_evaluate(config, tmp_path / "run")
    task = load_task(config)
    assert task.head == TEACHERS[name][0] and task.judge == "teacher"
    held_out = sources.load_split(task, "test", config.data)
    engines = [SkimEngine.from_pretrained(folder, max_length=24, pairs=None) for folder in (tmp_path / "run" / "model", teachers[name])]
    # An engine puts a cross-encoder's prompt before texts, and an embedder's in `encode` alone.
    firsts = ["the " + text for text in held_out.texts] if name == "embedder" else held_out.texts
    inputs = firsts if held_out.pairs is None else list(zip(firsts, held_out.pairs, strict=True))
    student, teacher = (engine.predict_tokenized(engine.tokenize(inputs)) for engine in engines)
    measured = compute_metrics(task, student, teacher)
    assert set(measured) == set(result["metrics"]["test"]) == set(task.metrics)
    for metric, value in result["metrics"]["test"].items():
        assert measured[metric] == pytest.approx(value, abs=1e-4)
    assert 1.2 < result["flops_vs_unpadded"] < 3 and result["kept_tokens"] < 0.9
    assert engines[0].arch.skim is not None and engines[0].arch.head == task.head
    assert engines[0].label_names == (TEACHERS[name][2] if name != "cross-encoder" else None) or name in ("embedder", "reader")
    assert engines[0].default_prompt == ("the " if name in PROMPTED else "")
    # A file with labels is read as its teacher's kind reads one.
    saved = config_file.read(tmp_path / "run" / "model")
    assert saved.task.label_column == {"tagger": "tags", "reader": "answers"}.get(name, "label")
    assert (saved.task.text_columns is None) == (name == "tagger")
    if name == "cross-encoder":  # whose score is a sigmoid to transformers, too
        assert saved.value_names == ("relevance",) and saved.values.get("problem_type") is None
    if name == "embedder":
        assert held_out.pairs is None and engines[0].arch.pooling == PoolingArchitecture("mean", True)


@pytest.mark.parametrize(
    ("name", "changes", "answered"),
    [
        ("classifier", {}, True),
        ("cross-encoder", {}, True),
        ("embedder", {}, True),
        ("embedder", {"train.steps": "15"}, False),
        ("tagger", {}, False),
        ("reader", {}, False),
    ],
)
def test_teacher_answers_each_text_once(teachers, texts, tmp_path, monkeypatch, name, changes, answered):
    """Where that costs less than asking at every step, and changes no loss."""
    config, answers = make_config(teachers[name], texts, **{"train.log_every": "1"} | changes), []
    ask = teaching.ask

    def asking(*arguments):
        inputs, params = ask(*arguments)
        answers.append(inputs.training.answers)
        assert (params is None) == (answers[-1] is not None)
        return inputs, params

    monkeypatch.setattr(teaching, "ask", asking)
    train_and_evaluate(config, tmp_path / "once")
    assert (answers[0] is not None) == answered
    if answered:
        monkeypatch.setattr(teaching, "_MOST_BYTES", 0)
        train_and_evaluate(config, tmp_path / "each_step")
        assert answers[1] is None, "they would fill the memory"
        losses = [
            [line["task_loss"] for line in map(json.loads, runs.read_lines(tmp_path / run)) if "task_loss" in line][:10]
            for run in ("once", "each_step")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(set(losses[0])) == 10


def test_killed_run_resumes_bit_for_bit(teachers, texts, tmp_path):
    config = make_config(teachers["embedder"], texts, **{"train.save_every": "10", "skim.forwarding": "identity"})
    train_and_evaluate(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        runs.signal_before_step(patch, 25, signal.SIGINT)
        train_and_evaluate(config, tmp_path / "killed")
    train_and_evaluate(config, tmp_path / "killed")
    runs.assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("name", ["classifier", "embedder", "tagger"])
def test_curve_is_what_the_engine_computes_at_each_budget(teachers, many_texts, tmp_path, name):
    """Metrics and FLOPs at the threshold of each budget; FLOPs are near the budget."""
    changes = {"skim.levels": "0.8,0.45", "skim.forwarding": "linear", "train.steps": "60"}
    config = make_config(teachers[name], many_texts, **changes)
    result = train_and_evaluate(config, tmp_path / "run")
    task = load_task(config)
    held_out = sources.load_split(task, "test", config.data)
    student = SkimEngine.from_pretrained(tmp_path / "run" / "model", max_length=24, pairs=None)
    teacher = SkimEngine.from_pretrained(teachers[name], max_length=24, pairs=None)
    tokens = prepare(task, held_out, student.tokenizer, 0).tokens
    assert student.arch.skim.levels == (0.8, 0.6, 0.45) and student.threshold == pytest.approx(0.4) == result["threshold"]
    assert student.arch.maps_forwarded == (name != "classifier")
    assert [point["budget"] for point in result["curve"]] == [0.8, 0.6, 0.45]
    for point in result["curve"]:
        said = student.predict_tokenized(tokens, threshold=1 - point["budget"])
        measured = compute_metrics(task, said, teacher.predict_tokenized(tokens))
        assert measured[task.primary_metric] == pytest.approx(point["value"], abs=1e-4)
        assert said.flops_vs_unpadded(student.arch) == pytest.approx(point["flops_vs_unpadded"], rel=1e-3)
        # These are not the texts on which the levels were met: those are the validation texts, of which `result` is.
        assert 1 / point["flops_vs_unpadded"] == pytest.approx(point["budget"], rel=0.2)
    assert 1 / result["flops_vs_unpadded"] == pytest.approx(0.6, rel=0.03)
    shares = [1 / point["flops_vs_unpadded"] for point in result["curve"]]
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1] + 0.1


def test_splits_share_no_text(teachers, texts):
    config = make_config(teachers["classifier"], texts)
    splits = [sources.load_split(load_task(config), split, config.data) for split in ("train", "validation", "test")]
    pairs = [set(zip(split.texts, split.pairs, strict=True)) for split in splits]
    assert not pairs[0] & pairs[1] and not pairs[0] & pairs[2]
    assert sum(map(len, splits)) == 199 and 8 <= len(splits[1]) <= 12 and 8 <= len(splits[2]) <= 12


def test_embedder_reads_each_column_as_a_text(teachers, texts, write):
    """Copies are in one split."""
    lines = write("lines.txt", "".join(f"good film {number % 30}\n" for number in range(90)))
    config = make_config(teachers["embedder"], texts, **{"data.text_files": f"{texts},{lines}"})
    splits = [sources.load_split(load_task(config), split, config.data) for split in ("train", "validation", "test")]
    assert all(split.pairs is None for split in splits)
    sets = [set(split.texts) for split in splits]
    pairs = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    given = {text for pair in pairs for text in pair.values()} | set(lines.read_text(encoding="utf-8").splitlines())
    assert sets[0] | sets[1] | sets[2] == given and len(splits[1]) == len(sets[1]) and len(splits[2]) == len(sets[2])
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2] and sets[1] and sets[2]


@pytest.mark.parametrize("often", ["good", "so"])
def test_frequent_text_is_held_out_at_most_once(teachers, texts, write, often):
    lines = write("lines.txt", "".join(f"good film {number}\n{often}\n" * 2 for number in range(100)))
    config = make_config(teachers["embedder"], lines, **{"data.text_columns": "text"})
    splits = [sources.load_split(load_task(config), split, config.data) for split in ("train", "validation", "test")]
    assert [split.texts.count(often) for split in splits[1:]] in ([0, 0], [0, 1], [1, 0])
    assert [len(split) for split in splits[1:]] == [5, 5]


def test_question_without_context_is_left_out(teachers, write, tmp_path):
    records = [{"first": f"is it good {number}", "second": "the film is good"} for number in range(60)]
    blank = write("blank.jsonl", [*records, {"first": "is it bad", "second": " "}])
    config = make_config(teachers["reader"], blank)
    splits = [sources.load_split(load_task(config), split, config.data) for split in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 60
    long = "good " * 60
    records = [{"first": f"{long}{number}", "second": "the film is good"} for number in range(60)]
    config = make_config(teachers["reader"], write("long.jsonl", records))
    refused(config, tmp_path, DataError, "^the question 'good good .*: '?good good .* leaves no room for a context")


def test_loss_of_the_teacher_itself_is_zero(teachers, texts, tmp_path):
    config = make_config(teachers["embedder"], texts, **{"skim.enabled": "false", "train.steps": "1", "optimizer.learning_rate": "1e-12"})
    result = train_and_evaluate(config, tmp_path / "run")
    assert result["metrics"]["test"] == pytest.approx({"cosine": 1.0, "neighbours": 1.0}, abs=1e-5)
    loss = json.loads(runs.read_lines(tmp_path / "run")[0])["task_loss"]
    assert abs(loss) < 1e-5


def test_distil_prints_teacher_and_student(teachers, texts, tmp_path, capsys):
    labelled = runs.write_jsonl(
        tmp_path / "labelled.jsonl", [{"first": "good film", "second": text, "label": "one"} for text in ("a", "bad is good", "c")]
    )
    arguments = [
        "distil", "--teacher", str(teachers["classifier"]), "--texts", str(texts), "--text-columns", "first", "second", "--target", "0.6",
        "--output", str(tmp_path / "run"), "--labelled", str(labelled), "--max-length", "24", "--config.train.steps=2", "--layers", "1",
        "--config.model.intermediate_size=20", "--config.skim.target=0.2",
        *(f"--config.{name}={value}" for name, value in FEW.items() if name != "data.max_length"),
    ]  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        cli.main(arguments)
    said = capsys.readouterr().out
    for line in ("agreement with the teacher", "accuracy, labelled texts", "fewer FLOPs than unpadded dense", "times as fast", "model: "):
        assert line in said
    arch = config_file.read(tmp_path / "run" / "model").architecture
    assert (arch.num_hidden_layers, arch.intermediate_size, arch.dense_layers, arch.dense_intermediate) == (1, 20, 2, 32)


def refused(config, tmp_path, error, message):
    with pytest.raises(error, match=message):
        train_and_evaluate(config, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_student_keeps_the_teachers_label_column(teachers, texts, tmp_path):
    shutil.copytree(teachers["classifier"], tmp_path / "teacher")
    values = json.loads((tmp_path / "teacher" / "config.json").read_text(encoding="utf-8"))
    folders.replace_text(tmp_path / "teacher" / "config.json", json.dumps(values | {"task": {"label_column": "stars"}}))
    assert load_task(make_config(tmp_path / "teacher", texts)).label_column == "stars"
    embedder = make_config(tmp_path / "teacher", texts, **{"model.pooling": "mean", "data.text_columns": "first"})
    assert load_task(embedder).label_column == "label", "those are of the other head"


@pytest.mark.parametrize(
    ("name", "content", "changes", "error", "message"),
    [
        ("embedder", None, {"model.pooling": "cls"}, ConfigError, "pools by 'mean', not by 'cls': leave model.pooling"),
        ("classifier", None, {"data.text_columns": "first,third"}, DataError, "no column 'third'"),
        ("classifier", None, {"distill.teacher": "None"}, DataError, "set distill.teacher"),
        ("classifier", "one\n", {}, DataError, "first|text"),
        ("embedder", "one\n", {"data.text_columns": "text"}, DataError, "too few different ones to hold out"),
        ("embedder", "good\nbad\nfilm\n" * 10, {"data.text_columns": "text"}, DataError, "30 texts are too few different"),
        ("classifier", None, {"distill.unlabelled_file": "more.txt"}, ConfigError, "has none: give all texts by data.text_files"),
    ],
)
def test_unfit_texts_are_refused_before_anything_is_written(teachers, texts, write, tmp_path, name, content, changes, error, message):
    file = texts if content is None else write("texts.txt", content)
    refused(make_config(teachers[name], file, **changes), tmp_path, error, message)


def test_label_column_without_labelled_texts_is_refused():
    with pytest.raises(ConfigError, match="--label-column stars needs --labelled"):
        students.require_labelled(distil_config("teacher"), None, "stars")


@pytest.mark.parametrize(
    ("name", "reads", "columns", "said"),
    [
        ("cross-encoder", ["query", "document"], "first", "reads pairs of texts, and data.text_columns is first: name two columns"),
        ("classifier", ["text"], "first,second", "reads single texts, and data.text_columns is first,second: name one column"),
        ("reader", None, "first", "reads pairs of texts, and data.text_columns is first: name two columns"),
    ],
)
def test_columns_that_do_not_suit_the_teacher_are_refused(teachers, texts, tmp_path, name, reads, columns, said):
    teacher = shutil.copytree(teachers[name], tmp_path / "teacher")
    (teacher / "SHA256SUMS").unlink()
    values = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    task = {} if reads is None else {"task": {"text_columns": reads}}
    (teacher / "config.json").write_text(json.dumps(values | task), encoding="utf-8")
    config = make_config(teacher, texts, **{"data.text_columns": columns})
    refused(config, tmp_path, ConfigError, f"distill.teacher={teacher} {said} by --text-columns")
    load_task(override(config, {"data.text_columns": {"first": "first,second"}.get(columns, "first")}))


def test_teacher_without_a_trained_head_is_refused(teachers, texts, tmp_path, tokenizer_folder):
    bare = tmp_path / "bare"
    shutil.copytree(teachers["classifier"], bare)
    tensors = safetensors.numpy.load_file(bare / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("classifier.", "bert.pooler."))}
    safetensors.numpy.save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    (bare / "SHA256SUMS").unlink()
    refused(make_config(bare, texts), tmp_path, CheckpointError, "has no trained classifier and pooler, and can neither answer nor teach")


@pytest.mark.parametrize("name", TEACHERS)
def test_student_has_the_teachers_length(teachers, texts, tmp_path, name):
    """The tokenizer's limit, else all positions."""
    folder = tmp_path / "limited"
    shutil.copytree(teachers[name], folder)
    (folder / "SHA256SUMS").unlink()
    config = dataclasses.replace(make_config(folder, texts), data=dataclasses.replace(make_config(folder, texts).data, max_length=None))
    (folder / "sentence_bert_config.json").unlink(missing_ok=True)
    for length in (32, 20):
        values = json.loads((folder / "tokenizer_config.json").read_text()) | ({} if length == 32 else {"model_max_length": length})
        (folder / "tokenizer_config.json").write_text(json.dumps(values))
        assert load_task(config).max_length == length == SkimEngine.from_pretrained(folder).max_length


def test_teacher_with_fewer_positions_is_refused(teachers, texts, tmp_path, tokenizer_folder):
    wide = HEADS["sequence_classification"](dataclasses.replace(ARCH, num_labels=3, max_position_embeddings=64), rngs=nnx.Rngs(0))
    wide.save_pretrained(tmp_path / "wide", tokenizer=load_tokenizer(tokenizer_folder), label_names=TEACHERS["classifier"][2])
    changes = {"model.pretrained": str(tmp_path / "wide"), "data.max_length": "48", "data.length_buckets": "48"}
    config = make_config(teachers["classifier"], texts, **changes)
    refused(config, tmp_path, CheckpointError, f"data.max_length=48 is more than the 32 positions of {teachers['classifier']}")


def test_student_keeps_the_teachers_prompts(teachers, texts, tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(teachers["embedder"], folder)
    (folder / "config_sentence_transformers.json").unlink()
    (folder / "SHA256SUMS").unlink()
    settings, none = (sentence_transformers.read_settings(place, "sentence_embedding", {}) for place in (teachers["embedder"], folder))
    assert settings.default_prompt is not None and none.default_prompt is None
    config = make_config(teachers["embedder"], texts, **{"model.pretrained": str(folder), "train.steps": "2", "skim.target": "1.0"})
    train_and_evaluate(config, tmp_path / "run")
    assert sentence_transformers.read_settings(tmp_path / "run" / "model", "sentence_embedding", {}) == settings


@pytest.mark.parametrize("normalize", [False, True])
def test_student_of_unnormalised_vectors_is_compared_by_cosine(texts, tmp_path, tokenizer_folder, caplog, normalize):
    arch = dataclasses.replace(ARCH, pooling=PoolingArchitecture("mean", normalize))
    settings = sentence_transformers.Settings(similarity="dot")
    HEADS["sentence_embedding"](arch, rngs=nnx.Rngs(1)).save_pretrained(
        tmp_path / "teacher", tokenizer=load_tokenizer(tokenizer_folder), settings=settings
    )
    config = make_config(tmp_path / "teacher", texts, **{"train.steps": "2", "skim.target": "1.0"})
    with caplog.at_level(logging.WARNING, logger="transkimmer_jax"):
        train_and_evaluate(config, tmp_path / "run")
    student = sentence_transformers.read_settings(tmp_path / "run" / "model", "sentence_embedding", {})
    assert student.similarity == ("dot" if normalize else "cosine")
    assert ("compares vectors by dot" in caplog.text) == (not normalize)


def test_student_of_a_pairs_teacher_needs_token_types(teachers, texts, tmp_path):
    for name in ("cross-encoder", "embedder"):
        folder = tmp_path / name
        shutil.copytree(teachers[name], folder)
        (folder / "SHA256SUMS").unlink()
        values = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_input_names": ["input_ids", "attention_mask"]}
        (folder / "tokenizer_config.json").write_text(json.dumps(values))
    config = make_config(teachers["cross-encoder"], texts, **{"model.pretrained": str(tmp_path / "cross-encoder")})
    refused(config, tmp_path, CheckpointError, "reads texts otherwise")
    config = make_config(teachers["embedder"], texts, **{"model.pretrained": str(tmp_path / "embedder")})
    assert models.load_tokenizer(config, load_task(config), ARCH).model_input_names == ["input_ids", "attention_mask"]


def test_labelled_pairs_follow_the_teachers_prompt(teachers, write, tmp_path):
    reviews = [record["text"] for record in runs.make_reviews(60, seed=1)]
    values = np.random.default_rng(0).uniform(0, 5, 59).tolist()
    records = [{"first": a, "second": b, "label": value} for (a, b), value in zip(itertools.pairwise(reviews), values, strict=True)]
    file = str(write("pairs.jsonl", records))
    changes = {"data.task": "files", "data.text_files": "", "data.train_file": file, "data.validation_file": file, "train.steps": "2"}
    result = train_and_evaluate(make_config(teachers["cross-encoder"], file, **changes), tmp_path / "run")
    student = SkimEngine.from_pretrained(tmp_path / "run" / "model")
    assert student.default_prompt == "the "
    said = [answer.label for answer in student.predict([(record["first"], record["second"]) for record in records], progress=False)]
    assert np.corrcoef(said, values)[0, 1] == pytest.approx(result["metrics"]["validation"]["pearson"], abs=1e-4)


@pytest.mark.parametrize("name", PROMPTED)
def test_timed_texts_follow_the_prompt_once(teachers, texts, monkeypatch, name):
    timed = []
    predict = SkimEngine.predict_tokenized

    def watched(self, examples, **options):
        timed.append(examples)
        return predict(self, examples, **options)

    monkeypatch.setattr(SkimEngine, "predict_tokenized", watched)
    config = make_config(teachers[name], texts)
    students.compare(config, str(teachers[name]))
    records = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    pairs = [(record["first"], record["second"]) for record in records]
    inputs_read = (
        [("the " + first, second) for first, second in pairs] if name == "cross-encoder" else ["the " + text for text in sum(pairs, ())]
    )
    read = load_tokenizer(teachers[name])(inputs_read, truncation="longest_first", max_length=24)["input_ids"]
    seen = {tuple(part.input_ids[start:end].tolist()) for part in timed for start, end in itertools.pairwise(part.offsets)}
    assert seen and seen <= set(map(tuple, read))


def test_teacher_with_another_tokenizer_is_refused(teachers, texts, tmp_path, tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)
    other = HEADS["sentence_embedding"](dataclasses.replace(ARCH, vocab_size=70), rngs=nnx.Rngs(0))
    other.save_pretrained(tmp_path / "other", tokenizer=tokenizer)
    config = make_config(teachers["embedder"], texts, **{"distill.teacher": str(tmp_path / "other")})
    refused(config, tmp_path, CheckpointError, "another vocabulary")
    # As many tokens, two of which have changed places.
    vocabulary = json.loads((teachers["embedder"] / "tokenizer.json").read_text(encoding="utf-8"))
    ids = vocabulary["model"]["vocab"]
    ids["good"], ids["bad"] = ids["bad"], ids["good"]
    model = HEADS["sentence_embedding"](ARCH, rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path / "swapped", tokenizer=tokenizer)
    (tmp_path / "swapped" / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "swapped" / "SHA256SUMS").unlink()
    config = make_config(teachers["embedder"], texts, **{"distill.teacher": str(tmp_path / "swapped")})
    refused(config, tmp_path, CheckpointError, "reads texts otherwise")
