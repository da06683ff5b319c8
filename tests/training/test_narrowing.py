"""Feed-forward blocks of fewer neurons."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from flax import nnx
from inference.skimmers import ARCH, MODERN
from training.test_forwarding import make_batches

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.config import MeshConfig
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.models import flops
from transkimmer_jax.training.narrowing import narrowed

NEURONS = 20
both = pytest.mark.parametrize("arch", [ARCH, MODERN], ids=["bert", "modernbert"])


def make_model(arch, idle=False):
    """Of twice `NEURONS` in a block. idle: every other one adds very little."""
    model = TranskimmerForSequenceClassification(dataclasses.replace(arch, intermediate_size=2 * NEURONS), rngs=nnx.Rngs(0))
    for layer in model.encoder.layers if idle else ():
        layer.down.kernel[...] = layer.down.kernel[...].at[::2].multiply(1e-4)
    return model


def narrow(model, size, batches):
    placement = Placement.create(MeshConfig())
    with jax.set_mesh(placement.mesh):
        return narrowed(model, size, iter(batches), placement)


def answers(model, batches):
    return np.concatenate([np.asarray(model(*batch.values(), threshold=-np.inf).logits) for batch in batches])


@both
def test_neurons_that_add_nothing_are_left_out(arch):
    model, batches = make_model(arch, idle=True), list(make_batches(20))
    small = narrow(model, NEURONS, batches)
    assert small.arch == dataclasses.replace(model.arch, intermediate_size=NEURONS, dense_intermediate=2 * NEURONS)
    for before, after in zip(model.encoder.layers, small.encoder.layers, strict=True):
        gates = before.up.kernel.shape[1] // (2 * NEURONS)
        np.testing.assert_array_equal(
            after.up.kernel[...], before.up.kernel[...].reshape(-1, gates, 2 * NEURONS)[:, :, 1::2].reshape(-1, gates * NEURONS)
        )
    wanted = answers(model, batches)
    assert np.abs(answers(small, batches) - wanted).max() < 1e-3 * np.abs(wanted).max()


@both
def test_the_others_stand_for_what_is_left_out(arch):
    """Outgoing weights are the least squares by NumPy's own solver, over all real tokens at once; they do better than those that were."""
    model, batches = make_model(arch), list(make_batches(20))
    small = narrow(model, NEURONS, batches)
    first, narrow_first = model.encoder.layers[0], small.encoder.layers[0]
    inner: list[np.ndarray] = []
    down = first.down
    first.down = lambda values: (inner.append(np.asarray(values)), down(values))[1]
    for batch in batches:
        model(*batch.values(), threshold=-np.inf)
    first.down = down
    values = np.concatenate([rows[batch["attention_mask"] != 0] for rows, batch in zip(inner, batches, strict=True)]).astype(np.float64)
    ups = np.asarray(first.up.kernel[...]).T[: 2 * NEURONS]
    kept = [int(np.flatnonzero((ups == column).all(axis=1))[0]) for column in np.asarray(narrow_first.up.kernel[...]).T[:NEURONS]]
    assert kept == sorted(set(kept))
    has_bias = first.down.bias is not None
    features = np.concatenate([values[:, kept], np.ones((len(values), 1))], axis=1) if has_bias else values[:, kept]
    weights = np.asarray(down.kernel[...], np.float64)
    drawn = np.concatenate([weights[kept], np.zeros((1, weights.shape[1]))]) if has_bias else weights[kept]
    ridge = np.sqrt(1e-3 * np.square(values).sum(axis=0).mean())
    target = np.concatenate([values @ weights, ridge * drawn])
    expected = np.linalg.lstsq(np.concatenate([features, ridge * np.eye(features.shape[1])]), target, rcond=None)[0]
    np.testing.assert_allclose(narrow_first.down.kernel[...], expected[:NEURONS], rtol=1e-3, atol=1e-5)
    if has_bias:
        np.testing.assert_allclose(narrow_first.down.bias[...] - down.bias[...], expected[NEURONS], rtol=1e-3, atol=1e-5)
    error, before = (np.square(guess - values @ weights).mean() for guess in (features @ expected, values[:, kept] @ weights[kept]))
    assert error < 0.9 * before


def test_what_is_saved_is_told_from_the_whole(tmp_path):
    """FLOPs are compared with those of the model with all neurons, after a save too; a model as wide as asked for is left alone."""
    model = make_model(ARCH)
    small = narrow(model, NEURONS, make_batches(2))
    small.save_pretrained(tmp_path / "small")
    again = TranskimmerForSequenceClassification.from_pretrained(tmp_path / "small")
    assert again.arch == small.arch and again.arch.compared == model.arch.compared
    assert flops.dense(again.arch, np.array(9.0)) == flops.dense(model.arch, np.array(9.0))
    assert narrow(again, NEURONS, ()) is again and narrow(again, None, ()) is again
    assert narrow(again, NEURONS // 2, make_batches(2)).arch.dense_intermediate == 2 * NEURONS
    assert narrow(model, 1 / 3, make_batches(2)).arch.intermediate_size == 13  # of 40
    with pytest.raises(ConfigError, match=re.escape("model.intermediate_size=41 of a checkpoint with 40 neurons in a feed-forward block")):
        narrow(model, 2 * NEURONS + 1, ())
