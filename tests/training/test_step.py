"""Laws of the training step: every parameter learns, splitting a batch changes nothing, the teacher is heard, one program a shape."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from transkimmer_jax.config import Config, DataConfig, DistillConfig, OptimizerConfig, SkimConfig
from transkimmer_jax.data.tasks import TEXTS
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.models.skim import GumbelGate, ThresholdGate, increasing
from transkimmer_jax.training.budget import LengthDistribution
from transkimmer_jax.training.step import TrainState, TrainStep

ROWS, WIDTH = 8, 6
ARCH = Architecture(
    vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=12,
    num_labels=3, initializer_range=0.3, skim=SkimArchitecture(predictor_size=8, initial_bias=1.0),
)  # fmt: skip
DENSE = {"skim": None}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
# No weight decay: what moves was moved by its gradient.
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup=0.0, weight_decay=0.0)
SKIM = SkimConfig(coefficient=1.0)


def make_batch(width=WIDTH, seed=0):
    """Examples of 1 to `width` tokens, the last of which has no weight."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, width + 1, ROWS)
    lengths[0] = width
    mask = (np.arange(width) < lengths[:, None]).astype(np.int32)
    weight = np.ones(ROWS, np.float32)
    weight[-1] = 0
    return {
        "input_ids": rng.integers(1, 30, (ROWS, width)).astype(np.int32) * mask,
        "attention_mask": mask,
        "token_type_ids": (rng.integers(0, 2, (ROWS, width)) * mask).astype(np.int32),
        "labels": rng.integers(0, 3, ROWS).astype(np.int32),
        "weight": weight,
        "level": np.zeros(ROWS, np.int32),
    }


def make_model(seed=0, **changes):
    arch = dataclasses.replace(ARCH, **changes)
    return HEADS[arch.head](arch, rngs=nnx.Rngs(seed))


def make_decided_model(**changes):
    """Margins of 100 and -100 decide the gates whatever noise is added: the first layer keeps all, the second position 0 only."""
    model = make_model(**NO_DROPOUT, **changes)
    if model.arch.skim is not None:
        for predictor, bias in zip(model.encoder.predictors, (50.0, -50.0), strict=True):
            predictor.decision.bias[...] = jnp.array([-bias, bias])
    return model


def make_config(**sections):
    defaults = {"optimizer": OPTIMIZER, "skim": SKIM, "data": DataConfig(batch_size=ROWS)}
    return Config(**defaults | sections)


def create(config, model, total_steps, teacher=None):
    """The step, the state before the first step, and the teacher's."""
    step = TrainStep.create(config, model, total_steps, teacher)
    return step, step.start(nnx.split(model)[1]), None if teacher is None else nnx.split(teacher)[1]


def leaves(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_every_parameter_moves_and_each_shape_is_traced_once():
    """Dropout, sampled gates and the budget's price on; another padded length is another program."""
    step, state, _ = create(make_config(skim=SkimConfig()), make_model(), total_steps=20)
    before, traced = leaves(state.params), []

    @functools.wraps(step.update)
    def counted(*arguments):
        traced.append(arguments)
        return step.update(*arguments)

    train_step = jax.jit(counted, donate_argnums=0)
    for now in range(6):
        state, metrics = train_step(state, make_batch(seed=now), None)
        assert all(np.isfinite(value) and value.dtype == jnp.float32 for value in metrics.values())
    assert len(traced) == 1
    for now in range(3):
        train_step.trace(state, make_batch(WIDTH + 2, seed=now), None)
    assert len(traced) == 2
    assert float(metrics["coefficient"]) > 0
    assert int(state.step) == 6
    for name, leaf in leaves(state.params).items():
        assert np.abs(leaf - before[name]).max() > 1e-5, name


@pytest.mark.parametrize("changes", [DENSE, {}], ids=["dense", "skimming"])
def test_accumulation_changes_nothing(changes):
    """Gradient and logged sums of four micro-batches are those of the whole batch, though their token counts and weights differ.

    The first layer keeps all, the second [CLS] only.
    """
    results = []
    for count in (1, 4):
        model = make_decided_model(**changes)
        skim = dataclasses.replace(SKIM, enabled=model.arch.skim is not None)
        config = make_config(skim=skim, optimizer=dataclasses.replace(OPTIMIZER, accumulation=count))
        step, state, _ = create(config, model, total_steps=20)
        gradients = jax.jit(step._gradients)(state.params, make_batch(), None, jnp.float32(2.0), GumbelGate(), jax.random.key(0))
        results.append(gradients)
    (whole, sums), (split, split_sums) = results
    assert {name: float(value) for name, value in split_sums.items()} == pytest.approx(
        {name: float(value) for name, value in sums.items()}, rel=1e-6
    )
    kept = make_batch()["attention_mask"].sum()
    assert float(sums["kept_tokens"]) == pytest.approx((kept + ROWS) / (2 * kept) if changes == {} else 1.0, rel=1e-6)
    whole, split = leaves(whole), leaves(split)
    largest = max(np.abs(leaf).max() for leaf in whole.values())
    for name, leaf in whole.items():
        difference, size = np.abs(split[name] - leaf).max(), np.abs(leaf).max()
        # [CLS] attends to itself alone in the second layer, whose query and key have a gradient of 0 then: what is there is rounding.
        is_zero = changes == {} and "['layers'][1]['attention']" in name and size <= 1e-6 * largest
        assert difference <= 1e-6 * largest and (is_zero or difference <= 1e-5 * size), name


@pytest.mark.parametrize("count", [1, 4])
def test_the_coefficients_share_is_a_count_of_real_tokens(count):
    """The first layer keeps all, the second position 0 only; padding counts nowhere."""
    config = make_config(skim=SKIM, optimizer=dataclasses.replace(OPTIMIZER, accumulation=count))
    step, state, _ = create(config, make_decided_model(), total_steps=20)
    batch = make_batch()
    _, metrics = jax.jit(step.update)(state, batch, None)
    mask = batch["attention_mask"]
    share = (mask.sum() + ROWS) / (2 * mask.sum())
    assert float(metrics["share"]) == pytest.approx(share, rel=1e-6) == float(metrics["kept_tokens"])
    assert float(metrics["loss"]) == pytest.approx(float(metrics["task_loss"] + metrics["share"]), rel=1e-6)


@pytest.mark.parametrize("count", [1, 4])
def test_the_budgets_price_and_measure(count):
    """A token costs the same in a batch of short texts as in one of long ones, and what is spent is measured over served lengths.

    The first layer keeps all, the second position 0 only; by hand from the lengths. Of 4 tokens there is a served text for every
    training text, of 6 there are two, of others none.
    """
    skim = SkimConfig(target=0.5, warmup=0.0, anneal=0.0, noise_end=None)
    config = make_config(skim=skim, optimizer=dataclasses.replace(OPTIMIZER, accumulation=count))
    model = make_decided_model()
    served = LengthDistribution(5.0, np.array([0, 0, 0, 0, 1, 0, 2], np.float32))
    step = TrainStep.create(config, model, 20, distribution=served)
    state = step.start(nnx.split(model)[1])
    state = TrainState(jnp.int32(5), state.params, state.opt_state, dataclasses.replace(state.controller, price=jnp.full((1, 2), 3.0)))
    for lengths in ([4] * 8, [6] * 8, [4, 6, 2, 1, 4, 6, 3, 5]):
        batch = make_batch()
        batch["attention_mask"] = (np.arange(WIDTH) < np.array(lengths)[:, None]).astype(np.int32)
        after, metrics = jax.jit(step.update)(state, batch, None)
        lengths = np.array(lengths)
        kept, counts = (lengths + 1) / 2, served.counts[lengths]
        assert float(metrics["coefficient"]) == 3.0
        assert float(metrics["loss"] - metrics["task_loss"]) == pytest.approx(3 * kept.sum() / (8 * 5), rel=1e-5)
        spent, available = (0.7 + 0.3 * (each * counts).sum() / (8 * 5) for each in (kept, lengths))
        assert float(metrics["share"]) == pytest.approx(spent / available, rel=1e-5) == float(after.controller.measured.mean())


@pytest.mark.parametrize("count", [1, 4])
def test_an_embedder_pays_for_the_share_of_a_text(count):
    """Texts of which the second layer keeps position 0 only; the share that is measured counts tokens, as of every head."""
    skim = SkimConfig(target=0.5, warmup=0.0, anneal=0.0, noise_end=None)
    config = make_config(
        skim=skim, optimizer=dataclasses.replace(OPTIMIZER, accumulation=count), distill=DistillConfig(teacher="given", weight=1.0),
        data=DataConfig(task=TEXTS, batch_size=ROWS),
    )  # fmt: skip
    model = make_decided_model(head="sentence_embedding")
    teacher = make_model(seed=1, head="sentence_embedding", **DENSE)
    step = TrainStep.create(config, model, 20, teacher, distribution=LengthDistribution.like(5.0))
    state = step.start(nnx.split(model)[1])
    state = TrainState(jnp.int32(5), state.params, state.opt_state, dataclasses.replace(state.controller, price=jnp.full((1, 2), 3.0)))
    batch, lengths = make_batch(), np.array([4, 6, 2, 1, 4, 6, 3, 5])
    batch["attention_mask"] = (np.arange(WIDTH) < lengths[:, None]).astype(np.int32)
    _, metrics = jax.jit(step.update)(state, batch, nnx.split(teacher)[1])
    kept = (lengths + 1) / 2
    assert float(metrics["loss"] - metrics["task_loss"]) == pytest.approx(3 * (kept / lengths).mean(), rel=1e-5)
    assert float(metrics["share"]) == pytest.approx((0.7 + 0.3 * kept.mean() / 5) / (0.7 + 0.3 * lengths.mean() / 5), rel=1e-5)


LEVELS = SkimArchitecture(predictor_size=8, initial_bias=0.0, levels=(0.6, 0.3))


def make_model_of_levels():
    """At the first level every token is kept, at the second position 0 only."""
    model = make_model(**NO_DROPOUT, skim=LEVELS)
    for level in model.encoder.levels:
        level.knots[...] = jnp.array([-50.0, 50.0])
    return model


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_level_has_its_price_and_measure(count):
    """Every second text is at the first level, and in the next step at the other; each level's controller sees its own texts alone."""
    skim = SkimConfig(target=0.3, levels=(0.6,), warmup=0.0, anneal=0.0, noise_end=None)
    config = make_config(skim=skim, optimizer=dataclasses.replace(OPTIMIZER, accumulation=count))
    step = TrainStep.create(config, make_model_of_levels(), 20)
    start = step.start(nnx.split(make_model_of_levels())[1])
    prices = np.array([2.0, 5.0], np.float32)
    for now in (4, 5):
        controller = dataclasses.replace(start.controller, price=jnp.broadcast_to(jnp.asarray(prices)[:, None], step.plans.shape))
        state = TrainState(jnp.int32(now), start.params, start.opt_state, controller)
        batch = make_batch()
        lengths = batch["attention_mask"].sum(axis=1)
        after, metrics = jax.jit(step.update)(state, batch, None)
        level = (np.arange(ROWS) + now) % 2
        kept = np.where(level == 0, lengths, 1)
        price = (prices[level] * kept).sum() / (ROWS * 32)
        assert float(metrics["loss"] - metrics["task_loss"]) == pytest.approx(price, rel=1e-5)
        seen = [[values[level == number].sum() * 2 / (ROWS * 32) for number in (0, 1)] for values in (kept, lengths)]
        spent, available = 0.7 + 0.3 * np.array(seen)
        np.testing.assert_allclose(after.controller.measured, np.broadcast_to((spent / available)[:, None], (2, 2)), rtol=1e-5)
        shifts = step.plans.T - spent / available
        for shift, old, new in zip(
            shifts, state.params["encoder"]["levels"].values(), after.params["encoder"]["levels"].values(), strict=True
        ):
            moved = np.asarray(old["knots"][...] - new["knots"][...])
            # Adam moves a knot by its learning rate at most; the controller by what is to be corrected.
            np.testing.assert_allclose(moved, shift, atol=1.1e-2 + 1e-6)


def test_knots_do_not_cross():
    """Whatever the controllers ask for: a step leaves them as `Levels.scale` reads them, so that what is trained is what is evaluated."""
    skim = SkimConfig(target=0.3, levels=(0.6,), warmup=0.0, anneal=0.0, noise_end=None)
    model = make_model(skim=LEVELS)
    for level in model.encoder.levels:
        level.knots[...] = jnp.array([3.0, 3.1])  # both skim nearly all, which is too much for the first and more than that
    step = TrainStep.create(make_config(skim=skim), model, 20)
    state = step.start(nnx.split(model)[1])
    controller = dataclasses.replace(state.controller, spent=jnp.broadcast_to(jnp.array([[1.0], [0.0]]), state.controller.spent.shape))
    after, _ = jax.jit(step.update)(dataclasses.replace(state, step=jnp.int32(4), controller=controller), make_batch(), None)
    for level in after.params["encoder"]["levels"].values():
        knots = np.asarray(level["knots"][...])
        np.testing.assert_array_equal(knots, increasing(knots))
        assert knots[1] - knots[0] == pytest.approx(1e-3, rel=1e-2), "they would have crossed"


def test_frozen_predictors_stay():
    """From then on predictors learn nothing and nothing is priced; the others go on learning, and controllers hold the share."""
    skim = SkimConfig(target=0.3, levels=(0.6,), warmup=0.0, anneal=0.1, noise_end=0.5)
    step = TrainStep.create(make_config(skim=skim), make_model(skim=LEVELS), 10)
    state, update, moved = step.start(nnx.split(make_model(skim=LEVELS))[1]), jax.jit(step.update), []
    for now in range(8):
        before = leaves(state.params)
        state, metrics = update(state, make_batch(seed=now), None)
        moved.append({name: bool(np.any(leaf != before[name])) for name, leaf in leaves(state.params).items()})
        assert (float(metrics["coefficient"]) != 0) == (1 < now < 5)
    assert all(any(step[name] for step in moved[1:5]) for name in moved[0])
    assert all(step[name] != ("predictors" in name) for step in moved[5:] for name in step)


def test_nothing_is_learned_through_decisions_that_stand():
    """The gradient is that of fixed decisions. The relaxation's would go on into what the predictors read, without a price beside it."""
    skim = SkimConfig(target=0.3, levels=(0.6,), warmup=0.0, anneal=0.1, noise_end=0.5)
    step = TrainStep.create(make_config(skim=skim), make_model(skim=LEVELS), 10)
    state, batch = step.start(nnx.split(make_model(skim=LEVELS))[1]), make_batch()
    state = dataclasses.replace(state, step=jnp.int32(7))
    _, metrics = jax.jit(step.update)(state, batch, None)
    key, price = jax.random.fold_in(jax.random.key(step.config.train.seed), 7), jnp.zeros_like(state.controller.price)
    level = (jnp.arange(ROWS, dtype=jnp.int32) + 7) % 2
    norms = [
        float(optax.tree.norm(jax.jit(step._gradients)(state.params, batch | {"level": level}, None, price, gate, key)[0]))
        for gate in (ThresholdGate(0.0), GumbelGate(0.0))
    ]
    assert float(metrics["grad_norm"]) == pytest.approx(norms[0], rel=1e-5) and norms[1] != pytest.approx(norms[0], rel=1e-3)


@pytest.mark.parametrize("changes", [{}, {"compute_dtype": "bfloat16", "remat": True}], ids=["float32", "bfloat16 and remat"])
def test_a_tiny_batch_is_learned_by_heart(changes):
    """Skimming at a low, constant price. Parameters stay float32 whatever the compute dtype."""
    config = make_config(skim=dataclasses.replace(SKIM, coefficient=0.01))
    step, state, _ = create(config, make_model(**NO_DROPOUT, **changes), total_steps=100)
    train_step, losses = jax.jit(step.update, donate_argnums=0), []
    for _ in range(30):
        state, metrics = train_step(state, make_batch(), None)
        losses.append(float(metrics["task_loss"]))
        assert metrics["coefficient"] == np.float32(0.01)
        assert float(metrics["loss"]) == pytest.approx(losses[-1] + 0.01 * float(metrics["kept_tokens"]), rel=1e-5)
    assert losses[0] > 0.5 and np.mean(losses[-5:]) < 0.1 * losses[0], losses
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_the_teacher_takes_part():
    """The logged loss is the mixture of both by its formula; a teacher who says what the student says adds nothing."""
    weight, temperature, batch = 0.25, 2.0, make_batch()
    config = make_config(
        skim=dataclasses.replace(SKIM, enabled=False), distill=DistillConfig(teacher="given", weight=weight, temperature=temperature)
    )
    student, teacher = make_model(**NO_DROPOUT, **DENSE), make_model(seed=1, **DENSE)
    inputs = [batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")]
    logits, teacher_logits = (np.asarray(model(*inputs).logits, np.float64) for model in (student, teacher))

    def log_softmax(values):
        return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))

    real = batch["weight"].sum()
    entropy = -(log_softmax(logits)[np.arange(ROWS), batch["labels"]] * batch["weight"]).sum() / real
    taught, learned = log_softmax(teacher_logits / temperature), log_softmax(logits / temperature)
    divergence = temperature**2 * ((np.exp(taught) * (taught - learned)).sum(axis=-1) * batch["weight"]).sum() / real
    assert divergence > 0.1

    step, state, params = create(config, student, 20, teacher)
    train_step = jax.jit(step.update)
    after, metrics = train_step(state, batch, params)
    assert float(metrics["loss"]) == pytest.approx((1 - weight) * entropy + weight * divergence, rel=1e-5)
    alone, metrics = train_step(state, batch, state.params)
    assert float(metrics["loss"]) == pytest.approx((1 - weight) * entropy, rel=1e-5)
    moved, other = leaves(after.params), leaves(alone.params)
    assert any(np.abs(moved[name] - other[name]).max() > 1e-3 for name in moved)


def test_texts_without_labels_are_the_teachers_alone():
    """Their labels are not heard, the teacher is heard in full, and the budget counts them; in micro-batches as in whole ones."""
    model, teacher = make_decided_model(), make_model(seed=1, **DENSE)
    batch = make_batch()
    labelled, weight = np.arange(ROWS) % 2 == 0, batch["weight"]

    @functools.cache
    def started(share):
        distill = DistillConfig(teacher="given", weight=share)
        config = make_config(skim=SkimConfig(), distill=distill, optimizer=dataclasses.replace(OPTIMIZER, accumulation=4))
        step, state, params = create(config, model, 20, teacher)
        return jax.jit(step._gradients), state.params, params

    def learned(batch, share=0.25):
        gradients, student, params = started(share)
        return gradients(student, batch, params, jnp.zeros((1, 2)), GumbelGate(noise=0.0), jax.random.key(0))

    marked = batch | {"labelled": labelled.astype(np.float32)}
    gradients, sums = learned(marked)
    wrong = marked | {"labels": np.where(labelled, batch["labels"], (batch["labels"] + 1) % 3)}
    jax.tree.map(np.testing.assert_array_equal, (gradients, sums), learned(wrong))
    with_labels = learned(batch | {"weight": weight * labelled})[1]["task_loss"] * (weight * labelled).sum()
    without = learned(batch | {"weight": weight * ~labelled}, share=1.0)[1]["task_loss"] * (weight * ~labelled).sum()
    assert float(sums["task_loss"]) == pytest.approx(float(with_labels + without) / weight.sum(), rel=1e-5)
    for name in ("spent", "available"):
        np.testing.assert_array_equal(sums[name], learned(batch)[1][name])


@pytest.mark.parametrize(
    ("skim", "refused"),
    [({"enabled": False}, False), ({"coefficient": 0.5}, False), ({"target": 0.2}, False), ({"target": 0.9}, True)],
)
def test_only_a_budget_can_be_more_than_a_cut_model_costs(skim, refused):
    """A dense model of a few layers, or a skimming one with a constant coefficient, is asked for no share of anything."""
    model = make_model(dense_layers=6, **(DENSE if "enabled" in skim else {}))
    with pytest.raises(ConfigError, match="skim.target=0.9 is more than the model costs") if refused else contextlib.nullcontext():
        TrainStep.create(Config(skim=SkimConfig(**skim)), model, 20)
