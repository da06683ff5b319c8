"""Laws of the optimiser: who is decayed, at which rate who moves, and what clipping does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.config import OptimizerConfig
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.training import optimizer, step
from transkimmer_jax.training.optimizer import decay_mask, linear_warmup_decay, roles

LAYERS = 2
ARCH = Architecture(
    vocab_size=8, hidden_size=8, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=8, max_position_embeddings=8,
    skim=SkimArchitecture(levels=(0.6, 0.3)),
)  # fmt: skip
NO_DECAY = {"warmup": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: nnx.state(TranskimmerForSequenceClassification(ARCH, rngs=nnx.Rngs(0))))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def by_name(tree):
    """{'encoder/layers/0/up/kernel': leaf}"""
    return {
        "/".join(str(entry.key) for entry in path if hasattr(entry, "key")): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def predicts(name):
    """Whether a parameter is of a predictor, or of the knots of its levels."""
    return name.startswith(("encoder/predictors/", "encoder/levels/"))


def first_update(config, params, gradients):
    """What one step adds to every parameter."""
    optimizer = step.create_optimizer(config, 100)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return {name: np.asarray(update) for name, update in by_name(updates).items()}


def test_decay_mask(params):
    """The matrices and the embedding tables, by name; no bias and no LayerNorm, the predictors' included."""
    layer = ["attention/query", "attention/key_value", "attention/out", "up", "down"]
    matrices = [f"encoder/layers/{index}/{name}" for index in range(LAYERS) for name in layer]
    matrices += [f"encoder/predictors/{index}/{name}" for index in range(LAYERS) for name in ("dense", "decision")]
    decayed = {f"{name}/kernel" for name in [*matrices, "pooler", "classifier"]}
    decayed |= {f"embeddings/{table}/embedding" for table in ("word", "position", "token_type")}
    mask = by_name(decay_mask(params))
    assert {name for name, decays in mask.items() if decays} == decayed
    # Two leaves of every norm (embeddings, two a layer and two a predictor), one bias of every matrix, and the knots of every predictor.
    assert sum(not decays for decays in mask.values()) == 2 * (1 + 4 * LAYERS) + len(matrices) + 2 + LAYERS


def test_roles(params):
    """Predictors, and the knots of their levels."""
    assert {name for name, role in by_name(roles(params)).items() if role == "predictor"} == set(filter(predicts, by_name(params)))
    assert set(by_name(roles(params)).values()) == {"base", "predictor"}


@pytest.mark.parametrize(
    ("warmup", "values"),
    [
        (10, {0: 0.0, 5: 1.5, 10: 3.0, 55: 1.5, 99: 3 / 90, 100: 0.0}),
        (0, {0: 3.0, 50: 1.5, 100: 0.0}),
        (100, {0: 0.0, 33: 1.0, 99: 3.0, 100: 0.0, 101: 0.0}),
        (300, {0: 0.0, 99: 3.0, 100: 0.0}),
    ],
)
def test_schedule(warmup, values):
    schedule = linear_warmup_decay(3.0, warmup, 100)
    assert [float(schedule(jnp.int32(now))) for now in values] == pytest.approx(list(values.values()), rel=1e-6, abs=3e-7)


@pytest.mark.parametrize(("predictor_rate", "moved"), [(5e-3, 5e-3), (None, 1e-3)])
def test_predictors_have_their_own_rate(params, predictor_rate, moved):
    """AdamW's first step on a gradient of ones is the learning rate itself."""
    config = OptimizerConfig(learning_rate=1e-3, predictor_learning_rate=predictor_rate, **NO_DECAY)
    for name, update in first_update(config, params, jax.tree.map(jnp.ones_like, params)).items():
        np.testing.assert_allclose(update, -moved if predicts(name) else -1e-3, rtol=1e-5, err_msg=name)


def test_decay_is_decoupled_and_at_each_roles_rate(params):
    """Without a gradient a matrix shrinks by rate times decay, everything else stays."""
    config = OptimizerConfig(learning_rate=1e-3, predictor_learning_rate=5e-3, weight_decay=0.1, warmup=0.0)
    values, mask = by_name(params), by_name(decay_mask(params))
    for name, update in first_update(config, params, jax.tree.map(jnp.zeros_like, params)).items():
        rate = (5e-3 if predicts(name) else 1e-3) * 0.1 * mask[name]
        np.testing.assert_allclose(update, -rate * np.asarray(values[name]), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_clipping(params, scale, clip_norm, monkeypatch):
    """By the norm of all parameters of a role together. A large epsilon makes AdamW's step tell the size of what it is given."""
    epsilon = 0.1
    monkeypatch.setattr(optimizer.optax, "adamw", functools.partial(optax.adamw, eps=epsilon))
    rng = np.random.default_rng(1)
    gradients = jax.tree.map(lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype), params)
    of_role = by_name(roles(params))
    squares = {"base": 0.0, "predictor": 0.0}
    for name, gradient in by_name(gradients).items():
        squares[of_role[name]] += float(np.sum(np.square(np.asarray(gradient, np.float64))))
    assert squares["base"] != pytest.approx(squares["predictor"], rel=0.1)
    updates = first_update(OptimizerConfig(learning_rate=1.0, **NO_DECAY | {"clip_norm": clip_norm}), params, gradients)
    for name, gradient in by_name(gradients).items():
        factor = min(1.0, clip_norm / np.sqrt(squares[of_role[name]])) if clip_norm else 1.0
        clipped = factor * np.asarray(gradient, np.float64)
        np.testing.assert_allclose(updates[name], -clipped / (np.abs(clipped) + epsilon), rtol=1e-4, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("warmup", [0.0, 0.06])
def test_predictors_that_never_learn(params, warmup):
    """Frozen from the first step on: nothing of them moves, and all others do."""
    optimizer = step.create_optimizer(OptimizerConfig(warmup=warmup, weight_decay=0.0), 100, 0.0)
    state, ones = optimizer.init(params), jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        updates, state = optimizer.update(ones, state, params)
    for name, update in by_name(updates).items():
        assert (np.abs(update).max() == 0) == predicts(name), name
