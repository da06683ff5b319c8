"""Runs in miniature: the smallest BERT with random weights, texts of nine words, one padded length."""

import importlib.util
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
from checkpoints.handmade import CONFIG, random_tensors, write_checkpoint
from training import quick

from transkimmer_jax.config import (
    DENSE_MODEL,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    SkimConfig,
    TrainConfig,
    to_dict,
    with_fields,
)
from transkimmer_jax.distributed.placement import Placement

TRAIN_PY = pathlib.Path(__file__).resolve().parents[2] / "train.py"
TINY = CONFIG | {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "id2label": {"0": "neg", "1": "pos"},
}  # fmt: skip
FILLERS = ["a", "b", "c", "film", "the", "is"]


def write_model(folder, tokenizer_folder, config=TINY):
    """A checkpoint folder without a classifier, with the tokenizer."""
    tensors = {name: tensor for name, tensor in random_tensors(config).items() if not name.startswith("classifier")}
    write_checkpoint(folder, tensors, config)
    shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)
    return folder


def make_reviews(count, seed):
    """Records of 1 to 10 words, one of which decides the label."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        words, positive = list(rng.choice(FILLERS, rng.integers(0, 10))), bool(rng.integers(2))
        words.insert(rng.integers(0, len(words) + 1), "good" if positive else "bad")
        records.append({"text": " ".join(words), "label": "pos" if positive else "neg"})
    return records


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def make_config(checkpoint, train_file, validation_file):
    return Config(
        model=ModelConfig(pretrained=str(checkpoint)),
        skim=SkimConfig(target=0.7, initial_bias=2.0, warmup=0.1, anneal=0.4, noise_end=None, forwarding="identity"),
        data=DataConfig(
            task="files", train_file=str(train_file), validation_file=str(validation_file), max_length=12, length_buckets=(12,),
            batch_size=16, eval_batch_size=16,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, predictor_learning_rate=1e-2),
        train=TrainConfig(steps=60, log_every=3, eval_every=20, save_every=15, keep_latest=2),
    )  # fmt: skip


def make_recipe(common, dense=None, skimming=None):
    """A recipe of two stages that share a config but for these fields, by dotted name."""
    starts = {"model.pretrained": DENSE_MODEL, "distill.teacher": DENSE_MODEL}
    return Recipe(with_fields(common, {"skim.enabled": False} | (dense or {})), with_fields(common, starts | (skimming or {})))


def write_config(path, config):
    """A file for `train.py --config` that gives `config`."""
    body = f"from transkimmer_jax.config import from_dict\n\n\ndef get_config():\n    return from_dict({to_dict(config)!r})\n"
    path.write_text(body, encoding="utf-8")
    return path


def train_main():
    """`main` of train.py, which lies in no package."""
    spec = importlib.util.spec_from_file_location("train", TRAIN_PY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def start_train(config_file, workdir, program_cache, *arguments):
    """`python train.py` as a process of its own, with programs built as in this one."""
    script = [sys.executable, quick.__file__, str(program_cache), str(TRAIN_PY)]
    command = [*script, "--config", str(config_file), "--workdir", str(workdir), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def signal_before_step(patch, step, number):
    """The process gets a signal as the batch of a step, counted from 1, is placed."""
    _signal_before(patch, step, number, lambda batch: "labels" in batch)


def signal_in_evaluation(patch, batch):
    """The process gets a SIGTERM as a batch that is evaluated, counted from 1, is placed."""
    _signal_before(patch, batch, signal.SIGTERM, lambda batch: "labels" not in batch)


def _signal_before(patch, call, number, counts):
    global_batch, calls = Placement.global_batch, itertools.count(1)

    def place(self, batch, *arguments):
        if counts(batch) and next(calls) == call:
            os.kill(os.getpid(), number)
        return global_batch(self, batch, *arguments)

    patch.setattr(Placement, "global_batch", place)


def truncate_checkpoint(workdir, step, keep):
    """Cut the largest file of a checkpoint's arrays to a share of its bytes."""
    files = [path for path in (workdir / "checkpoints" / str(step) / "state").rglob("*") if path.is_file() and path.parent.name == "d"]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: int(keep * len(content))])


def read_lines(workdir):
    """The lines of metrics.jsonl, as they stand."""
    return (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


def read_result(workdir):
    """result.json without the seconds, which no two runs share, and without the command, which only train.py has."""
    result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    assert result.pop("seconds") > 0
    result.pop("command")
    return result


def assert_same_run(workdir, other):
    """Two workdirs tell of the same arithmetic, to the last bit."""
    assert read_lines(workdir) == read_lines(other)
    assert read_result(workdir) == read_result(other)
    assert model_files(workdir) == model_files(other)


def model_files(workdir):
    folder = workdir / "model"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
