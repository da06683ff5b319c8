"""Where the maps of skimmed tokens' states start."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from flax import nnx
from inference.skimmers import ARCH, MODERN

from transkimmer_jax import TranskimmerForSentenceEmbedding, TranskimmerForSequenceClassification
from transkimmer_jax.config import MeshConfig
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.training import forwarding

LINEAR = {"levels": (0.6, 0.3), "forwarding": "linear"}


def make_model(arch):
    arch = dataclasses.replace(arch, skim=dataclasses.replace(arch.skim, **LINEAR))
    return TranskimmerForSentenceEmbedding(arch, rngs=nnx.Rngs(0))


def make_batches(count, rows=8, width=12):
    rng = np.random.default_rng(0)
    for _ in range(count):
        mask = (np.arange(width) < rng.integers(1, width + 1, rows)[:, None]).astype(np.int32)
        yield {
            "input_ids": rng.integers(0, 50, (rows, width)).astype(np.int32),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }


@pytest.mark.parametrize("arch", [ARCH, MODERN], ids=["bert", "modernbert"])
def test_maps_are_the_least_squares(arch):
    """Of each layer, by NumPy's own solver over all real tokens at once; nothing else of the model changes."""
    model, batches = make_model(arch), list(make_batches(20))
    graph, params = nnx.split(model)
    placement = Placement.create(MeshConfig())
    with jax.set_mesh(placement.mesh):
        fitted = nnx.merge(graph, forwarding.fitted(graph, placement.put(params), batches, placement))
    states, finals = [[] for _ in range(arch.num_hidden_layers)], []
    for batch in batches:
        out = model(*batch.values(), threshold=-np.inf)
        real = batch["attention_mask"] != 0
        finals.append(np.asarray(out.last_hidden_state)[real])
        for number, state in enumerate(out.hidden_states[: arch.num_hidden_layers]):
            states[number].append(np.asarray(model.encoder.leaving(None).normalize(state))[real])
    final = np.concatenate(finals).astype(np.float64)
    for number, (rows, learned) in enumerate(zip(states, fitted.encoder.forwarding, strict=True)):
        state = np.concatenate(rows).astype(np.float64)
        features = np.concatenate([state, np.ones((len(state), 1))], axis=1)
        ridge = np.sqrt(1e-3 * np.square(features).sum() / features.shape[1])
        padded = np.concatenate([features, ridge * np.eye(features.shape[1])])
        target = np.concatenate([final - state, np.zeros((features.shape[1], final.shape[1]))])
        expected = np.linalg.lstsq(padded, target, rcond=None)[0]
        np.testing.assert_allclose(learned.kernel[...], expected[:-1], atol=2e-4)
        np.testing.assert_allclose(learned.bias[...], expected[-1], atol=2e-4)
        guess = state + features @ expected
        assert np.square(guess - final).mean() < 0.9 * np.square(state - final).mean(), number
    others = [jax.tree_util.tree_leaves_with_path(nnx.state(each, lambda path, _: "forwarding" not in path)) for each in (model, fitted)]
    for (_, before), (_, after) in zip(*others, strict=True):
        np.testing.assert_array_equal(before, after)


def test_maps_of_some_layers():
    """Each is that of its layer, wherever the others are."""
    every, some = (dataclasses.replace(ARCH, skim=dataclasses.replace(ARCH.skim, layers=layers)) for layers in (None, (0, 2)))
    models, placement = [make_model(arch) for arch in (every, some)], Placement.create(MeshConfig())
    models[1].encoder.layers, models[1].embeddings = models[0].encoder.layers, models[0].embeddings
    with jax.set_mesh(placement.mesh):
        fitted = [
            nnx.merge(graph, forwarding.fitted(graph, placement.put(params), make_batches(4), placement)).encoder.forwarding
            for graph, params in map(nnx.split, models)
        ]
    assert len(fitted[1]) == 2
    for ours, theirs in zip(fitted[1], (fitted[0][0], fitted[0][2]), strict=True):
        np.testing.assert_allclose(ours.kernel[...], theirs.kernel[...], atol=1e-5)


def test_maps_that_have_learned_are_left_alone():
    model = make_model(ARCH)
    assert forwarding.are_fresh(nnx.split(model)[1])
    model.encoder.forwarding[1].bias[...] = model.encoder.forwarding[1].bias[...] + 1e-3
    assert not forwarding.are_fresh(nnx.split(model)[1])
    assert not forwarding.are_fresh(nnx.split(TranskimmerForSequenceClassification(ARCH, rngs=nnx.Rngs(0)))[1])


def test_only_so_many_texts_are_read():
    """An endless iterator of batches ends the fit all the same."""
    graph, params = nnx.split(make_model(ARCH))
    placement = Placement.create(MeshConfig())
    with jax.set_mesh(placement.mesh):
        fitted = forwarding.fitted(graph, placement.put(params), itertools.cycle(make_batches(2)), placement)
    assert not forwarding.are_fresh(fitted)
