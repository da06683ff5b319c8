"""Laws of `python -m transkimmer_jax export --format onnx`: other people's clients load what it writes, and answer as this package does."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from checkpoints.handmade import random_tensors, write_checkpoint
from cli.saved import save_model
from etils import epath
from flax import nnx
from models.quick import program
from training import runs
from transformers import AutoTokenizer

from transkimmer_jax import TranskimmerForSentenceEmbedding, TranskimmerForSequenceClassification, cli, console
from transkimmer_jax.checkpoints import files, folders, sentence_transformers
from transkimmer_jax.checkpoints.sentence_transformers import Settings
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.pipeline import load_tokenizer, tokenize
from transkimmer_jax.errors import CheckpointError, ConfigError, InferenceError
from transkimmer_jax.inference import onnx_runtime
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture, SkimArchitecture
from transkimmer_jax.onnx.export import export
from transkimmer_jax.onnx.graph import build
from transkimmer_jax.onnx.sessions import OnnxRuntimeSession, OpenVinoSession

TEXTS = ["good film", "", "the film is bad a b c", *(record["text"] for record in runs.make_reviews(5, seed=7))]
NAMES = ("input_ids", "attention_mask", "token_type_ids")
OPTIMUM = ("optimum[onnxruntime]==2.1.*", "optimum-onnx==0.1.*", "transformers==4.57.*", "sentence-transformers", "torch")


def main(arguments):
    cli.main(["export", "--format", "onnx", *map(str, arguments)])


@pytest.fixture(scope="module")
def model_folder(tokenizer_folder, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_folder, max_length=40)


@pytest.fixture(scope="module")
def exported(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "export"
    main(["--model", model_folder, "--output", folder, "--precision", "float32", "int8"])
    return folder


@pytest.fixture(scope="module")
def exported_embedder(tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    make_embedder("mean").save_pretrained(folder / "model", tokenizer=load_tokenizer(tokenizer_folder))
    main(["--model", folder / "model", "--output", folder / "export"])
    return folder / "export"


def make_embedder(mode):
    arch = Architecture(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16,
        initializer_range=0.3, skim=SkimArchitecture(predictor_size=4, initial_bias=0.0),
        pooling=PoolingArchitecture(mode, True),
    )  # fmt: skip
    return TranskimmerForSentenceEmbedding(arch, rngs=nnx.Rngs(1))


@pytest.fixture(scope="module")
def batch(exported):
    """The texts as the exported tokenizer writes them."""
    return {name: np.asarray(values) for name, values in AutoTokenizer.from_pretrained(exported)(TEXTS, padding=True).items()}


@functools.cache
def model_of(folder):
    return TranskimmerForSequenceClassification.from_pretrained(folder)


def answers_of(model_folder, batch, threshold=0.25):
    """The masked model's. 0.25 is the folder's own threshold."""
    return jax.device_get(program(model_of(model_folder))(*(batch[name] for name in NAMES), threshold=np.float32(threshold)))


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_layout(exported, model_folder):
    assert sorted(files_of(exported)) == [
        "SHA256SUMS", "config.json", "onnx/model.onnx", "onnx/model_quantized.onnx", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    saved = json.loads((model_folder / "config.json").read_text())
    assert json.loads((exported / "config.json").read_text()) == saved | {"model_type": "bert"}, "as transformers knows it"
    tokenizer_class = json.loads((exported / "tokenizer_config.json").read_text())["tokenizer_class"]
    assert tokenizer_class == "PreTrainedTokenizerFast", "which transformers 4 knows, too"
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in exported.rglob("*")), "others may read it"


def test_into_a_bucket(exported, model_folder, bucket, capsys):
    """As into a folder, and again; never over what is none of ours."""
    for _ in range(2):
        main(["--model", model_folder, "--output", bucket, "--precision", "float32", "int8"])
    assert files.names_below(epath.Path(bucket)) == sorted(files_of(exported))
    (epath.Path(bucket) / "thesis.tex").write_text("years")
    capsys.readouterr()
    assert console.run(main, ["--model", model_folder, "--output", bucket]) == 2
    assert f"{bucket}/thesis.tex is not as this package wrote it" in capsys.readouterr().err


def test_a_bare_session(exported, model_folder, batch):
    session = onnxruntime.InferenceSession(exported / "onnx" / "model.onnx")
    assert [given.name for given in session.get_inputs()] == list(NAMES), "a client need not know of the threshold"
    feeds = {name: batch[name] for name in NAMES}
    expected = answers_of(model_folder, batch)
    assert 0 < expected.keep.sum() < 3 * batch["attention_mask"].sum(), "some tokens are skimmed, not all"
    logits, kept = session.run(["logits", "kept"], feeds)
    np.testing.assert_allclose(logits, expected.logits, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(kept, expected.keep.sum(axis=2))
    (lower,) = session.run(["logits"], feeds | {"threshold": np.array(-0.5, np.float32)})
    np.testing.assert_allclose(lower, answers_of(model_folder, batch, threshold=-0.5).logits, atol=1e-5, rtol=0)


def test_openvino(exported, model_folder, batch):
    answers = OpenVinoSession(exported / "onnx" / "model.onnx").run(*(batch[name] for name in NAMES))
    np.testing.assert_allclose(answers["logits"], answers_of(model_folder, batch).logits, atol=1e-5, rtol=0)


def test_the_quantised_file(exported, batch):
    """Smaller by what the layers' products weigh, with answers that are close; the decisions' products are as they were."""
    exact, quantised = (OnnxRuntimeSession(exported / "onnx" / name) for name in ("model.onnx", "model_quantized.onnx"))
    arguments = [batch[name] for name in NAMES]
    error = np.abs(quantised.run(*arguments)["logits"] - exact.run(*arguments)["logits"])
    assert 0 < error.mean() < 0.05
    nodes = onnx.load(exported / "onnx" / "model_quantized.onnx").graph.node
    assert any(node.op_type == "MatMulInteger" for node in nodes)
    assert not any(node.op_type == "MatMulInteger" for node in nodes if not node.name.startswith("layers."))


@pytest.mark.parametrize("pinned", [None, "first_segment"])
def test_a_tokenizer_without_token_types(tokenizer_folder, tmp_path, pinned):
    """A session fed by the tokenizer needs no more, though the backbone has two types; but where types say what stays. An engine that
    takes such a graph refuses types that it would not read."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, model_input_names=["input_ids", "attention_mask"])
    first = write_checkpoint(tmp_path / "first", random_tensors(runs.TINY, predictor_size=16, seed=2), runs.TINY)
    model = TranskimmerForSequenceClassification.from_pretrained(first, skim_overrides={"pinned": pinned})
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    main(["--model", tmp_path / "model", "--output", tmp_path / "model"])
    session = onnxruntime.InferenceSession(tmp_path / "model" / "onnx" / "model.onnx")
    needed = [given.name for given in session.get_inputs()]
    assert needed == ["input_ids", "attention_mask", *(["token_type_ids"] if pinned else [])]
    if pinned:
        return
    examples = tokenize(Examples(TEXTS, None, np.zeros(len(TEXTS), np.int32)), tokenizer, 12)
    engine, in_memory = SkimEngine.from_pretrained(tmp_path / "model"), SkimEngine(model, tokenizer)
    logits, expected = (one.predict_tokenized(examples).outputs["logits"] for one in (engine, in_memory))
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)
    encoded = tokenizer(TEXTS, padding=True, truncation=True, max_length=12, return_tensors="np")
    np.testing.assert_allclose(session.run(["logits"], dict(encoded))[0], expected, atol=1e-5, rtol=0)
    typed = dataclasses.replace(examples, token_type_ids=np.ones_like(examples.token_type_ids))
    with pytest.raises(InferenceError, match="the folder's graph reads no token types"):
        engine.predict_tokenized(typed)
    assert np.abs(in_memory.predict_tokenized(typed).outputs["logits"] - expected).max() > 1e-3


def test_a_backbone_without_token_types(tokenizer_folder, tmp_path):
    """As DeBERTa, whose tokenizers give them all the same: that of the export gives what the graph reads, no more."""
    arch = Architecture(
        backbone="deberta-v2", vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24, type_vocab_size=0, position_buckets=8, max_relative_positions=24,
    )  # fmt: skip
    model = TranskimmerForSequenceClassification(arch, rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder))
    assert "token_type_ids" in AutoTokenizer.from_pretrained(tmp_path / "model").model_input_names
    main(["--model", tmp_path / "model", "--output", tmp_path / "export"])
    session = onnxruntime.InferenceSession(tmp_path / "export" / "onnx" / "model.onnx")
    encoded = AutoTokenizer.from_pretrained(tmp_path / "export")(TEXTS, padding=True, truncation=True, return_tensors="np")
    logits, expected = session.run(["logits"], dict(encoded))[0], SkimEngine.from_pretrained(tmp_path / "model").predict(TEXTS)
    np.testing.assert_allclose(logits, [answer.logits for answer in expected], atol=1e-5, rtol=0)


def test_a_threshold_of_its_own(model_folder, tmp_path, batch):
    main(["--model", model_folder, "--output", tmp_path / "export", "--threshold=-0.5"])
    assert sorted(path.name for path in (tmp_path / "export" / "onnx").iterdir()) == ["model.onnx"]
    assert json.loads((tmp_path / "export" / "config.json").read_text())["skim"]["threshold"] == -0.5
    logits = OnnxRuntimeSession(tmp_path / "export" / "onnx" / "model.onnx").run(*(batch[name] for name in NAMES))["logits"]
    np.testing.assert_allclose(logits, answers_of(model_folder, batch, threshold=-0.5).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": np.inf}, "threshold must be a finite number, not inf"),
        ({"threshold": "0.5"}, "threshold must be a finite number, not '0.5'"),
        ({"threshold": True}, "threshold must be a finite number, not True"),
        ({"precisions": "int8"}, "precisions must be a list of one or more of float32, int8, not 'int8'"),
        ({"precisions": ["int8", "int4"]}, "precisions must be a list of one or more of float32, int8, not ['int8', 'int4']"),
        ({"precisions": []}, "precisions must be a list of one or more of float32, int8, not []"),
    ],
    ids=str,
)
def test_exports_that_are_none(model_folder, tmp_path, options, says):
    with pytest.raises(ConfigError) as refused:
        export(model_folder, tmp_path / "export", **options)
    assert str(refused.value) == says and not (tmp_path / "export").exists()


def test_a_threshold_of_numpy(model_folder, tmp_path):
    export(model_folder, tmp_path / "export", threshold=np.float32(0.5))
    assert json.loads((tmp_path / "export" / "config.json").read_text(encoding="utf-8"))["skim"]["threshold"] == 0.5


def test_a_dense_model(tokenizer_folder, tmp_path, batch):
    first = write_checkpoint(tmp_path / "first", random_tensors(runs.TINY, seed=2), runs.TINY)
    model = TranskimmerForSequenceClassification.from_pretrained(first, dense=True)
    model.save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder))
    main(["--model", tmp_path / "model", "--output", tmp_path / "export"])
    answers = OnnxRuntimeSession(tmp_path / "export" / "onnx" / "model.onnx").run(*(batch[name] for name in NAMES))
    np.testing.assert_allclose(answers["logits"], program(model)(*(batch[name] for name in NAMES)).logits, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(answers["kept"], np.broadcast_to(batch["attention_mask"].sum(axis=1), answers["kept"].shape))


def test_beside_the_weights(tokenizer_folder, tmp_path, capsys):
    """The model folder itself gets the graphs, as folders on the hub have them, and again; all else stays."""
    model = save_model(tmp_path, tokenizer_folder)
    before = files_of(model)
    for _ in range(2):
        main(["--model", model, "--output", model])
        after = files_of(model)
        assert after.pop("onnx/model.onnx") and after.pop("onnx/SHA256SUMS") and after == before
    assert capsys.readouterr().out.splitlines() == [str(model / "onnx" / "model.onnx")] * 2
    shutil.copytree(model, tmp_path / "copy")
    model_of(model).save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / "onnx").exists(), "graphs of ours go with the model that they are of"
    before = files_of(model)
    assert console.run(main, ["--model", model, "--output", model, "--threshold", "0.5"]) == 2
    remedy = "give a new folder, or set that by evaluate --apply, and export then"
    said = f"error: a graph in {model} has the threshold of its config.json: {remedy}"
    assert capsys.readouterr().err == f"{said}\n" and files_of(model) == before


def test_an_engine_takes_the_graph_of_its_folder(tokenizer_folder, tmp_path, monkeypatch, caplog):
    """It need neither be built nor quantised; nor is one taken of other weights or fields, of depths that it lacks, or that is damaged."""
    caplog.set_level("WARNING", "transkimmer_jax")
    model = save_model(tmp_path, tokenizer_folder)
    expected = {precision: SkimEngine.from_pretrained(model, precision=precision).predict(TEXTS) for precision in ("float32", "int8")}
    main(["--model", model, "--output", model, "--precision", "float32", "int8"])
    built = []
    monkeypatch.setattr(onnx_runtime, "build", lambda *arguments, **options: built.append(options) or build(*arguments, **options))
    for precision, answers in expected.items():
        engine = SkimEngine.from_pretrained(model, precision=precision)
        np.testing.assert_array_equal([answer.logits for answer in engine.predict(TEXTS)], [answer.logits for answer in answers])
    assert built == [] and caplog.messages == []
    SkimEngine.from_pretrained(model, depths=True)
    SkimEngine.from_pretrained(model, dense=True)
    SkimEngine.from_pretrained(model, pooling="mean")
    assert len(built) == 3 and caplog.messages == []
    other = save_model(tmp_path / "other", tokenizer_folder, tensors=random_tensors(runs.TINY, predictor_size=16, seed=3))
    (other / "onnx").mkdir()
    (other / "onnx" / "model.onnx").write_bytes((model / "onnx" / "model.onnx").read_bytes())
    (other / "onnx" / "model_quantized.onnx").write_bytes(b"junk")
    for precision in ("float32", "int8"):
        SkimEngine.from_pretrained(other, precision=precision)
    assert len(built) == 5
    says = "model.onnx is of other weights or another config.json than the folder's: the graph is built anew; export it again"
    assert says in caplog.messages[0]
    assert "model_quantized.onnx cannot be read (" in caplog.messages[1] and len(caplog.messages) == 2
    config = json.loads((model / "config.json").read_text())
    folders.replace_text(model / "config.json", json.dumps(config | {"layer_norm_eps": 0.1}))
    SkimEngine.from_pretrained(model)
    assert says in caplog.messages[2] and len(built) == 6
    folders.replace_text(model / "config.json", json.dumps(config | {"skim": config["skim"] | {"threshold": 0.5}}))
    SkimEngine.from_pretrained(model)
    assert len(caplog.messages) == 3 and len(built) == 6, "the threshold is an input"


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_damaged_graph_is_refused(tokenizer_folder, tmp_path, precision):
    """One flipped bit of a weight is another model, whose answers look like any others."""
    model = save_model(tmp_path, tokenizer_folder)
    main(["--model", model, "--output", model, "--precision", "float32", "int8"])
    path = model / "onnx" / ("model.onnx" if precision == "float32" else "model_quantized.onnx")
    content = path.read_bytes()
    weight = max((tensor.raw_data for tensor in onnx.load(path).graph.initializer), key=len)
    damaged = bytearray(content)
    damaged[content.index(weight) + len(weight) // 2] ^= 64
    path.write_bytes(damaged)
    onnx.load(path)
    with pytest.raises(CheckpointError) as refused:
        SkimEngine.from_pretrained(model, precision=precision)
    assert str(refused.value) == (
        f"{path} is not the file that was written (its sha256 differs from that in {model}/onnx/SHA256SUMS): restore it, or delete its "
        "line there if you changed it on purpose"
    )
    path.write_bytes(content)
    SkimEngine.from_pretrained(model, precision=precision)


def test_an_older_export_is_replaced_and_nothing_else(model_folder, exported, tmp_path, capsys):
    target = tmp_path / "export"
    main(["--model", model_folder, "--output", target, "--precision", "float32", "int8"])
    main(["--model", model_folder, "--output", target])
    assert {path.name for path in (target / "onnx").iterdir()} == {"model.onnx"}
    (target / "onnx" / "thesis.onnx").write_text("years", encoding="utf-8")
    capsys.readouterr()
    assert console.run(main, ["--model", model_folder, "--output", target]) == 2
    complaint = f"error: {target}/onnx/thesis.onnx is not as this package wrote it, and would be deleted: move it, or choose a new folder\n"
    assert capsys.readouterr().err == complaint
    assert (target / "onnx" / "thesis.onnx").read_text(encoding="utf-8") == "years"
    (target / "onnx" / "thesis.onnx").unlink()
    (target / ".git").mkdir()
    (target / ".git" / "HEAD").write_text("years", encoding="utf-8")
    assert console.run(main, ["--model", model_folder, "--output", target]) == 2
    assert capsys.readouterr().err == complaint.replace("onnx/thesis.onnx", ".git/HEAD")
    shutil.rmtree(target / ".git")
    (target / "model-00001-of-00002.safetensors").write_bytes(b"weights")
    assert console.run(main, ["--model", model_folder, "--output", target]) == 2
    assert capsys.readouterr().err == f"error: {target} holds files and is no export to replace: choose a new folder\n"


def test_graphs_of_another_exporter(tokenizer_folder, tmp_path, capsys, caplog):
    """Beside a model's weights: an engine leaves them alone, without a warning, and an export does not delete them."""
    caplog.set_level("WARNING", "transkimmer_jax")
    model = save_model(tmp_path, tokenizer_folder)
    expected = SkimEngine.from_pretrained(model).predict(TEXTS)
    main(["--model", model, "--output", model])
    graph = onnx.load(model / "onnx" / "model.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, model / "onnx" / "model.onnx")
    capsys.readouterr()
    assert console.run(main, ["--model", model, "--output", model]) == 2
    assert f"error: {model}/onnx/model.onnx is not as this package wrote it" in capsys.readouterr().err
    answers = SkimEngine.from_pretrained(model).predict(TEXTS)
    np.testing.assert_array_equal([answer.logits for answer in answers], [answer.logits for answer in expected])
    assert caplog.messages == []


@pytest.mark.parametrize("flag", [("--platforms", "cpu"), ("--lengths", "12"), ("--batch-tokens", "80"), ("--dtype", "float32")])
def test_flags_of_the_other_format(model_folder, tmp_path, capsys, flag):
    assert console.run(main, ["--model", model_folder, "--output", tmp_path / "export", *flag]) == 2
    assert capsys.readouterr().err == f"error: {flag[0]} is for --format jax, not onnx\n"
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_an_embedder(tokenizer_folder, tmp_path, mode):
    """Clients that pool themselves find the tokens' states under both names that they look for, and the files that say how; an engine
    takes its folder's graph."""
    settings, task = Settings({"query": "the "}, similarity="dot", truncate_dim=8), {"max_length": 12}
    model = make_embedder(mode)
    model.save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tokenizer_folder), settings=settings, extra_config={"task": task})
    main(["--model", tmp_path / "model", "--output", tmp_path / "graph"])
    main(["--model", tmp_path / "model", "--output", tmp_path / "model"])
    graph = onnxruntime.InferenceSession(tmp_path / "graph" / "onnx" / "model.onnx")
    assert [output.name for output in graph.get_outputs()] == ["last_hidden_state", "token_embeddings", "sentence_embedding", "kept"]
    engine = SkimEngine.from_pretrained(tmp_path / "model")
    expected = SkimEngine(model, load_tokenizer(tokenizer_folder), max_length=12).encode(TEXTS[2:], show_progress_bar=False)
    np.testing.assert_allclose(engine.encode(TEXTS[2:], show_progress_bar=False), expected[:, :8], atol=1e-6)
    batch = AutoTokenizer.from_pretrained(tmp_path / "graph")(TEXTS[2:], padding=True, truncation=True, max_length=12, return_tensors="np")
    states, again, vectors, _ = graph.run(None, {name: batch[name] for name in NAMES})
    np.testing.assert_array_equal(again, states)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    mask = batch["attention_mask"][:, :, None]
    pooled = (states * mask).sum(axis=1) / mask.sum(axis=1) if mode == "mean" else states[:, 0]
    np.testing.assert_allclose(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), expected, atol=1e-6)
    folder = tmp_path / "graph"
    assert sentence_transformers.read_max_length(folder) == 12
    # Clients that know transformers' tokenizers alone read no more of a text either.
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 12
    assert sentence_transformers.read_settings(folder, "sentence_embedding", {}) == settings.for_head(model.arch.head)
    assert sentence_transformers.read_pooling(folder) == model.arch.pooling


def test_padding_is_on_the_right(tokenizer_folder, tmp_path):
    """As the graph reads texts, whatever the model's own tokenizer does."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, padding_side="left")
    model_of(save_model(tmp_path, tokenizer_folder)).save_pretrained(tmp_path / "left", tokenizer=tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "left").padding_side == "left"
    main(["--model", tmp_path / "left", "--output", tmp_path / "export"])
    assert AutoTokenizer.from_pretrained(tmp_path / "export").padding_side == "right"


@pytest.mark.slow
def test_optimum(exported, model_folder, exported_embedder, tmp_path):
    """In an environment of its own: Optimum's ONNX part needs another major version of transformers."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    installed = subprocess.run([python, "-m", "pip", "install", "--quiet", *OPTIMUM], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"pip cannot install {', '.join(OPTIMUM)}: {installed.stderr.strip().splitlines()[-1]}")
    script = textwrap.dedent("""
        import json, sys
        from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTModelForSequenceClassification
        from sentence_transformers import SentenceTransformer
        from transformers import AutoTokenizer, pipeline

        folder, embedder, texts = sys.argv[1], sys.argv[2], sys.argv[3:]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        answers = {}
        for name in ("model.onnx", "model_quantized.onnx"):
            model = ORTModelForSequenceClassification.from_pretrained(folder, subfolder="onnx", file_name=name)
            logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.tolist()
            labels = [answer["label"] for answer in pipeline("text-classification", model=model, tokenizer=tokenizer)(texts, batch_size=4)]
            answers[name] = {"logits": logits, "labels": labels}
        model, tokenizer = ORTModelForFeatureExtraction.from_pretrained(embedder), AutoTokenizer.from_pretrained(embedder)
        answers["states"] = model(**tokenizer(texts[:1], return_tensors="pt")).last_hidden_state.mean(1)[0].tolist()
        answers["vectors"] = SentenceTransformer(embedder, backend="onnx", device="cpu").encode(texts).tolist()
        print(json.dumps(answers))
    """)
    done = subprocess.run([python, "-c", script, exported, exported_embedder, *TEXTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    tokenized = AutoTokenizer.from_pretrained(exported)(TEXTS, padding=True)
    logits = np.asarray(answers_of(model_folder, {name: np.asarray(values) for name, values in tokenized.items()}).logits)
    np.testing.assert_allclose(answers["model.onnx"]["logits"], logits, atol=1e-5, rtol=0)
    assert answers["model.onnx"]["labels"] == [("neg", "pos")[choice] for choice in logits.argmax(axis=1)]
    assert np.abs(np.array(answers["model_quantized.onnx"]["logits"]) - logits).mean() < 0.05
    vectors = SkimEngine.from_pretrained(exported_embedder.parent / "model").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(answers["vectors"], vectors, atol=1e-5, rtol=0)
    np.testing.assert_allclose(answers["states"] / np.linalg.norm(answers["states"]), vectors[0], atol=1e-5, rtol=0)
