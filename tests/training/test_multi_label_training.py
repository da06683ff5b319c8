"""Texts with any number of labels: the losses against PyTorch's and by hand, and runs from files and teachers to the end."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from training import runs

from tools.aot_workload import Workload
from transkimmer_jax import cli
from transkimmer_jax.checkpoints import config_file
from transkimmer_jax.config import override
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.training.distillation import distil_config
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.models import load_student, load_task, load_teacher, student_shapes
from transkimmer_jax.training.objectives import LABEL_SETS, OBJECTIVES, label_set_distillation_loss, label_set_loss, objective_of

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 90.0]], np.float32)
TEACHER = np.array([[0.5, -1.0, 2.5], [1.0, 0.0, -1.0], [-3.0, 4.0, 1.0]], np.float32)
LABELS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32)


def test_the_loss_of_labels_is_pytorchs():
    """The mean over the labels, as `BCEWithLogitsLoss` in transformers' models, of each text times its weight."""
    torch = pytest.importorskip("torch")
    weight = np.array([1.0, 0.5, 2.0], np.float32)
    rows = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(LOGITS), torch.tensor(LABELS), reduction="none").mean(dim=1)
    assert rows[2] > 29, "of a logit of 90 whose label is another"
    loss = label_set_loss(jnp.array(LOGITS), jnp.array(LABELS), jnp.array(weight))
    assert float(loss) == pytest.approx(float(rows @ torch.tensor(weight)), rel=1e-6)


def test_labels_by_number_are_refused():
    with pytest.raises(AssertionError):
        label_set_loss(jnp.array(LOGITS), jnp.array([1.0, 0.0, 2.0]), jnp.ones(3))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_is_the_divergence_of_every_label(temperature):
    weight = np.array([1.0, 0.5, 1.0], np.float32)
    wanted, given = (scipy.special.expit(values.astype(np.float64) / temperature) for values in (TEACHER, np.minimum(LOGITS, 9.0)))
    divergence = wanted * np.log(wanted / given) + (1 - wanted) * np.log((1 - wanted) / (1 - given))
    expected = temperature**2 * float(divergence.mean(axis=1) @ weight)
    loss = label_set_distillation_loss(jnp.minimum(LOGITS, 9.0), jnp.array(TEACHER), jnp.array(weight), temperature)
    assert expected > 0.1 and float(loss) == pytest.approx(expected, rel=1e-5)


def test_distillation_is_zero_at_the_teacher_alone():
    """Other than of classes, a shift of all logits is a difference."""
    at = lambda logits: float(label_set_distillation_loss(jnp.array(logits), jnp.array(TEACHER), jnp.ones(3), 2.0))  # noqa: E731
    assert at(TEACHER) == pytest.approx(0, abs=1e-6) and at(TEACHER + 3.0) > 0.1


def test_which_objective(checkpoint):
    arch = config_file.read(checkpoint).architecture
    assert objective_of(arch) is OBJECTIVES["sequence_classification"]
    assert objective_of(dataclasses.replace(arch, multi_label=True)) is LABEL_SETS


def test_the_step_compiles_ahead_of_time(checkpoint, files):
    """For a slice of accelerators, on shapes alone: a text has a row of labels."""
    config = runs.make_config(checkpoint, files["train"], files["validation"])
    arch = student_shapes(config, load_task(config))
    assert arch.multi_label
    placement, workload = Placement.create(config.mesh), Workload(config, arch, arch, batch=4, length=12)
    with jax.set_mesh(placement.mesh):
        lowered = workload._train(placement)
    _, batch, _ = lowered.in_avals[0]
    assert batch["labels"].shape == (4 * placement.device_count, 2) and batch["labels"].dtype == np.float32


def make_remarks(count, seed):
    """Which of two words a text has: none, one or both."""
    rng, records = np.random.default_rng(seed), []
    for _ in range(count):
        labels = [word for word in ("bad", "good") if rng.integers(2)]
        words = list(rng.permutation([*labels, *rng.choice(runs.FILLERS, rng.integers(1, 7))]))
        records.append({"text": " ".join(words), "label": labels})
    return records


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remarks")
    return {
        name: str(runs.write_jsonl(folder / f"{name}.jsonl", make_remarks(count, seed)))
        for name, count, seed in (("train", 300, 0), ("validation", 80, 1), ("texts", 300, 2))
    }


@pytest.fixture(scope="module")
def dense(checkpoint, files, tmp_path_factory):
    """A run that learned the labels, and its result."""
    config = runs.make_config(checkpoint, files["train"], files["validation"])
    changes = {
        "skim.enabled": "false", "optimizer.learning_rate": "3e-3", "train.steps": "300", "train.eval_every": "300",
        "train.save_every": "none", "model.dropout": "0",
    }  # fmt: skip
    workdir = tmp_path_factory.mktemp("dense") / "run"
    return workdir, train_and_evaluate(override(config, changes), workdir)


@pytest.fixture(scope="module")
def skimming(checkpoint, dense, files, tmp_path_factory):
    """One that has that for its teacher, with a few texts that nobody has labelled."""
    model, more = str(dense[0] / "model"), tmp_path_factory.mktemp("more") / "more.txt"
    more.write_text("a good film\nthe bad film\n" * 20, encoding="utf-8")
    changes = {
        "model.pretrained": model, "distill.teacher": model, "distill.unlabelled_file": str(more), "skim.target": "0.8",
        "optimizer.learning_rate": "1e-3",
        "train.steps": "60", "train.eval_every": "60", "train.save_every": "none",
    }  # fmt: skip
    workdir = tmp_path_factory.mktemp("skimming") / "run"
    return workdir, train_and_evaluate(override(runs.make_config(checkpoint, files["train"], files["validation"]), changes), workdir)


def test_from_a_file_to_a_model(dense, skimming, files, capsys):
    """It learns both labels and skims; its folder says so to the engine and to `evaluate`, in both ways to compute it."""
    for workdir, result in (dense, skimming):
        assert result["metric"] == "micro_f1" and set(result["metrics"]["validation"]) == {"micro_f1", "macro_f1"}
        assert result["value"] > 0.9, workdir
        saved = config_file.read(workdir / "model")
        assert saved.architecture.multi_label and saved.label_names == ("bad", "good")
    assert skimming[1]["kept_tokens"] < 0.97
    with jax.numpy_dtype_promotion("standard"):
        for mode in ("compacted", "masked"):
            cli.main(["evaluate", "--model", str(skimming[0] / "model"), "--data", files["validation"], "--mode", mode])
            said = json.loads(capsys.readouterr().out)
            assert said["value"] == pytest.approx(skimming[1]["value"], abs=1e-6)
        answers = SkimEngine.from_pretrained(dense[0] / "model").predict(["good film", "bad good", "film", "the bad film"], progress=False)
    assert [answer.label for answer in answers] == [["good"], ["bad", "good"], [], ["bad"]]


def test_a_student_without_labels(dense, files, tmp_path, capsys):
    """`distil` learns what the teacher says of every label, prints how far both agree, and scores both on labelled texts."""
    arguments = [
        "distil", "--teacher", str(dense[0] / "model"), "--texts", files["texts"], "--target", "0.8", "--max-length", "12",
        "--labelled", files["validation"], "--output", str(tmp_path / "run"), "--config.train.steps=40",
        "--config.data.length_buckets=12", "--config.data.batch_size=16", "--config.data.eval_batch_size=16",
    ]  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        cli.main(arguments)
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metric"] == "micro_f1" and set(result["metrics"]["test"]) == {"micro_f1", "agreement", "divergence"}
    assert result["value"] > 0.8 and result["metrics"]["test"]["agreement"] > 0.8 and result["kept_tokens"] < 0.97
    for line in ("micro_f1 with the teacher", "agreement with the teacher", "micro_f1, labelled texts", "macro_f1, labelled texts"):
        assert line in said
    assert config_file.read(tmp_path / "run" / "model").architecture.multi_label


def test_a_teacher_of_another_kind(checkpoint, dense, reviews, tmp_path):
    """Its logits mean something else, whatever it calls its labels."""
    model = tmp_path / "teacher"
    (model).mkdir()
    for path in (dense[0] / "model").iterdir():
        if path.name != "SHA256SUMS":
            (model / path.name).write_bytes(path.read_bytes())
    values = json.loads((model / "config.json").read_text())
    values |= config_file.label_fields(("neg", "pos"))
    (model / "config.json").write_text(json.dumps(values))
    config = runs.make_config(checkpoint, reviews / "train.jsonl", reviews / "validation.jsonl")
    with pytest.raises(CheckpointError, match=r"distill.teacher=.* gives a text any number of labels, files gives it one") as caught:
        train_and_evaluate(override(config, {"distill.teacher": str(model)}), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_an_embedder_of_its_encoder(dense, files):
    """Pooled, the teacher has vectors and no labels, of whatever kind those of its folder are."""
    config = distil_config(str(dense[0] / "model"), [files["texts"]], pooling="mean", max_length=12)
    task = load_task(config)
    teacher = load_teacher(config, task, load_student(config, task).arch)
    assert task.head == teacher.head == "sentence_embedding" and not teacher.arch.multi_label
