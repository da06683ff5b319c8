"""The page: what it says of tokens is what the engine computed, and no text becomes markup."""

import collections
import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from flax import nnx
from reporting import browser as browsers

from transkimmer_jax import cli
from transkimmer_jax.checkpoints.sentence_transformers import Settings
from transkimmer_jax.data import sources
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.architecture import Architecture, PoolingArchitecture, SkimArchitecture
from transkimmer_jax.models.heads import HEADS, load
from transkimmer_jax.reporting.contents import contents

ARCH = Architecture(
    vocab_size=60, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16,
    initializer_range=0.3, skim=SkimArchitecture(predictor_size=4, initial_bias=0.0),
)  # fmt: skip
KINDS = {
    "classifier": ("sequence_classification", {"num_labels": 2}, ("no", "yes")),
    "regressor": ("sequence_classification", {"num_labels": 1}, None),
    "embedder": ("sentence_embedding", {"pooling": PoolingArchitecture("mean", True)}, None),
    "tagger": ("token_classification", {"num_labels": 3}, ("O", "B", "I")),
    "reader": ("question_answering", {}, None),
}
TEXTS = ["the films is good", "</script><b>bad</b> & 'plot'", "good\u2028film", "the plot of the film is bad and the cast is good " * 3]


@pytest.fixture(scope="module")
def models(tokenizer_folder, tmp_path_factory):
    """Folders by kind."""
    tokenizer, made = load_tokenizer(tokenizer_folder), {}
    for kind, (head, options, names) in KINDS.items():
        model = HEADS[head](dataclasses.replace(ARCH, **options), rngs=nnx.Rngs(2))
        for predictor in model.encoder.predictors:
            predictor.decision.kernel[...] = predictor.decision.kernel[...] * 40.0
        made[kind] = tmp_path_factory.mktemp(kind) / "model"
        model.save_pretrained(made[kind], tokenizer=tokenizer, label_names=names)
    return made


def report(model, path, output, *more):
    with jax.numpy_dtype_promotion("standard"):
        cli.main(["report", "--model", str(model), "--input", str(path), "--output", str(output), *more])
    page = output.read_text(encoding="utf-8")
    told = re.search(r"const data = (.*);\n", page)
    assert told is not None and page.count("<script>") == page.count("</script>") == 1, "no text ends the script"
    return json.loads(told[1])


@pytest.mark.parametrize("kind", ["classifier", "regressor", "embedder", "tagger"])
def test_what_it_says_is_what_was_computed(models, write, tmp_path, kind):
    """Of each budget: depths of tokens, kept shares, what is spent; tokens lie where their characters are."""
    records = [{"text": text, "label": "yes"} for text in TEXTS]
    labels = ["--label-column", "label"] if kind == "classifier" else []
    said = report(models[kind], write("texts.jsonl", records), tmp_path / "page.html", *labels, "--budgets", "0.7")
    assert said["head"] == KINDS[kind][0] and said["layers"] == 3 and len(said["budgets"]) == 2 and len(said["texts"]) == 4
    engine = SkimEngine.from_pretrained(models[kind], depths=True)
    tokens = engine.tokenize(TEXTS)
    assert said["budgets"][said["own"]]["threshold"] == engine.threshold
    for number, budget in enumerate(said["budgets"]):
        predictions = engine.predict_tokenized(tokens, threshold=budget["threshold"])
        np.testing.assert_allclose(budget["kept_per_layer"], predictions.kept.sum(axis=1) / tokens.lengths.sum())
        for place, text in enumerate(said["texts"]):
            depths = [int(depth, 36) for depth in text["depths"][number]]
            assert len(depths) == len(text["tokens"]) == tokens.lengths[place] - 2
            # All but [CLS], which every layer computes, and [SEP].
            assert 3 <= predictions.depths[place].sum() - sum(depths) <= 3 * 2
    for text, given in zip(said["texts"], TEXTS, strict=True):
        assert text["parts"][-1] == given and text["truth"] == ("yes" if kind == "classifier" else None)
        for part, start, end in text["tokens"]:
            assert 0 <= start < end <= len(text["parts"][part])
        assert text["wrong"] == [text["truth"] is not None and not answer.startswith("yes") for answer in text["answers"]]


def test_a_reader_reads_contexts_whole(models, write, tmp_path):
    """In windows, as `predict`, whose answer the page gives. A token is as deep as in the window that read it deepest; all windows cost."""
    question = "is the cast good"
    records = [{"question": question, "context": text} for text in TEXTS]
    said = report(models["reader"], write("texts.jsonl", records), tmp_path / "page.html", "--budgets", "0.7")
    assert said["head"] == "question_answering" and len(said["budgets"]) == 2 and len(said["texts"]) == 4
    engine = SkimEngine.from_pretrained(models["reader"], depths=True)
    windows = engine.tokenize_questions([question] * 4, TEXTS)
    assert np.bincount(windows.owner)[3] > 3 and said["budgets"][said["own"]]["threshold"] == engine.threshold
    for number, budget in enumerate(said["budgets"]):
        predictions = engine.predict_tokenized(windows.examples, threshold=budget["threshold"])
        np.testing.assert_allclose(budget["kept_per_layer"], predictions.kept.sum(axis=1) / windows.examples.lengths.sum())
        flops = predictions.costs(engine.arch)
        assert [text["answers"][number] for text in said["texts"]] == [
            answer.text for answer in engine.answer([question] * 4, TEXTS, threshold=budget["threshold"])
        ]
        for place, (text, context) in enumerate(zip(said["texts"], TEXTS, strict=True)):
            rows = np.flatnonzero(windows.owner == place)
            assert text["costs"][number] == pytest.approx(flops[0][rows].sum() / flops[1][rows].sum(), abs=1e-4)
            depths = {tuple(token): int(depth, 36) for token, depth in zip(text["tokens"], text["depths"][number], strict=True)}
            for part, whole in enumerate((question, context)):
                offsets = engine.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
                assert [(start, end) for of, start, end in depths if of == part] == offsets, "the tokens of all of it, each once"
            deepest = dict.fromkeys(depths, 0)
            for row in rows:
                for span, inside, depth in zip(windows.spans[row], windows.is_context[row], predictions.depths[row], strict=True):
                    if span[1] > span[0]:
                        deepest[int(inside), *span.tolist()] = max(deepest[int(inside), *span.tolist()], int(depth))
            assert depths == deepest


def test_labels_are_numbers_or_names(models, write, tmp_path):
    """As for training: the number of a class is as good as its name, in CSV as in JSONL, and a file's name may end in capitals."""
    lines = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in (("good", 1), ("bad plot", "no "), ("film", 0)))
    said = report(models["classifier"], write("TEXTS.CSV", lines), tmp_path / "page.html", "--label-column", "label")
    assert [text["truth"] for text in said["texts"]] == ["yes", "no", "no"]
    assert [text["wrong"] for text in said["texts"]] == [[not text["answers"][0].startswith(text["truth"])] for text in said["texts"]]
    assert len(report(models["classifier"], write("A.TXT", "good\nbad\n"), tmp_path / "page.html")["texts"]) == 2


def test_a_default_prompt(models, write, tmp_path):
    """An embedder reads it before each text, and the page shows the text alone."""
    folder = tmp_path / "prompted"
    tokenizer = load_tokenizer(models["embedder"])
    load(models["embedder"]).save_pretrained(folder, tokenizer=tokenizer, settings=Settings({"query": "the plot "}, "query"))
    said = report(folder, write("texts.txt", "good film\nbad\n"), tmp_path / "page.html")
    engine = SkimEngine.from_pretrained(folder, depths=True)
    depths = engine.predict_tokenized(engine.tokenize(["the plot good film", "the plot bad"])).depths
    for text, expected, count in zip(said["texts"], depths, (2, 1), strict=True):
        assert [int(depth, 36) for depth in text["depths"][0]] == expected[3 : 3 + count].tolist()
        assert [text["parts"][0][start:end] for _, start, end in text["tokens"]] == text["parts"][0].split()


def test_a_default_prompt_before_pairs(models, write, tmp_path):
    """It stands before the first texts alone."""
    tokenizer = load_tokenizer(models["regressor"])
    load(models["regressor"]).save_pretrained(tmp_path / "pairs", tokenizer=tokenizer, settings=Settings({"query": "the plot "}, "query"))
    pairs = write("pairs.jsonl", [{"query": "bad", "document": "good film is"}])
    (text,) = report(tmp_path / "pairs", pairs, tmp_path / "page.html", "--text-columns", "query", "document")["texts"]
    assert [text["parts"][part][start:end] for part, start, end in text["tokens"]] == ["bad", "good", "film", "is"]


def test_every_kind_of_word_is_counted(models, write, tmp_path, tokenizer_folder):
    """As `tag` answers, once whatever its tokens, of a tagger whose first label is no 'O', as those of parts of speech are."""
    model = load(models["tagger"])
    model.save_pretrained(tmp_path / "speech", tokenizer=load_tokenizer(tokenizer_folder), label_names=("ADJ", "NOUN", "VERB"))
    said = report(tmp_path / "speech", write("texts.jsonl", [{"text": text} for text in TEXTS]), tmp_path / "page.html")
    answers = SkimEngine.from_pretrained(tmp_path / "speech").tag(TEXTS, progress=False)
    for text, answer in zip(said["texts"], answers, strict=True):
        counts = {name: int(count) for count, name in map(str.split, text["answers"][0].split(", "))}
        assert counts == collections.Counter(tag.label for tag in answer.tags)
    assert len(answers[0].tags) == 4 < len(said["texts"][0]["tokens"]), "one of four words has two tokens"


def test_nearest_texts(models, write, tmp_path):
    """Of an embedder: by the cosines of its vectors."""
    said = report(models["embedder"], write("texts.txt", "good film\nbad plot\nthe film\n"), tmp_path / "page.html")
    vectors = SkimEngine.from_pretrained(models["embedder"]).encode(["good film", "bad plot", "the film"], show_progress_bar=False)
    similar = vectors @ vectors.T
    nearest = 1 if similar[0, 1] > similar[0, 2] else 2
    assert said["texts"][0]["answers"][0].startswith(f"nearest: {nearest + 1} ({similar[0, nearest]:.2f})")


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--texts", "0"], ConfigError, "0 is not in the range x>=1"),
        (["--budgets", "1.5"], ConfigError, "1.5 is not in the range 0<x<=1"),
        (["--text-columns", "missing"], DataError, "no column 'missing'"),
        (["--label-column", "missing"], DataError, "no column 'missing', only 'text'"),
        (["--label-column", "text"], DataError, "label 'good' is none of the labels trained on"),
    ],
)
def test_what_cannot_be_meant(models, write, tmp_path, more, error, message):
    """One line, and no page."""
    with pytest.raises(error, match=message):
        report(models["classifier"], write("texts.jsonl", [{"text": "good"}]), tmp_path / "page.html", *more)
    assert not (tmp_path / "page.html").exists()


def test_budgets_of_a_dense_model(models, write, tmp_path, tokenizer_folder):
    """It has none to slide between."""
    model = load(models["classifier"], dense=True)
    model.save_pretrained(tmp_path / "dense", tokenizer=load_tokenizer(tokenizer_folder), label_names=("no", "yes"))
    for flag, named in (("--budgets", "--budgets"), ("--threshold", "threshold=0.5")):
        with pytest.raises(ConfigError, match=f"^{named} is of skimming models, and .*dense is a dense one: leave it out$"):
            report(tmp_path / "dense", write("texts.txt", "good\n"), tmp_path / "page.html", flag, "0.5")


def test_titles(models, write, tmp_path, tokenizer_folder):
    """By the run's folder, or by the model's own."""
    texts = write("texts.txt", "good\n")
    run = models["classifier"].parent
    assert report(models["classifier"], texts, tmp_path / "page.html")["title"] == f"What {run.name} read"
    load(models["classifier"], dense=None).save_pretrained(
        tmp_path / "reviews", tokenizer=load_tokenizer(tokenizer_folder), label_names=("no", "yes")
    )
    assert report(tmp_path / "reviews", texts, tmp_path / "page.html")["title"] == "What reviews read"


def test_pairs_and_questions_are_no_lines_of_text(models, write, tmp_path):
    with pytest.raises(ConfigError, match="names two columns, since .* reads questions and contexts"):
        report(models["reader"], write("texts.txt", "good\n"), tmp_path / "page.html", "--text-columns", "text")
    with pytest.raises(ConfigError, match="has a text a line, and .* reads pairs"):
        report(models["reader"], write("texts.txt", "good\n"), tmp_path / "page.html")


@pytest.mark.parametrize(("kind", "names"), [("classifier", ("NEGATIVE", "Positive")), ("embedder", None)])
def test_a_task(models, tokenizer_folder, tmp_path, monkeypatch, kind, names):
    """Its labels are right or wrong by the model's names; of an embedder neither."""
    labels = [0, 1, 1, 0]
    monkeypatch.setattr(sources, "load_split", lambda *_: Examples(TEXTS, None, np.array(labels, np.int32)))
    folder = tmp_path / "named"
    load(models[kind]).save_pretrained(folder, tokenizer=load_tokenizer(tokenizer_folder), label_names=names)
    cli.main(["report", "--model", str(folder), "--task", "glue/sst2", "--output", str(tmp_path / "page.html")])
    said = json.loads(re.search(r"const data = (.*);\n", (tmp_path / "page.html").read_text(encoding="utf-8"))[1])
    truths = {text["parts"][0]: text["truth"] for text in said["texts"]}
    assert truths == {text: None if names is None else names[label] for text, label in zip(TEXTS, labels, strict=True)}
    for text in said["texts"]:
        assert text["wrong"] == [names is not None and not answer.startswith(text["truth"]) for answer in text["answers"]]


def test_a_task_with_other_labels(models, tmp_path):
    with pytest.raises(CheckpointError, match="calls its labels no, yes, glue/sst2 calls them negative, positive"):
        report_of_task = ["report", "--model", str(models["classifier"]), "--task", "glue/sst2", "--output", str(tmp_path / "page.html")]
        cli.main(report_of_task)


@pytest.mark.parametrize(
    ("kind", "task", "says"),
    [
        ("reader", "glue/sst2", "glue/sst2 has single texts, but .* reads pairs"),
        ("embedder", "glue/stsb", "glue/stsb has pairs, but .* reads single texts"),
        ("tagger", "glue/rte", "glue/rte has pairs, but .* reads single texts"),
    ],
)
def test_a_task_of_other_texts(models, tmp_path, kind, task, says):
    with pytest.raises(ConfigError, match=f"--task {says}: name another task, or give a file"):
        cli.main(["report", "--model", str(models[kind]), "--task", task, "--output", str(tmp_path / "page.html")])


def test_a_reader_without_contexts(models):
    engine = SkimEngine.from_pretrained(models["reader"], depths=True)
    with pytest.raises(DataError, match="a reader's report shows questions with their contexts"):
        contents("a page", engine, engine.tokenizer, [("good",)], [None], ())


@pytest.mark.slow
def test_in_a_browser(browser, models, write, tmp_path):
    """Headless Chromium shows a thousand texts as text, and its console stays empty."""
    records = [{"text": text, "label": "yes"} for text in [*TEXTS[:3], "\U0001f600 good \U0001f600 film"] * 250]
    report(models["classifier"], write("texts.jsonl", records), tmp_path / "page.html", "--texts", "1000", "--label-column", "label")
    content, console = browsers.opened(browser, tmp_path / "page.html", tmp_path)
    assert content.count("<article") == 1000 and console == ""
    read = re.sub(r"<[^>]+>", "", content.partition("<main>")[2])
    token = "<span[^>]*>{}</span>"
    shown = " ".join(token.format(word) for word in ("\U0001f600", "good", "\U0001f600", "film"))
    assert len(re.findall(shown, content)) == 250, "tokens stand where their characters are, also behind those of two halves"
    assert "&lt;/script&gt;&lt;b&gt;bad" in read and "<b>" not in content and "1000 texts at" in read


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "tagger"])
def test_everybody_can_read_it(accessible, fits_a_phone, models, write, tmp_path, kind):
    records = [{"text": text, "label": "yes"} for text in TEXTS * 5]
    labels = ["--label-column", "label"] if kind == "classifier" else []
    report(models[kind], write("texts.jsonl", records), tmp_path / "page.html", *labels, "--budgets", "0.7")
    accessible(tmp_path / "page.html")
    fits_a_phone(tmp_path / "page.html")
