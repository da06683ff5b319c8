"""Laws of `transkimmer export`: what it writes answers as the engine does, without this package."""

import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from checkpoints.handmade import random_tensors, write_checkpoint
from cli.saved import save_dense, save_model, save_prompted
from safetensors.numpy import load_file
from training import quick, runs

from transkimmer_jax import TranskimmerForSequenceClassification, cli
from transkimmer_jax.checkpoints import folders
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.inference import export as work
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.hardware import hardware
from transkimmer_jax.inference.shapes import buckets, ladder
from transkimmer_jax.onnx.export import export as export_graph

SCRIPT = runs.TRAIN_PY.parent / "examples" / "run_exported.py"
LONG = " ".join(["good a b c film the is a bad"] * 5)  # 47 tokens, of which 40 are read
TEXTS = ["", LONG, *(LONG[:end] for end in range(60, 100, 6)), "bad film", *(record["text"] for record in runs.make_reviews(12, seed=7))]
BLOCKED = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("transkimmer_jax", "flax"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# Of the engine; what is exported is not compiled here.
pytestmark = pytest.mark.usefixtures("quickly_built_programs")


def main(arguments):
    cli.main(["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def model_folder(tokenizer_folder, tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("model"), tokenizer_folder, max_length=40)
    SkimEngine.from_pretrained(folder).calibrate(TEXTS).save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model_folder, tmp_path_factory):
    """All buckets for the CPU, with batches that hold a few texts."""
    folder = tmp_path_factory.mktemp("exported") / "export"
    main(["--model", model_folder, "--output", folder, "--batch-tokens", 160])
    return folder


@pytest.fixture(scope="module")
def engine(model_folder):
    return SkimEngine.from_pretrained(model_folder)


@pytest.fixture
def refusal(refused):
    return lambda *arguments: refused("export", *arguments)


def read_manifest(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def load_export(folder):
    """The example's model, in this process, with programs built quickly; it notes in `used` what it runs."""
    spec = importlib.util.spec_from_file_location("run_exported", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class QuicklyBuilt(module.ExportedModel):
        used = ()

        def _program(self, file):
            self.used = (*self.used, file)
            if file not in self.programs:
                program = jax.export.deserialize((self.folder / file).read_bytes())
                self.programs[file] = jax.jit(program.call, compiler_options=quick.QUICKLY_BUILT)
            return self.programs[file]

    return QuicklyBuilt(folder)


def run_alone(folder, texts, *arguments, cwd):
    """The example as a user without this package runs it."""
    script = [sys.executable, "-c", BLOCKED, str(SCRIPT), str(folder), *arguments, "--", *texts]
    done = subprocess.run(script, capture_output=True, text=True, cwd=cwd, env=os.environ | {"XLA_FLAGS": quick.FLAGS}, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_answers(answers, expected, atol=1e-5):
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer["logits"], wanted.logits, atol=atol, rtol=0)
        assert answer["label"] == wanted.label and answer["kept"] == pytest.approx(wanted.kept, rel=1e-6)


def test_round_trip(exported, engine, tmp_path):
    """In a process that can import neither this package nor flax."""
    expected = engine.predict(TEXTS, progress=False)
    assert {answer.label for answer in expected} == {"neg", "pos"} and len({answer.kept for answer in expected}) > 5
    assert_answers(run_alone(exported, TEXTS, cwd=tmp_path), expected)


def test_the_blocked_process_is_blocked(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import transkimmer_jax\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(script)], capture_output=True, text=True, cwd=runs.TRAIN_PY.parent, check=False
    )
    assert done.returncode == 1 and "transkimmer_jax is not to be had here" in done.stderr


def test_several_platforms(model_folder, engine, tmp_path, capsys):
    main(["--model", model_folder, "--output", tmp_path / "export", "--platforms", "cpu", "tpu", "--lengths", "40", "--batch-tokens", 80])
    manifest = read_manifest(tmp_path / "export")
    assert manifest["platforms"] == ["cpu", "tpu"]
    line = capsys.readouterr().out
    assert line.startswith(f"{tmp_path / 'export'}: {len(manifest['artifacts'])} programs for cpu, tpu, float32, ")
    for artifact in manifest["artifacts"]:
        program = jax.export.deserialize((tmp_path / "export" / artifact["file"]).read_bytes())
        assert program.platforms == ("cpu", "tpu")
    assert_answers(load_export(tmp_path / "export")(TEXTS), engine.predict(TEXTS, progress=False))


@pytest.mark.parametrize("platforms", [("cpu", "tpu"), ("tpu", "cpu")])
def test_sizes_are_those_of_the_accelerator(model_folder, tmp_path, platforms):
    """In whatever order platforms are named: a CPU beside it computes the accelerator's batches."""
    main(["--model", model_folder, "--output", tmp_path / "export", "--platforms", *platforms, "--lengths", "40"])
    assert {artifact["tokens"] for artifact in read_manifest(tmp_path / "export")["artifacts"]} == {hardware("tpu").batch_tokens}


def test_cuda_on_a_machine_without(model_folder, tmp_path):
    for dtype in ("float32", "bfloat16"):
        arguments = ["--platforms", "cuda", "--lengths", "40", "--dtype", dtype]
        main(["--model", model_folder, "--output", tmp_path / dtype, *arguments])
        manifest = read_manifest(tmp_path / dtype)
        program = jax.export.deserialize((tmp_path / dtype / manifest["artifacts"][0]["file"]).read_bytes())
        assert program.platforms == ("cuda",) and manifest["platforms"] == ["cuda"] and manifest["dtype"] == dtype
        assert manifest["artifacts"][0]["tokens"] == 16384, "an accelerator's batch, whatever this machine has"


def test_the_manifest_and_its_programs(exported, engine, model_folder):
    """Every program is what the manifest says, and the ladders are those of an engine with such batches, without the lowest rung."""
    manifest = read_manifest(exported)
    artifacts = manifest.pop("artifacts")
    assert manifest == {
        "format": "transkimmer_jax.export", "format_version": 1, "jax_version": jax.__version__, "platforms": ["cpu"],
        "dtype": "float32", "label_names": ["neg", "pos"], "multi_label": False, "pairs": False, "prompt": "", "vector_size": None,
        "raw_scores": False, "max_length": 40,
        "threshold": 0.25, "weights": "weights.safetensors",
    }  # fmt: skip
    arch, calibration = engine.arch, Calibration.load(model_folder, 3)
    used = buckets(hardware("cpu"), 40, 160, None, arch.num_attention_heads)
    ladders = [rung for large, _ in used for rung in enumerate(dict.fromkeys(ladder(large, arch, calibration, 8)[1:]))]
    assert len(used) == 3 and len(ladders) > 5
    for artifact, (rung, schedule) in zip(artifacts, ladders, strict=True):
        assert artifact["rung"] == rung and artifact["layers"] == [list(layer) for layer in schedule.layers]
        assert [artifact[name] for name in ("sequences", "tokens", "width")] == [
            getattr(schedule.bucket, name) for name in ("sequences", "tokens", "width")
        ]
        program = jax.export.deserialize((exported / artifact["file"]).read_bytes())
        (weights, *inputs), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
        tokens, sequences = artifact["tokens"], artifact["sequences"]
        assert [(aval.shape, aval.dtype) for aval in inputs] == [
            ((1, tokens), np.int32), ((1, tokens), np.int32), ((1, sequences), np.int32), ((), np.float32),
        ]  # fmt: skip
        assert {name: (aval.shape, aval.dtype) for name, aval in weights.items()} == {
            name: (array.shape, array.dtype) for name, array in load_file(exported / "weights.safetensors").items()
        }
        outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
        assert {name: aval.shape for name, aval in outputs.items()} == {
            "logits": (1, sequences, 2), "kept": (1, 3, sequences), "overflow": (1,),
        }  # fmt: skip
    assert sorted(path.name for path in exported.iterdir()) == sorted(
        [
            *(artifact["file"] for artifact in artifacts),
            "manifest.json",
            "weights.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "SHA256SUMS",
        ]
    )
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in exported.iterdir()), "others may read it"


def test_weights_are_stored_once(exported):
    weights = load_file(exported / "weights.safetensors")
    assert "encoder/layers/0/up/kernel" in weights and "embeddings/word/embedding" in weights
    table = weights["embeddings/word/embedding"].tobytes()
    assert table in (exported / "weights.safetensors").read_bytes()
    for path in exported.glob("*.jax_export"):
        assert table[:64] not in path.read_bytes()


@pytest.mark.parametrize("threshold", ["-inf", "-0.5", "1.0", "inf"])
def test_climbing(exported, engine, threshold):
    """Thresholds at which texts keep more than the cheap rungs hold, or less."""
    model = load_export(exported)
    answers = model(TEXTS, threshold=float(threshold))
    assert_answers(answers, engine.predict(TEXTS, threshold=float(threshold), progress=False))
    rungs = {int(file.partition("rung")[2].partition(".")[0]) for file in model.used}
    widths = {file.partition("_")[0] for file in model.used}
    assert widths == {"width16", "width32", "width40"}, "the narrowest that fit"
    assert (rungs == {0}) if threshold in ("1.0", "inf") else (max(rungs) > 0)
    assert threshold != "-inf" or max(rungs) > 1, "who keeps everything climbs further"


def test_bfloat16(model_folder, tmp_path):
    """Weights keep their dtype and their bits."""
    main(["--model", model_folder, "--output", tmp_path / "export", "--dtype", "bfloat16", "--batch-tokens", 160])
    engine = SkimEngine.from_pretrained(
        model_folder, runtime="jax", precision="bfloat16", batch_tokens=160
    )  # else it rounds in other shapes
    weights = load_file(tmp_path / "export" / "weights.safetensors")
    for path, leaf in jax.tree_util.tree_leaves_with_path(engine.runtime.programs.params):
        stored = weights.pop("/".join(str(entry.key) for entry in path if hasattr(entry, "key")))
        assert stored.dtype == leaf.dtype and stored.tobytes() == np.asarray(leaf).tobytes()
    assert not weights
    assert_answers(run_alone(tmp_path / "export", TEXTS, cwd=tmp_path), engine.predict(TEXTS, progress=False), atol=1e-5)


def test_lengths(model_folder, refusal, tmp_path, capsys):
    arguments = ["--model", model_folder, "--output", tmp_path / "export", "--batch-tokens", 160]
    main([*arguments, "--lengths", "3", "33", "16"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("; widths: 16, 40") and lines == [
        "texts of 3 tokens are answered by the programs of width 16", "texts of 33 tokens are answered by the programs of width 40",
    ]  # fmt: skip
    assert {artifact["width"] for artifact in read_manifest(tmp_path / "export")["artifacts"]} == {16, 40}
    main([*arguments, "--lengths", "17"])
    assert capsys.readouterr().out.endswith("texts of more than 32 tokens are not answered\n")
    assert {artifact["width"] for artifact in read_manifest(tmp_path / "export")["artifacts"]} == {32}, "the older one is replaced"
    assert not list((tmp_path / "export").glob("width16*"))
    assert "0 is not in the range x>=1" in refusal(*arguments, "--lengths", "3", 0)
    assert refusal(*arguments, "--lengths", "3", 41) == "no text has 41 tokens: the model reads 1 to 40; correct --lengths"
    with pytest.raises(SystemExit, match="a text has 40 tokens, and .*/export holds programs for at most 32: export more --lengths"):
        load_export(tmp_path / "export")([LONG])


def test_threshold_of_the_manifest(model_folder, tmp_path, engine):
    """The default of whoever runs it; the programs take any."""
    main(["--model", model_folder, "--output", tmp_path / "export", "--threshold=-0.5", "--lengths", 16, "--batch-tokens", 160])
    assert read_manifest(tmp_path / "export")["threshold"] == -0.5
    model, texts = load_export(tmp_path / "export"), ["", "bad film", "a good film", "the film is bad"]
    answers = model(texts)
    assert_answers(answers, engine.predict(texts, threshold=-0.5, progress=False))
    assert answers != model(texts, threshold=0.25)
    with pytest.raises(ConfigError, match="threshold must be a finite number, not inf"):
        work.export(model_folder, tmp_path / "other", threshold=np.inf)
    assert not (tmp_path / "other").exists()


def test_rungs_are_of_the_threshold(model_folder, engine, tmp_path, caplog):
    """A calibration has room for thresholds from its own on; at a lower one programs have room for all, and a line says what to do."""

    def layers(*arguments):
        caplog.clear()
        main(["--model", model_folder, "--output", tmp_path / "export", "--lengths", 40, "--batch-tokens", 160, *arguments])
        return [artifact["layers"] for artifact in read_manifest(tmp_path / "export")["artifacts"]]

    calibrated = layers()
    assert len(calibrated) > 1 and layers("--threshold=0.25") == calibrated and not caplog.messages
    assert layers("--threshold=0.8") == calibrated
    (said,) = caplog.messages
    assert said == (
        f"{model_folder} is calibrated for threshold 0.25: programs for 0.8 have room for what that keeps;"
        f" SkimEngine.calibrate(texts, threshold=0.8).save({str(model_folder)!r}) makes smaller ones"
    )
    ((rows, *_),) = layers("--threshold=-0.5")
    assert rows == [160, 40] and "programs for -0.5 have room for all tokens" in caplog.messages[0]


def test_pairs(tokenizer_folder, tmp_path, capsys):
    model = save_model(tmp_path, tokenizer_folder, text_columns=("question", "sentence"), max_length=40)
    main(["--model", model, "--output", tmp_path / "export", "--batch-tokens", 160])
    assert read_manifest(tmp_path / "export")["pairs"] is True
    pairs = [("a good film", "is"), ("", ""), ("bad", LONG)]
    expected = SkimEngine.from_pretrained(model).predict(pairs, progress=False)
    assert_answers(run_alone(tmp_path / "export", [text for pair in pairs for text in pair], cwd=tmp_path), expected)


def test_a_folder_that_does_not_say_whether_it_reads_pairs(tokenizer_folder, tmp_path):
    """As a cross-encoder of sentence-transformers: whoever runs the export says it, as one score of two texts is not two scores."""
    model = save_model(tmp_path, tokenizer_folder, max_length=40)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    folders.replace_text(model / "config.json", json.dumps({name: value for name, value in config.items() if name != "task"}))
    main(["--model", model, "--output", tmp_path / "export", "--batch-tokens", 160, "--lengths", 12])
    assert read_manifest(tmp_path / "export")["pairs"] is None
    engine, texts = SkimEngine.from_pretrained(model), ["a good film", "is"]
    assert_answers(run_alone(tmp_path / "export", texts, "--pairs", cwd=tmp_path), engine.predict([tuple(texts)], progress=False))
    command = [sys.executable, SCRIPT, tmp_path / "export", *texts]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "the export does not say whether the model reads pairs of texts: give --pairs or --no-pairs" in refused.stderr


@pytest.mark.parametrize("columns", [("text",), ("question", "sentence")])
def test_a_default_prompt(tokenizer_folder, tmp_path, columns):
    """Stands before texts, or the first of a pair, as the engine has it."""
    model = save_prompted(tmp_path / "own", save_model(tmp_path, tokenizer_folder, text_columns=columns, max_length=40), "bad films ")
    main(["--model", model, "--output", tmp_path / "export", "--batch-tokens", 160])
    texts = TEXTS if len(columns) == 1 else [("a good film", "is"), ("", ""), ("bad", LONG)]
    assert_answers(load_export(tmp_path / "export")(texts), SkimEngine.from_pretrained(model).predict(texts, progress=False))


def test_regression(tokenizer_folder, tmp_path):
    model = save_model(tmp_path, tokenizer_folder, config=runs.TINY | {"id2label": {"0": "LABEL_0"}}, label_names=None, max_length=40)
    main(["--model", model, "--output", tmp_path / "export", "--batch-tokens", 160])
    assert read_manifest(tmp_path / "export")["label_names"] is None
    answers = load_export(tmp_path / "export")(TEXTS)
    for answer, wanted in zip(answers, SkimEngine.from_pretrained(model).predict(TEXTS, progress=False), strict=True):
        assert answer["label"] == pytest.approx(wanted.label, abs=1e-5)


def test_dense(model_folder, tokenizer_folder, tmp_path):
    """A model without predictors has one program a bucket, and keeps everything."""
    first = write_checkpoint(tmp_path / "dense", random_tensors(runs.TINY, seed=2), runs.TINY)
    TranskimmerForSequenceClassification.from_pretrained(first, dense=True).save_pretrained(
        tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder), label_names=("neg", "pos")
    )
    main(["--model", tmp_path / "model", "--output", tmp_path / "export", "--batch-tokens", 160])
    assert [artifact["rung"] for artifact in read_manifest(tmp_path / "export")["artifacts"]] == [0, 0, 0]
    answers = load_export(tmp_path / "export")(TEXTS)
    assert {answer["kept"] for answer in answers} == {1.0}
    assert_answers(answers, SkimEngine.from_pretrained(tmp_path / "model").predict(TEXTS, progress=False))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "..", "", 5, "a\\b"])
def test_a_manifest_that_leads_elsewhere(exported, tmp_path, name):
    """The weights of whoever runs an export are those beside the manifest."""
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    shutil.copy(exported / "weights.safetensors", tmp_path / "outside.safetensors")
    saved = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(saved | {"weights": name}), encoding="utf-8")
    with pytest.raises(SystemExit, match="which is not a file beside it"):
        load_export(folder)


@pytest.mark.parametrize("manifest", [None, '{"name": "a web application"}', "[]", "nonsense"])
def test_a_folder_with_something_else(model_folder, refusal, tmp_path, manifest):
    target = tmp_path / "precious"
    target.mkdir()
    (target / "thesis.tex").write_text("years", encoding="utf-8")
    if manifest is not None:
        (target / "manifest.json").write_text(manifest, encoding="utf-8")
    complaint = f"{target} holds files and is no export to replace (manifest.json is missing or foreign): choose a new folder"
    assert refusal("--model", model_folder, "--output", target, "--lengths", "12") == complaint
    assert (target / "thesis.tex").read_text(encoding="utf-8") == "years"


def test_a_file_beside_an_older_export(model_folder, refusal, tmp_path):
    target = tmp_path / "export"
    main(["--model", model_folder, "--output", target, "--lengths", "12"])
    (target / "thesis.tex").write_text("years", encoding="utf-8")
    complaint = f"{target}/thesis.tex is not as this package wrote it, and would be deleted: move it, or choose a new folder"
    assert refusal("--model", model_folder, "--output", target, "--lengths", "12") == complaint
    assert (target / "thesis.tex").read_text(encoding="utf-8") == "years"


def test_an_empty_folder_is_taken(model_folder, tmp_path):
    (tmp_path / "export").mkdir()
    main(["--model", model_folder, "--output", tmp_path / "export", "--lengths", "12"])
    assert read_manifest(tmp_path / "export")["artifacts"]


def test_outputs_that_cannot_be_written(model_folder, refusal, tmp_path, monkeypatch):
    """Nothing is left behind, and what was there stays."""
    target = tmp_path / "export"
    arguments = ["--model", model_folder, "--output", target, "--lengths", "12"]
    main(arguments)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(work, "save_file", full)
    assert refusal(*arguments).startswith(f"cannot write {target}: no space left on the disk")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    (tmp_path / "file").touch()
    complaint = f"cannot write {tmp_path / 'file'}: there is a file where a folder is needed"
    assert refusal("--model", model_folder, "--output", tmp_path / "file", "--lengths", "12") == complaint


def test_refusals(model_folder, tokenizer_folder, refusal, tmp_path):
    target = ("--output", tmp_path / "export")
    assert refusal("--model", tmp_path / "nowhere", *target) == f"no checkpoint folder {str(tmp_path / 'nowhere')!r}"
    dense = save_dense(tmp_path / "dense", model_folder, tokenizer_folder)
    for form in ("jax", "onnx"):
        complaint = f"threshold=0.5 is of skimming models, and {dense} is a dense one: leave it out"
        assert refusal("--model", dense, *target, "--threshold", 0.5, "--format", form) == complaint
    for export in (work.export, export_graph):
        with pytest.raises(ConfigError, match=f"^{re.escape(complaint)}$"):
            export(dense, tmp_path / "export", threshold=0.5)
    model = write_checkpoint(tmp_path / "eq4", random_tensors(runs.TINY, predictor_size=16), runs.TINY)
    shutil.copytree(tokenizer_folder, model, dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"skim": {"attention_masking": "post_softmax"}}), encoding="utf-8")
    assert "attention_masking='post_softmax' cannot be compacted" in refusal("--model", model, *target)
    assert not (tmp_path / "export").exists()
