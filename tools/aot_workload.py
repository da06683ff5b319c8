"""A run's programs, compiled for devices that are not here, and what they ask of each of them.

Nothing is allocated: parameters and batches are shapes, each with the sharding that it has in a run.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tools import roofline
from tools.topology import Topology
from transkimmer_jax.config import Config
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.evaluation import masked
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.hardware import RUNGS, hardware
from transkimmer_jax.inference.programs import Programs, cast
from transkimmer_jax.inference.shapes import Bucket, Schedule, ladder
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.training.budget import LengthDistribution
from transkimmer_jax.training.step import TrainStep

_STEPS = 1000  # of the run whose schedules the training step knows; nothing measured here depends on it


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a compiled program asks of each chip.

    program: what it does. examples: of a call, on all chips. compile_seconds: on this machine. memory_bytes: parameters, inputs,
    results and temporaries. flops: operations, by the compiler's count. model_flops: those that the model itself needs, by this
    package's count (`models/flops.py`), of padded batches. Training needs three forward passes, and one of the teacher.
    traffic, bound: see `analysis/roofline.py`.
    """

    program: str
    examples: int
    compile_seconds: float
    memory_bytes: int
    flops: float
    model_flops: float
    traffic: roofline.Traffic
    bound: roofline.Bound

    def utilization(self, chip: roofline.Chip) -> float:
        """Model FLOPs utilisation at most: of what the chip could compute in the program's least time, what the model needs."""
        return self.model_flops / (chip.flops * self.bound.seconds)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A config's model on batches of one shape.

    arch: of the model, any head. teacher: of the dense teacher, if there is one. batch: examples of a training or evaluation step on each
    chip. length: to which they are padded. batch_tokens: of a compacted program, on each chip; None for an accelerator's default.
    calibration: how many tokens are kept of such texts; None: nothing is known.
    """

    config: Config
    arch: Architecture
    teacher: Architecture | None
    batch: int
    length: int
    batch_tokens: int | None = None
    calibration: Calibration | None = None

    def compile(self, program: str, topology: Topology) -> list[Costs]:
        """Compile 'train', 'evaluate' or 'compacted' (the engine's programs, and the dense model's) for a slice.

        Raises:
          ConfigError: a mesh that the slice does not fill.
        """
        if program == "compacted":
            return self._compacted(topology)
        placement = Placement.create(self.config.mesh, topology.devices)
        with jax.set_mesh(placement.mesh):
            if program == "train":
                operations = 3 * self._forward(self.arch) + (0 if self.teacher is None else self._forward(self.teacher))
                return [_compiled("training step", self._train(placement), topology, self.batch, operations)]
            return [_compiled("evaluation step", self._evaluate(placement), topology, self.batch, self._forward(self.arch))]

    def _forward(self, arch: Architecture) -> float:
        """Operations of a forward pass on each chip, every token of the padded batch kept."""
        length = np.float64(self.length)
        return self.batch * float(flops.skimmed(arch, [length] * arch.num_hidden_layers, length))

    def _train(self, placement: Placement) -> jax.stages.Lowered:
        model = _abstract(self.arch)
        teacher = None if self.teacher is None else _abstract(self.teacher)
        train_step = TrainStep.create(self.config, model, _STEPS, teacher, LengthDistribution.like(self.length))
        state = _placed(jax.eval_shape(train_step.start, nnx.split(model)[1]), placement)
        teacher_params = None if teacher is None else _placed(nnx.split(teacher)[1], placement)
        return train_step.jitted(state, placement).lower(state, self._batch(placement, labels=True), teacher_params)

    def _evaluate(self, placement: Placement) -> jax.stages.Lowered:
        graph, params = nnx.split(_abstract(self.arch))
        threshold = jax.ShapeDtypeStruct((), jnp.float32, sharding=placement.replicated)
        return masked.jitted(graph, placement).lower(_placed(params, placement), self._batch(placement, labels=False), threshold)

    def _batch(self, placement: Placement, labels: bool) -> dict[str, jax.ShapeDtypeStruct]:
        size = self.batch * placement.device_count
        tokens, rows = (size, self.length), (size,)
        shapes: dict[str, tuple[tuple[int, ...], Any]]
        shapes = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (tokens, jnp.int32))
        if labels:
            labelled = {"token_classification": tokens, "question_answering": (size, 2)}.get(self.arch.head, rows)
            is_real = self.arch.is_regression or self.arch.multi_label
            labelled = (size, self.arch.num_labels) if self.arch.multi_label else labelled
            shapes |= {"labels": (labelled, jnp.float32 if is_real else jnp.int32), "weight": (rows, jnp.float32)}
        return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=placement.batch) for name, (shape, dtype) in shapes.items()}

    def _compacted(self, topology: Topology) -> list[Costs]:
        """Of batches of texts of `length` tokens: the dense model's program, and the engine's for each rung that differs."""
        sizes = hardware("tpu")
        count = max(1, (self.batch_tokens or sizes.batch_tokens) // self.length)
        bucket = Bucket(count, count * self.length, self.length)
        dense = self.arch.compared
        programs = [self._packed("dense, packed", dense, Schedule.full(bucket, dense.num_hidden_layers), topology)]
        if self.arch.skim is not None:
            # Of equal ones the last, which has room for all.
            rungs = dict(zip(ladder(bucket, self.arch, self.calibration, sizes.row_multiple), RUNGS, strict=True))
            for schedule, times in rungs.items():
                rows = "all rows" if times == RUNGS[-1] else "expected rows" if times == 1 else f"{times:g}x expected rows"
                programs.append(self._packed(f"compacted, {rows}", self.arch, schedule, topology))
        return programs

    def _packed(self, name: str, arch: Architecture, schedule: Schedule, topology: Topology) -> Costs:
        model = nnx.eval_shape(lambda: cast(HEADS[arch.head](arch, rngs=nnx.Rngs(0)), arch.compute_dtype))
        lowered = Programs(model, topology.devices).lowered(schedule)
        return _compiled(name, lowered, topology, schedule.bucket.sequences, schedule.flops(arch))


def _abstract(arch: Architecture) -> TranskimmerPreTrainedModel:
    """A model of shapes alone, with the architecture's head."""
    return HEADS[arch.head].abstract(arch)


def _compiled(name: str, lowered: jax.stages.Lowered, topology: Topology, examples: int, model_flops: float) -> Costs:
    """Compile, and read off the program. examples, model_flops: of each chip."""
    started = time.perf_counter()
    compiled: Any = lowered.compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    operations, traffic = float(compiled.cost_analysis()["flops"]), roofline.traffic(compiled.as_text())
    bound = roofline.bound(topology.chip, topology.shape, operations, traffic)
    return Costs(name, examples * len(topology.devices), seconds, needed, operations, model_flops, traffic, bound)


def _placed(tree: Any, placement: Placement) -> Any:
    """Shapes with the shardings of parameters."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement.parameter(leaf.shape)), tree)
