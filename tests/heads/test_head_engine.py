"""What users call: encode, rank, tag and answer, and sentence-transformers' folders in and out."""

import dataclasses
import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import transformers
from flax import nnx
from inference.skimmers import ARCH, MODERN
from models.quick import program
from vocabulary import write_tokenizer

from transkimmer_jax import (
    SkimEngine,
    TranskimmerForQuestionAnswering,
    TranskimmerForSentenceEmbedding,
    TranskimmerForSequenceClassification,
    TranskimmerForTokenClassification,
)
from transkimmer_jax.checkpoints import sentence_transformers
from transkimmer_jax.data.windows import windows
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError, InferenceError
from transkimmer_jax.inference.answers import answered
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.models.architecture import PoolingArchitecture
from transkimmer_jax.runtime_names import RUNTIMES

TEXTS = ["the films is good", "a bad plot", "good", "the plot of the film is bad and the cast is good"]
CLASSES = {
    "embedder": (TranskimmerForSentenceEmbedding, {"pooling": PoolingArchitecture("mean", False)}),
    "classifier": (TranskimmerForSequenceClassification, {}),
    "reranker": (TranskimmerForSequenceClassification, {"num_labels": 1}),
    "tagger": (TranskimmerForTokenClassification, {}),
    "reader": (TranskimmerForQuestionAnswering, {"skim": dataclasses.replace(ARCH.skim, pinned="first_segment")}),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return transformers.AutoTokenizer.from_pretrained(
        write_tokenizer(tmp_path_factory.mktemp("tokenizer")), config=transformers.BertConfig()
    )


@functools.cache
def make_model(kind, vocab_size):
    model_class, changes = CLASSES[kind]
    model = model_class(dataclasses.replace(ARCH, vocab_size=vocab_size, **changes), rngs=nnx.Rngs(0))
    for predictor in model.encoder.predictors:
        predictor.decision.kernel[...] = predictor.decision.kernel[...] * 40.0
    return model


@pytest.fixture(scope="module")
def engine(tokenizer):
    @functools.cache
    def make(kind, **options):
        return SkimEngine(make_model(kind, len(tokenizer)), tokenizer, **options)

    return make


def call(tokenizer, model, *columns, threshold=0.0):
    """The masked computation of texts or pairs, padded to one shape for each number of them."""
    encoded = tokenizer(*columns, padding="max_length", max_length=24, return_tensors="np")
    batch = (encoded[name].astype(np.int32) for name in ("input_ids", "attention_mask", "token_type_ids"))
    return jax.device_get(program(model)(*batch, threshold=np.float32(threshold)))


def test_encode(engine, tokenizer):
    model = make_model("embedder", len(tokenizer))
    expected = call(tokenizer, model, TEXTS, threshold=0.3).sentence_embedding
    vectors = engine("embedder").encode(TEXTS, threshold=0.3, show_progress_bar=False)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    unit = engine("embedder").encode(TEXTS, threshold=0.3, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    short = engine("embedder").encode(TEXTS, threshold=0.3, truncate_dim=5, show_progress_bar=False)
    np.testing.assert_array_equal(short, vectors[:, :5])
    assert engine("embedder").encode([], show_progress_bar=False).shape == (0, ARCH.hidden_size)
    one = engine("embedder").encode(TEXTS[0], threshold=0.3, batch_size=4, show_progress_bar=False)
    np.testing.assert_allclose(one, vectors[0], atol=1e-5)


def test_arguments_of_sentence_transformers(engine):
    """Their names, and those that say nothing new."""
    embedder, reranker = engine("embedder"), engine("reranker")
    vectors = embedder.encode(TEXTS, show_progress_bar=False)
    for encode in (embedder.encode, embedder.encode_query, embedder.encode_document):
        answer = encode(inputs=TEXTS, batch_size=32, convert_to_numpy=True, convert_to_tensor=False, show_progress_bar=False)
        np.testing.assert_array_equal(answer, vectors)
    ranked = reranker.rank(query="good", documents=TEXTS, top_k=2, return_documents=True, batch_size=8, show_progress_bar=False)
    assert ranked == reranker.rank("good", TEXTS, 2, True, show_progress_bar=False)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_token_embeddings(engine, tokenizer, runtime):
    """Every token's state as it left the encoder, of which the vector is the mean."""
    model = make_model("embedder", len(tokenizer))
    expected = call(tokenizer, model, TEXTS, threshold=0.3)
    one = engine("embedder", token_embeddings=True, runtime=runtime)
    predictions = one.predict_tokenized(one.tokenize(TEXTS), threshold=0.3)
    for number, states in enumerate(predictions.by_text("token_embeddings")):
        assert len(states) == predictions.lengths[number]
        np.testing.assert_allclose(states, expected.last_hidden_state[number, : len(states)], atol=1e-5)
    np.testing.assert_allclose(predictions.outputs["sentence_embedding"], expected.sentence_embedding, atol=1e-5)
    assert 0 < predictions.kept[-1].sum() < predictions.lengths.sum()
    with pytest.raises(ConfigError, match="token_embeddings are of an embedder"):
        engine("classifier", token_embeddings=True)


def test_prompts(tokenizer):
    model = make_model("embedder", len(tokenizer))
    prompted = SkimEngine(model, tokenizer, settings=sentence_transformers.Settings({"query": "the ", "none": ""}, "query"))
    plain = SkimEngine(model, tokenizer).encode(["the film", "film"], show_progress_bar=False)
    for expected, options in ((plain[0], {}), (plain[0], {"prompt": "the "}), (plain[1], {"prompt_name": "none"})):
        np.testing.assert_allclose(prompted.encode(["film"], show_progress_bar=False, **options)[0], expected, atol=1e-6)
    with pytest.raises(ConfigError, match="prompt_name='passage' is none of the model's prompts: 'document', 'none', 'query'"):
        prompted.encode(["film"], prompt_name="passage")


def test_queries_and_documents(tokenizer):
    """Each behind its prompt; without one behind none, also not behind the default."""
    prompts = sentence_transformers.Settings({"query": "the ", "document": "a "}, "query")
    both = SkimEngine(make_model("embedder", len(tokenizer)), tokenizer, settings=prompts)
    only = SkimEngine(
        make_model("embedder", len(tokenizer)), tokenizer, settings=sentence_transformers.Settings({"passage": "a "}, "passage")
    )
    for vector, text in (
        (both.encode_query("film"), "the film"), (both.encode_document(["film"])[0], "a film"), (only.encode_query("film"), "film"),
        (only.encode_document("film"), "film"), (only.encode("film", prompt_name="query"), "film"), (only.encode("film"), "a film"),
        (only.encode_document("film", prompt_name="passage"), "a film"), (only.encode_document("film", prompt="the "), "the film"),
    ):  # fmt: skip
        np.testing.assert_allclose(vector, only.encode(text, prompt=""), atol=1e-6)


def test_rank(engine, tokenizer):
    model, query = make_model("reranker", len(tokenizer)), "is the film good"
    scores = call(tokenizer, model, [query] * len(TEXTS), TEXTS).logits[:, 0]
    ranked = engine("reranker").rank(query, TEXTS, return_documents=True)
    assert [entry["corpus_id"] for entry in ranked] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([entry["score"] for entry in ranked], scipy.special.expit(np.sort(scores)[::-1]), atol=1e-5)
    raw = engine("reranker").rank(query, TEXTS, raw_scores=True)
    np.testing.assert_allclose([entry["score"] for entry in raw], np.sort(scores)[::-1], atol=1e-5)
    assert [entry["text"] for entry in ranked] == [TEXTS[entry["corpus_id"]] for entry in ranked]
    assert engine("reranker").rank(query, TEXTS, top_k=2) == [
        {name: entry[name] for name in ("corpus_id", "score")} for entry in ranked[:2]
    ]


def test_rank_by_scores_of_another_kind(tokenizer):
    """Of a folder that asks for a tanh: logits are given where they are asked for, and sigmoids are nobody's answer."""
    settings = sentence_transformers.Settings(activation="torch.nn.modules.activation.Tanh")
    engine = SkimEngine(make_model("reranker", len(tokenizer)), tokenizer, settings=settings)
    with pytest.raises(
        InferenceError, match="the model's folder asks for 'torch.nn.modules.activation.Tanh': give raw_scores=True for logi"
    ):
        engine.rank("is the film good", TEXTS)
    assert len(engine.rank("is the film good", TEXTS, raw_scores=True)) == len(TEXTS)


def test_rank_by_the_label_of_a_classifier(engine, tokenizer):
    """Its probability is the score."""
    model, query = make_model("classifier", len(tokenizer)), "is the film good"
    logits = call(tokenizer, model, [query] * len(TEXTS), TEXTS).logits
    scores = scipy.special.softmax(logits, axis=1)[:, 1]
    ranked = engine("classifier", label_names=("a", "b", "c")).rank(query, TEXTS, label="b")
    assert [entry["corpus_id"] for entry in ranked] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([entry["score"] for entry in ranked], np.sort(scores)[::-1], atol=1e-5)
    raw = engine("classifier", label_names=("a", "b", "c")).rank(query, TEXTS, label="b", raw_scores=True)
    np.testing.assert_allclose([entry["score"] for entry in raw], np.sort(logits[:, 1])[::-1], rtol=0, atol=1e-5 * np.abs(logits).max())
    with pytest.raises(ConfigError, match="label='d' is none of the model's: LABEL_0"):
        engine("classifier").rank(query, TEXTS, label="d")


def test_large_probabilities_have_an_order(tokenizer):
    """Of a label whose probability is 1 in all texts: that of its odds."""
    model = make_model("classifier", len(tokenizer))
    model.classifier.bias[...] = model.classifier.bias[...] + jnp.array([0.0, 100.0, 0.0])
    engine = SkimEngine(model, tokenizer)
    logits = engine.predict_texts([("is the film good", text) for text in TEXTS])[0].logits.astype(np.float64)
    odds = logits[:, 1] - scipy.special.logsumexp(logits[:, [0, 2]], axis=1)
    ranked = engine.rank("is the film good", TEXTS, label="LABEL_1")
    assert {entry["score"] for entry in ranked} == {1.0} and np.all(np.diff(odds[[entry["corpus_id"] for entry in ranked]]) < 1e-4)


def test_large_scores_have_an_order(tokenizer):
    """Of logits whose sigmoids are all 1."""
    model = TranskimmerForSequenceClassification(dataclasses.replace(ARCH, vocab_size=len(tokenizer), num_labels=1), rngs=nnx.Rngs(0))
    model.classifier.bias[...] = model.classifier.bias[...] + 100.0
    engine = SkimEngine(model, tokenizer)
    ranked, raw = (engine.rank("is the film good", TEXTS, raw_scores=raw) for raw in (False, True))
    assert {entry["score"] for entry in ranked} == {1.0} and len({entry["score"] for entry in raw}) == len(TEXTS)
    assert [entry["corpus_id"] for entry in ranked] == [entry["corpus_id"] for entry in raw]


@pytest.mark.parametrize(
    "call",
    [
        lambda engine, **shown: engine("embedder").encode(TEXTS, **shown),
        lambda engine, **shown: engine("reranker").rank("good", TEXTS, **shown),
    ],
)
def test_progress(engine, capsys, call):
    """A bar where it is asked for, or where notes are shown; the same answers."""
    notes = logging.getLogger("transkimmer_jax")
    before = notes.level
    answers = []
    for level, shown, bar in (
        (logging.WARNING, {}, False),
        (logging.INFO, {}, True),
        (logging.INFO, {"show_progress_bar": False}, False),
        (logging.WARNING, {"show_progress_bar": True}, True),
    ):
        notes.setLevel(level)
        try:
            answers.append(call(engine, **shown))
        finally:
            notes.setLevel(before)
        assert ("predicting" in capsys.readouterr().err) == bar
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_tag(engine, tokenizer):
    model, text = make_model("tagger", len(tokenizer)), "the film, is good"
    expected = call(tokenizer, model, [text]).logits[0].argmax(axis=1)
    tagger = engine("tagger", label_names=("a", "b", "c"))
    [by_text] = tagger.tag([text], progress=False)
    assert [tag.word for tag in by_text.tags] == ["the", "film", ",", "is", "good"]
    assert all(text[tag.start : tag.end] == tag.word for tag in by_text.tags)
    first = np.unique([word for word in tokenizer(text).word_ids() if word is not None], return_index=True)[1] + 1
    assert [tag.label for tag in by_text.tags] == ["abc"[label] for label in expected[first]]
    [by_words] = tagger.tag([["the", "film", ",", "is", "good"]], progress=False)
    assert [(tag.label, round(tag.score, 5)) for tag in by_words.tags] == [(tag.label, round(tag.score, 5)) for tag in by_text.tags]
    [cut] = SkimEngine(model, tokenizer, max_length=5).tag([["good"] * 6], progress=False)
    assert [tag.label is None for tag in cut.tags] == [False] * 3 + [True] * 3 and cut.truncated
    assert tagger.tag([], progress=False) == []


def test_answer(engine, tokenizer):
    """Where the context is read at once, the best span of the masked computation's logits."""
    model, question, context = make_model("reader", len(tokenizer)), "is it good", "the plot of the film is bad, and the cast is good"
    out, encoded = call(tokenizer, model, [question], [context]), tokenizer(question, context)
    start, end = out.start_logits[0], out.end_logits[0]
    inside = [place for place, sequence in enumerate(encoded.sequence_ids()) if sequence == 1]
    best = max((start[i] + end[j], i, j) for i in inside for j in inside if 0 <= j - i < 4)
    answer = engine("reader").answer(question, context, max_answer_len=4)
    assert answer.score == pytest.approx(best[0], abs=1e-4)
    assert (answer.start, answer.end) == (encoded.encodings[0].offsets[best[1]][0], encoded.encodings[0].offsets[best[2]][1])
    assert answer.text == context[answer.start : answer.end]
    assert answer.no_answer_score == pytest.approx(start[0] + end[0], abs=1e-4)
    first, last = (np.exp(logits) / np.exp(logits[[0, *inside]]).sum() for logits in (start, end))
    assert answer.probability == pytest.approx(first[best[1]] * last[best[2]], rel=1e-4)
    difference = answer.no_answer_score - answer.score
    assert engine("reader").answer(question, context, max_answer_len=4, no_answer_threshold=difference + 1e-3).text == answer.text
    nothing = engine("reader").answer(question, context, max_answer_len=4, no_answer_threshold=difference - 1e-3)
    assert (nothing.text, nothing.start, nothing.score) == ("", None, answer.score)
    assert nothing.probability == pytest.approx(first[0] * last[0], rel=1e-4)
    assert engine("reader").answer([question], [context], max_answer_len=4) == [answer]


def test_a_long_context_is_read_in_windows(tokenizer):
    """Every token of the context is in some window; the best of all windows wins."""
    context = " ".join(["film", "plot", "cast", "bad"] * 8) + " good"
    read = windows(["is it good"], [context], tokenizer, 16, 4)
    assert len(read.examples) > 1 and read.examples.lengths.max() <= 16
    assert {tuple(span) for spans, inside in zip(read.spans, read.is_context, strict=True) for span in spans[inside]} == set(
        tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    )
    logits = np.zeros(len(read.examples.input_ids), np.float32)
    logits[-2] = 5.0  # the last token of the context
    outputs = {"start_logits": logits, "end_logits": logits}
    kept = np.tile(read.examples.lengths, (3, 1))
    [answer] = answered(Predictions(outputs, kept, read.examples.lengths), read, [context], 4, None)
    assert (answer.text, answer.score, answer.kept) == ("good", 10.0, 1.0)
    others = read.is_context[-1].sum()  # the place of no answer, and tokens of the last window but this one
    assert answer.probability == pytest.approx((np.exp(5) / (np.exp(5) + others)) ** 2)


@pytest.mark.parametrize(
    "kind, misuse, error, says",
    [
        ("embedder", lambda engine: engine.predict(["a"]), InferenceError, "this one is for sentence embedding: call encode"),
        ("classifier", lambda engine: engine.encode(["a"]), InferenceError, "this one is for sequence classification: call predict"),
        ("tagger", lambda engine: engine.answer("a", "b"), InferenceError, "this one is for token classification: call tag"),
        ("classifier", lambda engine: engine.predict("a"), DataError, "put it in a list"),
        ("embedder", lambda engine: engine.encode(None), DataError, "inputs is None"),
        ("embedder", lambda engine: engine.encode(["a"], convert_to_tensor=True), ConfigError, "encode gives arrays of NumPy"),
        ("embedder", lambda engine: engine.encode(["a"], convert_to_numpy=False), ConfigError, "encode gives arrays of NumPy"),
        ("embedder", lambda engine: engine.encode([("a", "b")]), DataError, "text 0 is a pair"),
        ("embedder", lambda engine: engine.encode(["a"], truncate_dim=0), ConfigError, "truncate_dim must be a whole number"),
        ("classifier", lambda engine: engine.rank("a", ["b"]), InferenceError, "one score, and this model has the labels"),
        ("reranker", lambda engine: engine.rank("a", []), DataError, "documents is empty"),
        ("reranker", lambda engine: engine.rank(["a"], ["b"]), DataError, "query must be a text"),
        ("reranker", lambda engine: engine.rank("a", "b"), DataError, "documents is one text"),
        ("tagger", lambda engine: engine.tag([3]), DataError, "text 0 must be a string or a list of words, not 3"),
        ("tagger", lambda engine: engine.tag([["a", 1]]), DataError, "text 0 must be a string or a list of words"),
        ("tagger", lambda engine: engine.tag([[]]), DataError, "text 0 is a list without words"),
        ("tagger", lambda engine: engine.tag(["a", ["b"]]), DataError, "text 1: a list of words among strings"),
        ("reader", lambda engine: engine.answer("a", ["b"]), DataError, "must both be texts"),
        ("reader", lambda engine: engine.answer(["a"], ["b", "c"]), DataError, "1 questions with 2 contexts"),
        ("reader", lambda engine: engine.answer("a", ""), DataError, "question 0: its context holds no token"),
        ("reader", lambda engine: engine.answer("a " * 60, "b"), DataError, "question 0: 'a a .* has 60 tokens, which leaves no room"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(engine, kind, misuse, error, says):
    with pytest.raises(error, match=says) as caught:
        misuse(engine(kind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "pooling", "class_name"),
    [
        (ARCH, PoolingArchitecture("mean", True), "BertModel"),
        (ARCH, PoolingArchitecture("cls", False), "BertModel"),
        (MODERN, PoolingArchitecture("mean", True), "ModernBertModel"),
    ],
)
def test_an_embedder_is_a_folder_of_sentence_transformers(tmp_path, tokenizer, base, pooling, class_name):
    """Out and in again, by its own section of config.json and by sentence-transformers' files alone, in either spelling."""
    arch = dataclasses.replace(base, vocab_size=len(tokenizer), pooling=pooling, skim=None)
    model = TranskimmerForSentenceEmbedding(arch, rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path, tokenizer=tokenizer, extra_config={"task": {"max_length": 12}})
    vectors = SkimEngine(model, tokenizer, max_length=12).encode(TEXTS, show_progress_bar=False)
    (tmp_path / "SHA256SUMS").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [class_name]
    del config["pooling"], config["task"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "the "}, "default_prompt_name": None}))
    path = tmp_path / "1_Pooling" / "config.json"
    both = json.loads(path.read_text())
    older = {name: value for name, value in both.items() if name != "pooling_mode"}
    newer = {"embedding_dimension": 32, "pooling_mode": pooling.mode}
    for spelling in (both, older, newer):
        path.write_text(json.dumps(spelling))
        loaded = SkimEngine.from_pretrained(tmp_path)
        assert loaded.arch.pooling == pooling and loaded.max_length == 12
        np.testing.assert_array_equal(loaded.encode(TEXTS, show_progress_bar=False), vectors)
    np.testing.assert_array_equal(loaded.encode(["film"], prompt_name="query"), loaded.encode(["the film"]))
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"], modules[1]["path"] = "./", "./1_Pooling/"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_array_equal(SkimEngine.from_pretrained(tmp_path).encode(TEXTS, show_progress_bar=False), vectors)


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("modules.json", {}, "modules.json: modules={}: "),
        ("modules.json", [{"type": "x.Transformer"}, {"type": "x.Pooling"}, {"type": "x.Dense"}], "supported are Transformer, Pooling and"),
        ("modules.json", [{"type": "x.Transformer", "path": "0_T"}, {"type": "x.Pooling"}], "the encoder lies in '0_T'"),
        ("modules.json", [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "../other"}], "not a file beside it"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "pooling_mode='max': only 'mean' or 'cls' is supported"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, "pooling 'mean' and 'max'"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": 3}, "pooling_mode_mean_tokens=3"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt=False"),
        ("1_Pooling/config.json", None, "is missing, .* or give pooling='mean' or pooling='cls'"),
        ("sentence_bert_config.json", {"max_seq_length": "x"}, "max_seq_length='x'"),
        ("config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": "q"}, "is none of the prompts"),
        ("config_sentence_transformers.json", {"prompts": {"q": "x"}, "default_prompt_name": ["q"]}, r"default_prompt_name=\['q'\]"),
    ],
)
def test_damaged_folders_are_one_line(tmp_path, tokenizer, name, content, says):
    arch = dataclasses.replace(ARCH, vocab_size=len(tokenizer), num_hidden_layers=1, skim=None)
    TranskimmerForSentenceEmbedding(arch, rngs=nnx.Rngs(0)).save_pretrained(tmp_path, tokenizer=tokenizer)
    (tmp_path / "SHA256SUMS").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "pooling"}))
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=says) as caught:
        SkimEngine.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_asks_to_lowercase(tmp_path, tokenizer):
    """As those of bge do, whose tokenizers lowercase anyway. Of another tokenizer it would be more than ours do."""
    arch = dataclasses.replace(ARCH, vocab_size=len(tokenizer), num_hidden_layers=1, skim=None)
    TranskimmerForSentenceEmbedding(arch, rngs=nnx.Rngs(0)).save_pretrained(tmp_path, tokenizer=tokenizer)
    (tmp_path / "SHA256SUMS").unlink()
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, "do_lower_case": True}))
    read = json.loads((tmp_path / "tokenizer.json").read_text())
    lower, accents = {"type": "Lowercase"}, {"type": "StripAccents"}
    for normalizer in (lower, {"type": "Sequence", "normalizers": [accents, lower]}, {"type": "BertNormalizer", "lowercase": True}):
        whole = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None} | normalizer
        (tmp_path / "tokenizer.json").write_text(json.dumps(read | {"normalizer": whole if "lowercase" in normalizer else normalizer}))
        assert sentence_transformers.read_max_length(tmp_path) == 12
    for normalizer in (None, accents, {"type": "Sequence", "normalizers": None}):
        (tmp_path / "tokenizer.json").write_text(json.dumps(read | {"normalizer": normalizer}))
        with pytest.raises(CheckpointError, match="do_lower_case=true is not supported: have the tokenizer lowercase"):
            sentence_transformers.read_max_length(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert sentence_transformers.read_max_length(tmp_path) == 12


@pytest.mark.parametrize(
    ("kind", "method", "given"),
    [
        ("classifier", "predict", (TEXTS,)),
        ("embedder", "encode", (TEXTS,)),
        ("reranker", "rank", ("good", TEXTS)),
        ("tagger", "tag", (TEXTS,)),
        ("reader", "answer", ("what is bad", TEXTS[1])),
    ],
)
def test_a_dense_model_has_no_threshold(tokenizer, kind, method, given):
    """One that was given would be ignored."""
    model_class, changes = CLASSES[kind]
    dense = model_class(dataclasses.replace(ARCH, vocab_size=len(tokenizer), **(changes | {"skim": None})), rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"^threshold=0\.5 is of skimming models, and this model is a dense one: leave it out$"):
        getattr(SkimEngine(dense, tokenizer), method)(*given, threshold=0.5)
