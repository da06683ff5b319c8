"""One optimiser step, as a pure function for `jax.jit`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from transkimmer_jax.config import Config
from transkimmer_jax.data.tasks import TEXTS
from transkimmer_jax.distributed.placement import Placement, gathered
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.models.skim import GumbelGate, skim_denominator, skim_loss, with_increasing_levels, with_shifted_margins
from transkimmer_jax.training import budget, objectives
from transkimmer_jax.training.budget import Controller, LengthDistribution
from transkimmer_jax.training.optimizer import create_optimizer

# input_ids, attention_mask, token_type_ids [B, S]; labels [B], of a tagger [B, S], where a text has any number of labels [B, labels];
# weight [B]; labelled [B] where some have no label; answers, the teacher's outputs by name [B, ...], where it was asked before
Batch = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes. Random numbers are functions of the seed and `step`, so none are kept."""

    step: jax.Array
    params: nnx.State
    opt_state: Any
    controller: Controller


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The optimiser step of one run, and what it closes over."""

    config: Config
    arch: Architecture
    graph: nnx.GraphDef
    optimizer: optax.GradientTransformation
    total_steps: int
    plans: np.ndarray
    distribution: LengthDistribution
    teacher_graph: nnx.GraphDef | None = None

    @classmethod
    def create(
        cls,
        config: Config,
        model: TranskimmerPreTrainedModel,
        total_steps: int,
        teacher: TranskimmerPreTrainedModel | None = None,
        distribution: LengthDistribution | None = None,
    ) -> "TrainStep":
        """The step of a run of `model`, which may be one of shapes alone.

        distribution: of the texts that the budget is stated for; None: texts of 32 tokens.

        Raises:
          ConfigError: the model has too few layers or neurons to spend the budget.
        """
        distribution = distribution or LengthDistribution.like(32.0)
        if config.skim.enabled:
            budget.require_spendable(config.skim, model.arch, distribution.mean)
        optimizer = create_optimizer(config.optimizer, total_steps, config.skim.settled_from)
        plans = budget.plans(config.skim, model.arch, distribution)
        teacher_graph = None if teacher is None else nnx.split(teacher)[0]
        return cls(config, model.arch, nnx.split(model)[0], optimizer, total_steps, plans, distribution, teacher_graph)

    def start(self, params: nnx.State) -> TrainState:
        """The state before the first step. To be jitted with the shardings of a `Placement`, so that no device ever holds all of it."""
        return TrainState(jnp.int32(0), params, self.optimizer.init(params), Controller.start(self.plans.shape))

    def place(self, params: nnx.State, placement: Placement) -> TrainState:
        """`start`, on the devices of a mesh."""
        shardings = placement.parameters(jax.eval_shape(self.start, params))
        return jax.jit(self.start, out_shardings=shardings)(placement.put(params))

    def jitted(self, state: TrainState, placement: Placement) -> Any:
        """`update` for states that lie as this one does, of arrays or shapes with shardings. The state is donated."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        return jax.jit(self.update, donate_argnums=0, out_shardings=(shardings, placement.replicated))

    def update(self, state: TrainState, batch: Batch, teacher: nnx.State | None) -> tuple[TrainState, dict[str, jax.Array]]:
        """One optimiser step on one batch; scalars to log come with the new state. teacher: its parameters; None where the batch has its
        answers."""
        config, skim = self.config, self.config.skim
        skimming = skim.enabled
        target = budget.target_share(skim, self.plans, state.step, self.total_steps)
        settled = state.step.astype(jnp.float32) >= budget.settles_at(skim, self.total_steps)
        # Each text of a batch has its level, and the next time another.
        level = (jnp.arange(len(batch["weight"]), dtype=jnp.int32) + state.step) % len(self.plans)
        batch = batch | {"level": level}
        if not skimming:
            coefficient = jnp.float32(0.0)
        elif skim.has_budget:
            coefficient = jnp.where(settled, 0.0, state.controller.price)
        else:
            coefficient = jnp.float32(skim.coefficient)
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        noise = budget.gate_noise(skim, state.step, self.total_steps)
        # Where decisions stand, the relaxation's gradient would still go through the margins into what the predictors read, which is what
        # the layers compute with. No price is beside it then, so all tokens would become worth keeping, and the loss would rise.
        gate = GumbelGate(noise, jnp.where(settled, 0.0, 1.0))
        grads, sums = self._gradients(state.params, batch, teacher, coefficient, gate, key)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        controller = state.controller
        if skim.has_budget:
            controller, shift = controller.update(budget.price_gain(self.arch), target, sums.pop("spent"), sums.pop("available"))
            params = with_increasing_levels(with_shifted_margins(params, shift))
            sums["share"] = controller.measured
        metrics = sums | {"coefficient": coefficient, "target": target, "grad_norm": optax.tree.norm(grads)}
        metrics = {name: jnp.mean(value) for name, value in metrics.items()}  # over predictors, where each has its own
        return TrainState(state.step + 1, params, opt_state, controller), metrics

    def _gradients(self, params, batch: Batch, teacher, coefficient, gate: GumbelGate, key):
        """Gradient and logged sums over the batch, summed over its micro-batches.

        Every part of the loss is a sum over examples divided by a number of the whole batch, so splitting the batch changes
        nothing but the order of additions and, since each micro-batch has a key of its own, all noise.
        """
        count = self.config.optimizer.accumulation
        denominators = {
            "weight": jnp.maximum(jnp.sum(batch["weight"]), 1.0),
            "tokens": skim_denominator(batch["attention_mask"]),
            # A constant, which no batch's lengths move.
            "price": len(batch["labels"]) * jnp.float32(self.distribution.mean),
        }
        gradient = jax.grad(self._loss, has_aux=True)
        if count == 1:
            return gradient(params, batch, teacher, coefficient, gate, denominators, key)
        # Every count-th row, so that each device splits the rows that it has.
        micro = jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), batch)

        def accumulate(total, inputs):
            part = gradient(params, inputs[0], teacher, coefficient, gate, denominators, inputs[1])
            return jax.tree.map(jnp.add, total, part), None

        first = jax.tree.map(lambda x: x[0], micro)
        shapes = jax.eval_shape(gradient, params, first, teacher, coefficient, gate, denominators, key)
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(accumulate, zero, (micro, jax.random.split(key, count)))
        return total

    def _loss(self, params, batch: Batch, teacher, coefficient, gate, denominators, key):
        config, weight = self.config, batch["weight"]
        model = nnx.merge(self.graph, gathered(params))
        inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        level = batch["level"] if config.skim.enabled and config.skim.trained_levels else None
        out = model(*inputs, key=key, gate=gate, level=level, only_logits=True)
        objective, outputs = objectives.objective_of(self.arch), model.outputs_of(out)
        # An example's loss is a mean of both; some texts have no label.
        of_teacher = 0.0 if self.teacher_graph is None else config.distill.weight
        from_labels = (1 - of_teacher) * weight * batch.get("labelled", 1.0)
        task = jnp.float32(0.0)
        if config.data.task != TEXTS:
            assert objective.from_labels is not None
            task = objective.from_labels(outputs, batch, from_labels) / denominators["weight"]
        if self.teacher_graph is not None:
            wanted = batch["answers"] if "answers" in batch else self._answers(teacher, inputs)
            distill = objective.from_teacher(outputs, wanted, batch, weight - from_labels, config.distill)
            task = task + distill / denominators["weight"]
        kept = skim_loss(out.keep, batch["attention_mask"], denominator=denominators["tokens"])
        logged = {"task_loss": task, "kept_tokens": kept}
        if not config.skim.enabled:
            return task, logged | {"loss": task, "share": kept}
        if not config.skim.has_budget:
            loss = task + coefficient * kept
            return loss, logged | {"loss": loss, "share": kept}
        lengths = jnp.sum(batch["attention_mask"].astype(jnp.float32), axis=-1)
        spent, available = budget.kept_tokens(self.arch, out.keep) / denominators["price"], lengths / denominators["price"]
        penalised = budget.penalised(self.arch, spent, lengths, self.distribution)
        loss = task + jnp.mean(jnp.sum(jnp.take(coefficient, batch["level"], axis=0).T * penalised, axis=-1))
        counts = self.distribution.counts_at(lengths)
        # Of each level, as if all texts were at it.
        at_level = len(self.plans) * jax.nn.one_hot(batch["level"], len(self.plans), dtype=jnp.float32)
        measured = {"spent": ((spent * jnp.broadcast_to(counts, spent.shape)) @ at_level).T, "available": (available * counts) @ at_level}
        return loss, logged | {"loss": loss} | measured

    def _answers(self, teacher, inputs: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        assert self.teacher_graph is not None
        model = nnx.merge(self.teacher_graph, gathered(teacher))
        return jax.lax.stop_gradient(model.outputs_of(model(*inputs, only_logits=True)))
