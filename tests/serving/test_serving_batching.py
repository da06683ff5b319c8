"""Who is computed with whom: by waiting time, within a budget of tokens, never across thresholds; everybody gets their own answer."""

import asyncio
import contextlib
import http.client
import itertools
import json
import threading
import time

import aiohttp
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference.skimmers import make_examples
from serving.served import LABELS, TEXTS, serving

from transkimmer_jax.data.batches import concatenated
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.serving import exchange, handlers
from transkimmer_jax.serving.batching import WaitingTexts
from transkimmer_jax.serving.jobs import Job
from transkimmer_jax.serving.limits import Limits
from transkimmer_jax.serving.models import Reading
from transkimmer_jax.serving.pieces import divided, joined, sliced


class Named:
    """All that batching asks of a model."""

    def __init__(self, name):
        self.name = name


def make_job(lengths, model="one", threshold=0.0):
    job = Job(Named(model), [], "texts", False, threshold, False, future=None)
    job.is_read(Reading(make_examples(lengths)), 0.0, 0.0)
    return job


def batches_of(jobs, budget):
    """Every batch, as (number of the job, text) in its order."""
    waiting = WaitingTexts(budget)
    waiting.add(jobs)
    waiting.close()
    batches = iter(waiting.take, None)
    return [[(jobs.index(part.job), text) for part in batch for text in range(part.start, part.stop)] for batch in batches]


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.sampled_from(["one", "two"]), st.sampled_from([0.0, 1.0]))),
    st.integers(1, 60),
)
def test_batches(described, budget):
    """Every text once; of one model and threshold; in the order of arrival; within the budget, and as many as fit."""
    jobs = [make_job(lengths, model, threshold) for lengths, model, threshold in described]
    batches = batches_of(jobs, budget)
    everything = [(number, text) for number, job in enumerate(jobs) for text in range(len(job.examples))]
    assert sorted(itertools.chain.from_iterable(batches)) == everything
    left = everything
    for batch in batches:
        key = jobs[left[0][0]].key  # the longest waiting one says what the batch is of
        same = [entry for entry in left if jobs[entry[0]].key == key]
        assert batch == same[: len(batch)]
        tokens = [int(jobs[number].examples.lengths[text]) for number, text in same]
        assert sum(tokens[: len(batch)]) <= budget or len(batch) == 1
        assert len(batch) == len(same) or sum(tokens[: len(batch) + 1]) > budget
        left = [entry for entry in left if entry not in batch]


def test_who_is_gone_is_dropped():
    """Before anything is computed, and when a part of it was."""
    jobs = [make_job([10, 10]), make_job([10]), make_job([10], threshold=1.0)]
    waiting = WaitingTexts(10)
    waiting.add(jobs)
    assert waiting.take()[0].job is jobs[0]
    jobs[0].is_abandoned = jobs[1].is_abandoned = True
    assert waiting.take()[0].job is jobs[2] and len(waiting) == 0
    waiting.close()
    assert waiting.take() is None


def test_take_waits_for_texts():
    """And is woken up by the first."""
    waiting, taken = WaitingTexts(10), []
    thread = threading.Thread(target=lambda: taken.append(waiting.take()))
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    waiting.add([make_job([3])])
    thread.join(10)
    assert len(taken[0]) == 1


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4))
def test_pieces(lengths):
    """What is put together comes apart as it was."""
    examples = [make_examples(row, seed=number) for number, row in enumerate(lengths)]
    whole = concatenated(examples)
    assert whole.lengths.tolist() == list(itertools.chain.from_iterable(lengths))
    counts, start = [len(row) for row in lengths], 0
    for count, part in zip(counts, examples, strict=True):
        again = sliced(whole, start, start + count)
        for name in ("input_ids", "token_type_ids", "offsets"):
            np.testing.assert_array_equal(getattr(again, name), getattr(part, name))
        start += count
    rng = np.random.default_rng(0)
    predictions = Predictions(
        {"of_texts": rng.normal(size=(start, 2)), "of_tokens": rng.normal(size=(int(whole.lengths.sum()), 3))},
        rng.integers(1, 5, (2, start)),
        whole.lengths,
    )
    parts = divided(predictions, counts)
    assert [len(part.outputs["of_tokens"]) for part in parts] == [sum(row) for row in lengths]
    assert [len(part.outputs["of_texts"]) for part in parts] == counts
    back = joined(parts)
    for name, values in predictions.outputs.items():
        np.testing.assert_array_equal(back.outputs[name], values)
    np.testing.assert_array_equal(back.kept, predictions.kept)


def ask_all(server, bodies, path="/predict"):
    """Answers of all of them, asked at the same time, each on a connection of its own."""

    async def run():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def ask(body):
                async with session.post(server.url + path, json=body) as response:
                    return response.status, await response.json()

            return await asyncio.gather(*map(ask, bodies))

    return asyncio.run(run())


@pytest.mark.parametrize("budget", [16_384, 40])
def test_mixed_requests(models, engines, budget):
    """Texts, pairs, models, thresholds and sizes, all at once, in batches large and small: each its own answer, in its order."""
    rng = np.random.default_rng(1)
    bodies, expected = [], []
    thresholds = (-1.0, 0.0, 1.0)
    answers = {
        (threshold, pair): engines["classifier"].predict(
            [(text, TEXTS[0]) for text in TEXTS] if pair else TEXTS, threshold=threshold, progress=False
        )
        for threshold in thresholds
        for pair in (False, True)
    }
    for _ in range(120):
        rows, threshold, pair = rng.integers(0, len(TEXTS), rng.integers(1, 7)), float(rng.choice(thresholds)), bool(rng.integers(2))
        texts = [[TEXTS[row], TEXTS[0]] if pair else [TEXTS[row]] for row in rows]
        bodies.append({"inputs": texts, "threshold": threshold, "raw_scores": True})
        expected.append([answers[threshold, pair][row].logits for row in rows])
    with serving([models["classifier"]], Limits(threshold_range=(-1, 1), max_batch_tokens=budget)) as server:
        for (status, answer), wanted in zip(ask_all(server, bodies), expected, strict=True):
            assert status == 200
            scores = [{entry["label"]: entry["score"] for entry in text} for text in answer]
            np.testing.assert_allclose([[row[label] for label in LABELS] for row in scores], wanted, atol=1e-4)
        metrics = server.ask("/metrics")[2].decode()
    sums = {line.split()[0]: float(line.split()[1]) for line in metrics.splitlines() if line.startswith("te_batch_next")}
    assert sums["te_batch_next_size_sum"] == sum(map(len, expected))
    if budget == 40:
        assert sums['te_batch_next_tokens_bucket{le="64.0"}'] == sums["te_batch_next_tokens_count"]
        assert sums["te_batch_next_tokens_count"] >= sums["te_batch_next_tokens_sum"] / budget > 40
    else:
        assert sums["te_batch_next_size_count"] < 120  # together


def test_overload(models):
    """What is beyond the limit is refused at once, the others are answered."""
    with serving([models["classifier"]], Limits(max_concurrent_requests=4)) as server:
        release = threading.Event()
        predict = server.service.pipeline._predict
        server.service.pipeline._predict = lambda job, examples: (release.wait(30), predict(job, examples))[1]
        timer = threading.Timer(1.0, release.set)
        timer.start()
        answers = ask_all(server, [{"inputs": "good"}] * 10)
        timer.join()
        server.service.in_flight += 4  # as many again
        assert [server.ask(*asked)[0] for asked in (("/tokenize", {"inputs": "good"}), ("/decode", {"ids": [2]}))] == [429, 429]
        server.service.in_flight -= 4
        assert sorted(status for status, _ in answers) == [200] * 4 + [429] * 6
        told = next(content for status, content in answers if status == 429)
        assert told == {"error": "the model is overloaded: try again in a moment", "error_type": "Overloaded"}
        assert server.ask("/predict", {"inputs": "good"})[0] == 200 and server.service.in_flight == 0


def test_pipelined_requests(server):
    """Several on one connection without waiting, answered in their order."""
    requests = b""
    for text in TEXTS:
        body = json.dumps({"inputs": text}).encode()
        requests += b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with server.send(requests) as connection:
        stream, vectors = connection.makefile("rb"), []
        for _ in TEXTS:
            assert stream.readline().startswith(b"HTTP/1.1 200")
            headers = dict(line.decode().strip().split(": ", 1) for line in iter(stream.readline, b"\r\n"))
            vectors += json.loads(stream.read(int(headers["content-length"])))
    np.testing.assert_allclose(vectors, server.say("/embed", {"inputs": TEXTS}), atol=1e-5)


@pytest.mark.parametrize(
    ("path", "inputs"),
    [("/embed_all", TEXTS), ("/tag", TEXTS), ("/tokenize", TEXTS), ("/answer", {"question": "bad film", "context": "good"})],
)
def test_long_answers_are_made_beside_the_others(server, monkeypatch, path, inputs):
    """While one is written, or looked for, the event loop answers."""
    held, release, write, find = threading.Event(), threading.Event(), orjson.dumps, handlers.answered

    def slowly(function):
        return lambda *arguments, **options: (held.set(), release.wait(60), function(*arguments, **options))[-1]

    if path == "/answer":
        monkeypatch.setattr(handlers, "answered", slowly(find))
    else:
        monkeypatch.setattr(exchange.orjson, "dumps", slowly(write))
    answers = []
    asking = threading.Thread(target=lambda: answers.append(server.ask(path, {"inputs": inputs})))
    asking.start()
    try:
        assert held.wait(60)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
    finally:
        release.set()
        asking.join(60)
    assert answers[0][0] == 200


def test_the_wait_for_the_tokenizer_is_of_the_queue(models):
    """It is neither reading nor computing."""
    with serving([models["classifier"]], Limits()) as server:
        release, answers = threading.Event(), []
        server.service.pipeline._unread.put(lambda: release.wait(30))
        asking = threading.Thread(target=lambda: answers.append(server.ask("/predict", {"inputs": "good"})))
        asking.start()
        while not server.service.in_flight:
            time.sleep(0.01)
        time.sleep(0.5)
        release.set()
        asking.join(60)
    status, headers, _ = answers[0]
    times = {name: float(headers[f"x-{name}-time"]) for name in ("total", "tokenization", "queue", "inference")}
    assert status == 200 and times["total"] >= times["queue"] >= 400 > times["tokenization"]
