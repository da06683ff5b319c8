"""Compiled programs, one for each schedule."""

import collections
import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.inference.shapes import Schedule
from transkimmer_jax.models.outputs import TOKEN_EMBEDDINGS, with_token_embeddings
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.progress import tqdm

Model = TypeVar("Model", bound=TranskimmerPreTrainedModel)


class Programs:
    """The compacted programs of one model: made when first needed, kept, counted.

    Each takes one batch a device and returns, for every device, the head's outputs [D, B, ...] of texts or [D, T, ...] of tokens, kept
    [D, layers, B], lost [D, B] and, where `depths`, depth [D, T]; see `outputs.CompactedOutput`. Of a model of shapes alone, programs can
    be lowered and not run.

    runs: how often each schedule's program was started. compile_seconds: spent on compiling so far.
    """

    def __init__(self, model: TranskimmerPreTrainedModel, devices: list[jax.Device], depths: bool = False, token_embeddings: bool = False):
        self._graph, params = nnx.split(model)
        self.outputs = with_token_embeddings(model.outputs, model.arch.hidden_size) if token_embeddings else model.outputs
        self.depths, self._token_embeddings = depths, token_embeddings
        self._mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        self.device_count = len(devices)
        self._whole = jax.NamedSharding(self._mesh, jax.P())
        self.params = jax.tree.map(self._placed, params)
        self._compiled: dict[Schedule, Any] = {}
        self.runs: collections.Counter[Schedule] = collections.Counter()
        self.compile_seconds = 0.0

    def __len__(self) -> int:
        return len(self._compiled)

    def _placed(self, leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._whole)
        return jax.device_put(leaf, self._whole)

    def function(self, schedule: Schedule, portable: bool = False) -> Any:
        """(params, input_ids [D, T], token_type_ids [D, T], lengths [D, B], threshold) -> dict of arrays, unjitted. portable: for
        `jax.export`."""

        def on_one_device(params, input_ids, token_type_ids, lengths, threshold):
            out = nnx.merge(self._graph, params).compacted(
                input_ids[0], token_type_ids[0], lengths[0], schedule.bucket.width, schedule.layers,
                threshold=threshold, only_logits=not self._token_embeddings, portable=portable,
            )  # fmt: skip
            outputs = out.answers | {"kept": out.kept, "lost": out.lost} | ({"depth": out.depth} if self.depths else {})
            if out.last_hidden_state is not None:
                outputs[TOKEN_EMBEDDINGS] = out.last_hidden_state
            return {name: array[None] for name, array in outputs.items()}

        if self.device_count == 1:
            return on_one_device
        split, whole = jax.P("data"), jax.P()
        in_specs = (whole, split, split, split, whole)
        return jax.shard_map(on_one_device, mesh=self._mesh, in_specs=in_specs, out_specs=split, check_vma=False)

    def lowered(self, schedule: Schedule) -> Any:
        """The program of a schedule before compilation, a `jax.stages.Lowered`."""
        split = jax.NamedSharding(self._mesh, jax.P("data"))
        rows, slots = (
            jax.ShapeDtypeStruct((self.device_count, count), jnp.int32, sharding=split)
            for count in (schedule.bucket.tokens, schedule.bucket.sequences)
        )
        threshold = jax.ShapeDtypeStruct((), jnp.float32, sharding=self._whole)
        return jax.jit(self.function(schedule)).lower(self.params, rows, rows, slots, threshold)

    def compile(self, schedules: list[Schedule], progress: bool) -> None:
        """Compile what is not there yet. progress: with a bar."""
        missing = [schedule for schedule in dict.fromkeys(schedules) if schedule not in self._compiled]
        for schedule in tqdm(missing, desc="compiling", unit="program", leave=False, disable=not (progress and missing)):
            started = time.perf_counter()
            self._compiled[schedule] = self.lowered(schedule).compile()
            self.compile_seconds += time.perf_counter() - started

    def free(self, is_used: Callable[[Schedule], bool]) -> None:
        """Drop the programs of all other schedules."""
        self._compiled = {schedule: program for schedule, program in self._compiled.items() if is_used(schedule)}

    def run(self, schedule: Schedule, batches: list[np.ndarray], threshold: float) -> dict[str, jax.Array]:
        """Start a compiled program on one batch a device; the arrays come when they are read.

        batches: input_ids, token_type_ids and lengths, as `function` takes them.
        """
        self.runs[schedule] += 1
        return self._compiled[schedule](self.params, *batches, np.float32(threshold))


def cast(model: Model, dtype: str) -> Model:
    """The model that computes in a dtype, with its weights stored in it: norms, decisions, levels' knots, which are thresholds, and the
    head's last product stay float32."""
    graph, _ = nnx.split(type(model).abstract(dataclasses.replace(model.arch, compute_dtype=dtype)))

    def stored(path, leaf):
        name = jax.tree_util.keystr(path)
        return leaf if any(part in name for part in ("norm", "decision", "knots", "classifier", "qa_outputs")) else leaf.astype(dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(stored, nnx.split(model)[1]))
