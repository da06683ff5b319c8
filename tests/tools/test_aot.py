"""Programs for TPU slices that are not here. Compiling them is slow and needs the libtpu package."""

import functools
import importlib.metadata
import json
import pathlib
import subprocess
import sys

import jax
import pytest
from backbones import tiny
from training import runs

from tools import topology
from tools.aot import main as tools_main
from tools.roofline import CHIPS
from transkimmer_jax.errors import ConfigError

ARCHITECTURE = {
    "model_type": "bert", "vocab_size": 1024, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 1024, "max_position_embeddings": 64, "type_vocab_size": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Shapes are enough: a folder without weights or tokenizer."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "config.json").write_text(json.dumps(ARCHITECTURE))
    return folder


# Whatever a recipe leaves out of the encoder that it is for.
WHOLE = ("--config.model.intermediate_size=none", "--config.model.layers=none")


def arguments(checkpoint, *more, name="v5e:2x2"):
    config = str(runs.TRAIN_PY.parent / "configs" / "glue_sst2.py")
    return ["--topology", name, "--config", config, f"--config.model.pretrained={checkpoint}", *WHOLE, *more]


@pytest.mark.parametrize("name", ["v5e", "v5e:", "v5e:4", "v5e:4x4x4", "v5e:0x4", "v5e:4*4", "v5p:2x2", "v99:2x2", ":2x2"])
def test_what_is_no_topology(name):
    with pytest.raises(ConfigError, match=f"no topology '{name.replace('*', '.')}'"):
        topology.parse(name)


def test_shapes():
    assert topology.parse("v5e:16x16")[1] == (16, 16) and topology.parse("v5p:2x2x4")[0].name == "TPU v5p"


def test_without_libtpu(monkeypatch, checkpoint):
    monkeypatch.setitem(sys.modules, "libtpu", None)  # an import of it fails
    with pytest.raises(ConfigError, match=r"compiling for TPUs needs libtpu, .*: pip install 'transkimmer_jax\[aot\]'"):
        tools_main(arguments(checkpoint))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch-per-chip", "0"), "--batch-per-chip must be at least 1, not 0"),
        (("--config.skim.targett=1",), "skim.targett"),
        (("--batch-per-chip=3", "--config.optimizer.accumulation=2"), "--batch-per-chip=3 must be a multiple of optimizer.accumulation=2"),
        (("--keep", "50,40,30"), r"--keep needs falling numbers in \(0, 1\], as 0.9,0.5,0.2, not 50,40,30"),
        (("--keep", "few"), "--keep must be numbers with commas between, or 'all', not 'few'"),
        (("--calibration", "."), "--calibration .: there is no skim_calibration.json"),
        (("--somewhere", "x"), "unknown argument '--somewhere'"),
    ],
)
def test_unusable_flags(checkpoint, more, message):
    with pytest.raises(ConfigError, match=message):
        tools_main(arguments(checkpoint, *more))


# Of each head, the config that trains it and what it has to be told.
CONFIGS = {
    "sequence_classification": ("glue_sst2", {}),
    "regression": ("glue_stsb", {}),
    "token_classification": ("files_tags", {"data.train_file": "tags.jsonl"}),
    "question_answering": ("squad_v2", {}),
    "sentence_embedding": ("distil", {"model.pooling": "mean", "model.compute_dtype": "bfloat16"}),
    "tags of a teacher": ("distil", {}),
}


@pytest.fixture
def compiled(tmp_path, monkeypatch, write):
    """The records of a config's programs, compiled for this machine as if it were a slice of one chip."""
    # LLVM's optimiser would take most of the time; what is counted is XLA's.
    quick = functools.partialmethod(jax.stages.Lowered.compile, compiler_options={"xla_backend_optimization_level": 0})
    monkeypatch.setattr(jax.stages.Lowered, "compile", quick)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0")  # libtpu need not be there
    monkeypatch.setattr(topology, "topology", lambda name: topology.Topology(name, CHIPS["v5e"], (1, 1), jax.devices()[:1]))
    write("tags.jsonl", [{"tokens": ["Ada", "sleeps"], "tags": ["B-PER", "O"]}])
    monkeypatch.chdir(tmp_path)

    def records(checkpoint, config, values, head, *more):
        values = {"model.pretrained": checkpoint, "skim.predictor_size": 8} | values
        settings = [f"--config.{name}={value}" for name, value in values.items()]
        path = runs.TRAIN_PY.parent / "configs" / f"{config}.py"
        sizes = ["--batch-per-chip", "2", "--length", "24", "--batch-tokens", "96", "--json", "records.json", *WHOLE]
        with jax.numpy_dtype_promotion("standard"):
            tools_main(["--topology", "v5e:1x1", "--config", str(path), *sizes, *settings, *more])
        found = json.loads(pathlib.Path("records.json").read_text(encoding="utf-8"))
        assert {record["head"] for record in found} == {head}
        return found

    return records


def tiny_checkpoint(folder, **values):
    """A folder of shapes."""
    small = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 400}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(ARCHITECTURE | small | values), encoding="utf-8")
    return folder


@pytest.mark.parametrize("case", CONFIGS)
def test_every_head(compiled, tmp_path, case):
    """The programs of whatever a config trains: with its labels, or its teacher's answers, and its head's outputs."""
    config, values = CONFIGS[case]
    head = {"regression": "sequence_classification", "tags of a teacher": "token_classification"}.get(case, case)
    checkpoint = tiny_checkpoint(tmp_path / "shapes")
    if config == "distil":
        tagger = {"architectures": ["BertForTokenClassification"], "id2label": {"0": "O", "1": "B-PER"}}
        teacher = tiny_checkpoint(tmp_path / "teacher", **(tagger if head == "token_classification" else {}))
        values = values | {"distill.teacher": teacher}
    costs = {record["program"]: record["flops"] for record in compiled(checkpoint, config, values, head)}
    assert list(costs) == ["training step", "evaluation step", "dense, packed", "compacted, all rows"]
    assert 0 < costs["evaluation step"] < costs["training step"]


@pytest.mark.parametrize("backbone", tiny.BACKBONES)
def test_every_backbone(compiled, backbone):
    records = compiled(tiny.folder(backbone), "glue_sst2", {}, "sequence_classification", "--programs", "train")
    assert [(record["program"], record["backbone"]) for record in records] == [("training step", backbone)]


@pytest.fixture(scope="module")
def records(checkpoint, libtpu, tmp_path_factory):
    """What the command writes of all programs, and of the training step with its weights split."""
    found = []
    for number, more in enumerate([("--keep", "0.5,0.3"), ("--programs", "train", "--config.mesh.fsdp=4")]):
        file = tmp_path_factory.mktemp("records") / f"{number}.json"
        command = arguments(checkpoint, "--config.model.compute_dtype=bfloat16", "--json", str(file), *more)
        done = subprocess.run([sys.executable, "-m", "tools.aot", *command], capture_output=True, text=True, cwd=runs.TRAIN_PY.parent)
        assert done.returncode == 0, done.stderr
        assert "collectives take" in done.stdout
        found.append({record["program"]: record for record in json.loads(file.read_text())})
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("v5e:3x3", (), "libtpu knows no topology 'v5e:3x3'"),
        ("v5e:2x2", ("--config.mesh.fsdp=3",), "mesh.data=1 x mesh.fsdp=3 are 3 devices, and there are 4"),
    ],
)
def test_slices_that_do_not_fit(libtpu, checkpoint, name, more, message):
    command = [sys.executable, "-m", "tools.aot", *arguments(checkpoint, *more, name=name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=runs.TRAIN_PY.parent)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"error: {message}"), done.stderr


@pytest.mark.slow
def test_every_program_is_compiled_and_bounded(records):
    whole = records[0]
    rungs = [f"compacted, {rows}" for rows in ("expected rows", "1.1x expected rows", "1.4x expected rows", "all rows")]
    assert list(whole) == ["training step", "evaluation step", "dense, packed", *rungs]
    for record in whole.values():
        assert record["chips"] == 4 and record["examples"] % 4 == 0
        assert 0 < record["memory_bytes"] < record["chip_memory_bytes"]
        assert record["step_seconds"] == max(record[name] for name in ("compute_seconds", "memory_seconds", "collective_seconds"))
        assert 0 < record["utilization"] <= 1
        # The compiler counts what is elementwise as well.
        assert 1 <= record["flops"] / record["model_flops"] < 1.1
    costs = [whole[rung]["flops"] for rung in rungs]
    assert costs == sorted(costs) and costs[0] < 0.7 * whole["dense, packed"]["flops"] < costs[-1]
    assert not any(whole[rung]["collectives"] for rung in rungs)


@pytest.mark.slow
def test_copies_reduce_their_gradients_and_parts_gather_their_weights(records):
    copies, parts = (found["training step"] for found in records)
    # Layers with predictors, pooler, embeddings.
    matrices = 2 * (4 * 256 * 256 + 2 * 256 * 1024 + 256 * 64) + 256 * 256 + (1024 + 64) * 256
    # Float32 gradients, or those of matrices in bfloat16 where the compiler converts them late; each chip sends 2 x 3/4 of them.
    assert 1.5 * 2 * matrices <= copies["sent_bytes"] <= 1.5 * 4 * 1.1 * matrices
    assert set(copies["collectives"]) == {"all-reduce"}
    # Weights for both passes and for the teacher's, and gradients, not activations: those of 32 x 64 tokens are many more.
    assert "all-gather" in parts["collectives"]
    assert parts["sent_bytes"] <= 3 / 4 * (2 * 4 + 4 + 2 * 4) * 1.1 * matrices
    assert parts["memory_bytes"] < copies["memory_bytes"]
