"""Which texts a run is trained on, and which it is judged on."""

import dataclasses
import tracemalloc

import numpy as np

from transkimmer_jax.config import MeshConfig, override
from transkimmer_jax.data.examples import Answers, Examples, objects
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.training import inputs
from transkimmer_jax.training.inputs import RunExamples
from transkimmer_jax.training.models import load_task


def digest(*splits, names=("neg", "pos"), prompt=""):
    training, validation = splits
    return RunExamples(training, {"validation": validation}, {}).digest(Task("files", ("text",), names, 8, prompt=prompt))


def test_a_digest_is_of_all_texts_and_labels():
    """Of words, pairs, answers and the prompt too; where one ends and the next begins, and in which split, counts."""
    one, two = (Examples([text], None, np.zeros(1, np.int32)) for text in ("a", "b"))
    tags = [Examples([["a", "b"]], None, objects([labels])) for labels in ((0, 1), (1, 1))]
    answered = [Examples(["q"], ["a a"], objects([Answers(("a",), (start,))])) for start in (0, 2)]
    both = Examples(["a", "b"], None, np.zeros(2, np.int32))
    digests = [
        digest(one, two), digest(two, one), digest(one, two, names=("pos", "neg")), digest(one, two, names=None), digest(both, two),
        digest(one, two, prompt="the "),
        digest(Examples(["ab"], None, one.labels), two), digest(Examples(["a"], ["b"], one.labels), two),
        digest(dataclasses.replace(one, labels=np.ones(1, np.int32)), two),
        digest(dataclasses.replace(one, labelled=np.ones(1, bool)), two),
        digest(dataclasses.replace(one, labels=np.full(1, 0.25, np.float32)), two), digest(Examples(["\ud800"], None, one.labels), two),
        *(digest(one, each) for each in (*tags, *answered)),
    ]  # fmt: skip
    assert len(set(digests)) == len(digests) and digest(one.take(np.array([0])), two) == digests[0]


def test_a_digest_takes_memory_for_a_part_of_the_labels(monkeypatch):
    """As Python's numbers a table of labels is eight times as large as it lies here."""
    monkeypatch.setattr(inputs, "_DIGESTED_AT_ONCE", 100)
    many = Examples([str(number) for number in range(1000)], None, np.zeros((1000, 100), np.float32))
    tracemalloc.start()
    try:
        digest(many, many.take(np.array([0])))
        assert tracemalloc.get_traced_memory()[1] < 3 * many.labels.nbytes
    finally:
        tracemalloc.stop()


def test_training_texts_that_are_cut_are_counted(config, caplog):
    task, tokenizer = load_task(config), load_tokenizer(config.model.pretrained)
    examples = inputs.load_examples(config, task)
    caplog.clear()  # of what the first reader of the file says
    inputs.tokenize(config, task, examples, tokenizer, Placement.create(MeshConfig()))
    assert not caplog.messages
    inputs.tokenize(config, dataclasses.replace(task, max_length=6), examples, tokenizer, Placement.create(MeshConfig()))
    cut = sum(len(text.split()) + 2 > 6 for text in examples.training.texts)
    said = f"{cut} of {len(examples.training)} training texts are longer than data.max_length=6: the rest of each is not read"
    assert cut > 0 and len(caplog.messages) == 1 and caplog.messages[0].startswith(said)


def test_runs_of_every_seed_are_judged_on_the_same_texts(config, monkeypatch):
    """Those of the threshold as well; what is trained on is drawn by the seed."""
    monkeypatch.setattr(inputs, "_THRESHOLD_EXAMPLES", 5)
    config = override(config, {"data.train_examples": "80", "data.eval_examples": "20"})
    task, tokenizer = load_task(config), load_tokenizer(config.model.pretrained)
    drawn, tokens = [], []
    for seed in (0, 1):
        seeded = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        drawn.append(inputs.load_examples(seeded, task))
        tokens.append(inputs.tokenize(seeded, task, drawn[-1], tokenizer, Placement.create(MeshConfig())))
    assert drawn[0].training.texts != drawn[1].training.texts and len(drawn[0].training) == 80
    assert (
        drawn[0].validation["validation"].texts == drawn[1].validation["validation"].texts and len(drawn[0].validation["validation"]) == 20
    )
    first, second = (list(each.threshold_split.batches) for each in tokens)
    assert len(first) == len(second) == 1 and np.count_nonzero(first[0]["index"] >= 0) == 5
    np.testing.assert_array_equal(first[0]["input_ids"], second[0]["input_ids"])
