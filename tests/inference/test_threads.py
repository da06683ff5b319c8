"""Threads that share an engine get the answers, and the counts, of one thread alone."""

import concurrent.futures
import dataclasses
import sys
import threading

import numpy as np
import pytest
from inference.skimmers import ARCH, make_model

from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.onnx.sessions import import_openvino

THREADS, ROUNDS = 4, 8
# One bucket of compiled programs.
RUNTIMES = ({"runtime": "jax", "batch_tokens": 96, "max_length": 16}, {"threads": 1}, {"provider": "openvino", "threads": 1})
WORDS = np.array(["a", "b", "c", "good", "bad", "film", "films", "the", "is"])


@pytest.fixture(autouse=True)
def switch_often():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def make_texts(seed):
    """Single texts or pairs, by the seed; some are longer than the engine reads, one so much that it is cut before it is read."""
    rng = np.random.default_rng(seed)
    first, second = ([" ".join(rng.choice(WORDS, count)) for count in rng.integers(0, 60, 6)] for _ in range(2))
    return [*first, "good film " * 300] if seed % 2 else list(zip(first, second, strict=True))


def test_threads_import_openvino():
    """What is hidden from the import, for the whole process, is there again behind the last of them."""
    telemetry = sys.modules.get("openvino_telemetry")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        packages = [pool.submit(lambda: [import_openvino() for _ in range(50)]) for _ in range(8)]
    assert len({id(package) for imported in packages for package in imported.result()}) == 1
    assert sys.modules.get("openvino_telemetry") is telemetry


@pytest.mark.parametrize("options", RUNTIMES, ids=str)
def test_threads_share_an_engine(options, tokenizer_folder, quickly_built_programs):
    model, tokenizer = make_model(dataclasses.replace(ARCH, vocab_size=60)), load_tokenizer(tokenizer_folder)
    engine, alone = (SkimEngine(model, tokenizer, **options) for _ in range(2))
    texts = [make_texts(seed) for seed in range(THREADS)]
    expected = [alone.predict(some, progress=False) for some in texts]
    begin = threading.Barrier(THREADS)

    def ask(number):
        begin.wait()
        return [engine.predict(texts[number], progress=False) for _ in range(ROUNDS)]

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for of_thread, wanted in zip(pool.map(ask, range(THREADS)), expected, strict=True):
            for answers in of_thread:
                np.testing.assert_allclose([one.logits for one in answers], [one.logits for one in wanted], atol=1e-4, rtol=0)
                assert [(one.tokens, one.truncated) for one in answers] == [(one.tokens, one.truncated) for one in wanted]
    # What a compiled program loses, and so how many run, depends on what was answered before.
    for name in ("examples", "tokens", "truncated", *(["batches"] if engine.runtime.name == "onnx" else [])):
        assert getattr(engine.statistics, name) == ROUNDS * getattr(alone.statistics, name) > 0, name
    assert engine.statistics.dense_flops == pytest.approx(ROUNDS * alone.statistics.dense_flops)


@pytest.mark.parametrize("read", ["tokenize", "tokenize_words", "tokenize_questions"])
def test_ways_to_read_take_turns(read, tokenizer_folder):
    """Each sets the tokenizer's limits for itself, beside a reading of long pairs, which lifts them."""
    engine = SkimEngine(make_model(dataclasses.replace(ARCH, vocab_size=60)), load_tokenizer(tokenizer_folder))
    arguments = [["good film " * 100] * 4] if read != "tokenize_questions" else [["is it good"] * 4, ["good film " * 100] * 4]
    wanted = getattr(engine, read)(*arguments).examples.lengths if read != "tokenize" else engine.tokenize(*arguments).lengths
    assert wanted.max() == 40
    stop = threading.Event()

    def lift():
        while not stop.is_set():
            engine.tokenize([("good film " * 300, "bad"), ("the", "film")])

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        lifting = pool.submit(lift)
        try:
            for _ in range(100):
                answer = getattr(engine, read)(*arguments)
                np.testing.assert_array_equal((answer if read == "tokenize" else answer.examples).lengths, wanted)
        finally:
            stop.set()
            lifting.result()
