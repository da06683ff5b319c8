"""The scripts and the notebook of examples/ run, and say what is so."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import pytest
from cli.saved import save_model, save_prompted
from flax import nnx
from training import quick, runs

from transkimmer_jax import TranskimmerForSentenceEmbedding, TranskimmerForTokenClassification
from transkimmer_jax.checkpoints import folders
from transkimmer_jax.checkpoints.sentence_transformers import Settings
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.onnx.export import export

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# What the package jits is compiled with little optimisation here.
# Where PyTorch is missing transformers says so in the standard error.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": quick.FLAGS, "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
ARCH = Architecture(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
BLOCKED = """
import runpy, sys
sys.modules.update(dict.fromkeys(("transkimmer_jax", "jax", "flax", "onnx")))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(folder, *command, given=None):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=folder, env=ENVIRONMENT, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model(tokenizer_folder, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_folder)


@pytest.mark.parametrize(("precision", "prompt"), [("float32", "bad films "), ("int8", None)])
def test_a_graph_answers_as_the_engine_does(model, tmp_path, precision, prompt):
    """Where this package, and JAX, are not to be had; behind the model's default prompt, if it has one."""
    model = model if prompt is None else save_prompted(tmp_path / "prompted", model, prompt)
    export(model, tmp_path / "exported", precisions=[precision])
    texts = ["good film", "", "the bad films is a b c good " * 3, "a"]
    file = "model.onnx" if precision == "float32" else "model_quantized.onnx"
    arguments = (EXAMPLES / "answer_by_graph.py", tmp_path / "exported", "--file", file, "--batch-size", "2")
    said = [
        json.loads(line) for line in run(tmp_path, "-c", BLOCKED, *arguments, given="".join(text + "\n" for text in texts)).splitlines()
    ]
    with jax.numpy_dtype_promotion("standard"):
        wanted = SkimEngine.from_pretrained(model, precision=precision).predict(texts, progress=False)
    assert [answer["label"] for answer in said] == [answer.label for answer in wanted]
    for answer, engines in zip(said, wanted, strict=True):
        # int8 has one range for all rows of a batch, so batch mates matter.
        assert answer["probabilities"] == pytest.approx(engines.probabilities, abs=1e-4 if precision == "float32" else 0.02)
        assert answer["kept"] == pytest.approx(engines.kept, abs=1e-4)


def test_a_graph_of_pairs(tokenizer_folder, tmp_path):
    """Its answers to single texts mean nothing."""
    export(save_model(tmp_path, tokenizer_folder, text_columns=("question", "sentence")), tmp_path / "exported")
    command = [sys.executable, EXAMPLES / "answer_by_graph.py", tmp_path / "exported"]
    done = subprocess.run(command, env=ENVIRONMENT, input="good film\n", capture_output=True, text=True)
    says = f"error: the model of {tmp_path / 'exported'} reads pairs of texts, and this script reads one text a line\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", says)


def test_a_graph_of_another_head(tokenizer_folder, tmp_path):
    """Its logits are of tokens."""
    tagger = TranskimmerForTokenClassification(dataclasses.replace(ARCH, num_labels=3), rngs=nnx.Rngs(0))
    tagger.save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder), label_names=("O", "A", "B"))
    export(tmp_path / "model", tmp_path / "exported")
    command = [sys.executable, EXAMPLES / "answer_by_graph.py", tmp_path / "exported"]
    done = subprocess.run(command, env=ENVIRONMENT, input="good film\n", capture_output=True, text=True)
    says = f"error: the model of {tmp_path / 'exported'} is no classifier of texts and no embedder\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", says)


def test_a_graph_of_short_vectors(tokenizer_folder, tmp_path):
    """As many columns as the folder has sentence-transformers take."""
    embedder = TranskimmerForSentenceEmbedding(ARCH, rngs=nnx.Rngs(0))
    embedder.save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder), settings=Settings(truncate_dim=8))
    export(tmp_path / "model", tmp_path / "exported")
    said = json.loads(run(tmp_path, EXAMPLES / "answer_by_graph.py", tmp_path / "exported", given="good film\n"))
    wanted = SkimEngine.from_pretrained(tmp_path / "model").encode("good film")
    assert len(said["vector"]) == 8 and said["vector"] == pytest.approx(wanted.tolist(), abs=1e-4)


def test_a_graph_of_labels_without_names(model, tmp_path):
    """As transformers names them: a config need not."""
    shutil.copytree(model, tmp_path / "unnamed")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    folders.replace_text(
        tmp_path / "unnamed" / "config.json", json.dumps({k: v for k, v in config.items() if k not in ("id2label", "label2id")})
    )
    export(tmp_path / "unnamed", tmp_path / "exported")
    said = json.loads(run(tmp_path, EXAMPLES / "answer_by_graph.py", tmp_path / "exported", given="good film\n"))
    assert set(said["probabilities"]) == {"LABEL_0", "LABEL_1"} and said["label"] in said["probabilities"]


@pytest.mark.slow
def test_fine_tuning(tokenizer_folder, tmp_path):
    """Twenty steps each; the same command again answers from what is there."""
    runs.write_model(tmp_path / "checkpoint", tokenizer_folder)
    records = runs.make_reviews(120, seed=0)
    runs.write_jsonl(tmp_path / "reviews.jsonl", records)
    options = ("--pretrained", "checkpoint", "--max-length", "12", "--steps", "20", "--target", "0.6")
    command = (EXAMPLES / "fine_tune.py", "reviews.jsonl", "--workdir", "run", *options)
    said = run(tmp_path, *command)
    assert re.search(r"^accuracy, validation +0\.\d+ +0\.\d+", said, re.MULTILINE)
    labelled = re.findall(r"^(pos|neg), \d+% of its tokens computed: (.*)$", said, re.MULTILINE)
    assert [text for _, text in labelled] == [record["text"] for record in records[:3]]
    assert run(tmp_path, *command) == said


@pytest.mark.slow
def test_a_cheaper_embedder(tokenizer_folder, tmp_path):
    runs.write_model(tmp_path / "embedder", tokenizer_folder)
    texts = "".join(f"{record['text']}\n" for record in runs.make_reviews(300, seed=1))
    (tmp_path / "texts.txt").write_text(texts, encoding="utf-8")
    options = ("--output", "run", "--pooling", "mean", "--steps", "20", "--target", "0.8")
    said = run(tmp_path, EXAMPLES / "cheaper_embedder.py", "embedder", "texts.txt", *options)
    assert 0.5 < float(re.search(r"of \d+ unseen texts: cosine with the teacher's vectors ([\d.]+),", said)[1]) <= 1
    assert re.search(r"^ten texts \d+% are the teacher's, at [\d.]+ times fewer FLOPs$", said, re.MULTILINE)
    assert re.findall(r"^(\w+): [\d,]+ texts a second$", said, re.MULTILINE) == ["teacher", "student"]


NOTEBOOK = """
import json, os, sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
print(json.dumps([[output for output in cell.get("outputs", [])] for cell in notebook.cells]))
"""


@pytest.mark.slow
def test_the_notebook(model, tmp_path, monkeypatch):
    """Every cell runs, in a kernel of its own."""
    monkeypatch.setitem(ENVIRONMENT, "SKIMMING_MODEL", str(model))
    outputs = json.loads(run(tmp_path, "-c", NOTEBOOK, EXAMPLES / "skimming.ipynb").splitlines()[-1])
    shown = ["".join(output.get("text", "") for output in cell) for cell in outputs]
    answers = [line for line in shown[1].splitlines() if re.match(r"(neg|pos), \d+% of the tokens computed", line)]
    assert len(answers) == 3
    (page,) = (output["data"]["text/html"] for output in outputs[3] if "data" in output)
    assert page.count("<p>") == 3 and page.count("<span") > 9
    assert len(shown[5].splitlines()) == 7 and re.fullmatch(r"dense: [\d,]+ texts a second\nskimming: [\d,]+ texts a second\n", shown[7])


def test_the_notebook_shows_what_it_printed():
    """It is kept with its outputs, and without a path of the machine that made them."""
    notebook = json.loads((EXAMPLES / "skimming.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 4 and all(cell["outputs"] for cell in cells)
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert not re.search(r"/(home|work|tmp|root)/", json.dumps(notebook))
