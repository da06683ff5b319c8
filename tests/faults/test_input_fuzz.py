"""Hostile files and calls, drawn by a seed: each is answered or refused in one line."""

import os

import pytest
from faults import input_faults

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data import pipeline, records, sources
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.inference.engine import SkimEngine


@pytest.fixture(scope="module", autouse=True)
def build_quickly(quickly_built_programs):
    """For every test here."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return input_faults.save_model(tmp_path_factory.mktemp("model") / "model")


def read_texts(path):
    """As `predict` reads a file, without the answers."""
    return [records.column_text(record, "text", where) for where, record in records.read_records(path)]


def load(path):
    """As training loads its files."""
    data = DataConfig(task="files", train_file=str(path), text_columns=("text",))
    task = get_task(data)
    return sources.load_split(task, task.train_split, data)


def test_files(folder, tmp_path):
    tokenizer = pipeline.load_tokenizer(folder)
    outcomes = {"read": {}, "loaded": {}}
    for hostile in input_faults.hostile_files(seed=int(os.environ.get("FUZZ_SEED", 0)), mutants=40):
        path = tmp_path / hostile.name
        hostile.make(path)

        def loaded(path=path):
            examples = load(path)
            return pipeline.tokenize(examples, tokenizer, 12)

        outcomes["read"][hostile.name] = input_faults.outcome(lambda path=path: read_texts(path))
        outcomes["loaded"][hostile.name] = input_faults.outcome(loaded)
    for kind in outcomes.values():
        assert {name: said for name, said in kind.items() if said not in ("answered", "refused")} == {}
        assert min(list(kind.values()).count(said) for said in ("answered", "refused")) > 5


def test_calls(folder):
    engine, model = SkimEngine.from_pretrained(folder), TranskimmerForSequenceClassification.from_pretrained(folder, dense=None)
    outcomes = {
        hostile.name: input_faults.outcome(lambda hostile=hostile: hostile.call(engine, model))
        for hostile in input_faults.hostile_calls(seed=int(os.environ.get("FUZZ_SEED", 0)), count=150)
    }
    assert {name: said for name, said in outcomes.items() if said not in ("answered", "refused")} == {}
    assert list(outcomes.values()).count("refused") > 60
