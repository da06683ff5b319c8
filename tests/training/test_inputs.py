"""Which texts a run is trained on, and which it is judged on."""

import dataclasses

import numpy as np

from transkimmer_jax.config import MeshConfig, override
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.parallel.placement import Placement
from transkimmer_jax.training import inputs
from transkimmer_jax.training.models import load_task


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
