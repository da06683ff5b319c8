"""Compiled programs, one for each schedule, and the batches they run."""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.inference.schedule import Schedule
from transkimmer_jax.models.encoder import Stage
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.models.skim import path_keys
from transkimmer_jax.progress import tqdm

_FIRST_DECISIONS = Stage(0, 1)  # the embeddings and the first predictor


class Programs:
    """The compacted programs of one model: made when first needed, kept, counted.

    Each takes one batch a device and returns, for every device, kept [D, predictors, B], lost [D, B], where `depths` depth [D, T],
    and logits [D, B, num_labels] or, of a stage before the last, states [D, rows, H]; see `heads.CompactedOutput`. Of a model of
    shapes alone, programs can be lowered and not run.
    """

    def __init__(self, model: TranskimmerForSequenceClassification, devices: list[jax.Device], depths: bool = False):
        self._graph, params = nnx.split(model)
        self.arch, self.depths = model.arch, depths
        self._mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        self.device_count = len(devices)
        self._whole = jax.NamedSharding(self._mesh, jax.P())
        self._batch_sharding = jax.NamedSharding(self._mesh, jax.P("data"))
        self.params = jax.tree.map(self._placed, params)
        # The parameters that a stage reads. A call with these takes apart a tuple, which costs less than an nnx.State, of a short text's
        # time a tenth; and with those of one layer a fifth less than with those of four.
        self._leaves: dict[Stage, tuple[jax.Array, ...]] = {}
        self._thresholds: dict[float, jax.Array] = {}  # the last one, on the devices
        self._compiled: dict[Schedule, Any] = {}
        self.calls: collections.Counter[Schedule] = collections.Counter()
        self.compile_seconds = 0.0
        self.progress = True  # show a bar while compiling

    def __len__(self) -> int:
        return len(self._compiled)

    def _placed(self, leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._whole)
        return jax.device_put(leaf, self._whole)

    def shared(self, stage: Stage) -> Stage:
        """The stage whose programs a stage runs, with its own layers' parameters: all that lie between the first layer and the last, and
        have as many layers, run the same ones."""
        if stage.first < 2 or stage.stop > self.arch.num_hidden_layers:
            return stage
        return Stage(2, 2 + stage.stop - stage.first)

    def _of(self, schedule: Schedule) -> Schedule:
        """What is compiled for a schedule."""
        return dataclasses.replace(schedule, stage=self.shared(schedule.stage))

    def _reads(self, stage: Stage, keys: tuple[str | int, ...]) -> bool:
        """Whether a stage's program reads the parameter that has these `path_keys`."""
        layers = self.arch.num_hidden_layers
        match keys:
            case ("encoder", "layers", int(number), *_):
                return stage.first <= number + 1 < stage.stop
            case ("encoder", "predictors", int(number), *_):
                return number in stage.skims(layers)
            case ("embeddings", *_):
                return stage.first <= 1
            case ("pooler" | "classifier", *_):
                return stage.stop > layers
        return True

    def _leaves_of(self, stage: Stage) -> tuple[jax.Array, ...]:
        """The parameters as a stage's program takes them."""
        if stage not in self._leaves:
            shared = self.shared(stage)
            found = {path_keys(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(self.params)}
            read = [_later(keys, stage.first - shared.first) for keys in found if self._reads(shared, keys)]
            self._leaves[stage] = tuple(found[keys] for keys in read)
        return self._leaves[stage]

    def compile(self, schedules: list[Schedule], progress: bool | None = None) -> None:
        """Compile what is not there yet. progress: with a bar; None: as `self.progress` says."""
        progress = self.progress if progress is None else progress
        missing = [schedule for schedule in dict.fromkeys(map(self._of, schedules)) if schedule not in self._compiled]
        for schedule in tqdm(missing, desc="compiling", unit="program", leave=False, disable=not (progress and missing)):
            started = time.perf_counter()
            self._compiled[schedule] = self.lowered(schedule).compile()
            self.compile_seconds += time.perf_counter() - started

    def temporary_bytes(self) -> int | None:
        """The most memory that one of the programs in `calls` needs beside inputs and outputs; None where XLA does not say."""
        found = [self._compiled[schedule].memory_analysis() for schedule in self.calls]
        return max((analysis.temp_size_in_bytes for analysis in found if analysis is not None), default=None)

    def lowered(self, schedule: Schedule) -> Any:
        """The program of a schedule before compilation (`jax.stages.Lowered`). It takes a tuple of the parameters that the stage reads."""
        return self._lowered(self.function(schedule), schedule.stage, self.arguments(schedule))

    def _lowered(self, function: Callable[..., Any], stage: Stage, arguments: Sequence[jax.ShapeDtypeStruct]) -> Any:
        """Of a function of the parameters and these arguments, the program that takes a tuple of the parameters that the stage reads."""
        structure = jax.tree.structure(self.params)
        read = [self._reads(stage, path_keys(path)) for path, _ in jax.tree_util.tree_leaves_with_path(self.params)]

        def program(leaves, *inputs):
            given = iter(leaves)
            # To read one of the others, None here, fails.
            return function(jax.tree.unflatten(structure, [next(given) if each else None for each in read]), *inputs)

        return jax.jit(program).lower(self._leaves_of(stage), *arguments)

    def function(self, schedule: Schedule) -> Any:
        """(params, *rows, lengths [D, B], threshold) -> dict of arrays, unjitted. The rows are input_ids and token_type_ids [D, T]
        of a stage that begins with the embedding; these and positions of one that begins with the first layer, whose tokens have been
        chosen already; else states [D, T, H]."""

        def one_device(params, *inputs):
            *rows, lengths, threshold = inputs
            rows, lengths, model = [each[0] for each in rows], lengths[0], nnx.merge(self._graph, params)
            match schedule.stage.first:
                case 0:
                    hidden = model.packed_embeddings(rows[0], rows[1], lengths)
                case 1:
                    hidden = model.embeddings(rows[0], rows[1], rows[2], None)
                case _:
                    (hidden,) = rows
            out = model.compacted_stage(hidden, lengths, schedule.bucket.width, schedule.layers, schedule.stage, threshold=threshold)
            answers = {"kept": out.kept, "lost": out.lost, "logits": out.logits, "states": out.states}
            if self.depths:
                answers["depth"] = out.depth - schedule.stage.first  # of layers of the stage
            return {name: array[None] for name, array in answers.items() if array is not None}

        if self.device_count == 1:
            return one_device
        split, whole = jax.P("data"), jax.P()
        in_specs = (whole, *(split for _ in self.arguments(schedule)[:-1]), whole)
        return jax.shard_map(one_device, mesh=self._mesh, in_specs=in_specs, out_specs=split, check_vma=False)

    def first_margins(self, rows: int) -> Callable[..., jax.Array]:
        """The compiled program that says of tokens by how much the first predictor would keep them: input_ids, token_type_ids and
        positions, int32 [rows] each -> float32 [rows]."""

        def margins(params, input_ids, token_type_ids, positions):
            model = nnx.merge(self._graph, params)
            return model.encoder.predictors[0](model.embeddings(input_ids, token_type_ids, positions, None))

        row = jax.ShapeDtypeStruct((rows,), jnp.int32)
        compiled = self._lowered(margins, _FIRST_DECISIONS, [row] * 3).compile()
        return functools.partial(compiled, self._leaves_of(_FIRST_DECISIONS))

    def arguments(self, schedule: Schedule) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of what follows the parameters in a call."""
        tokens, sequences = schedule.bucket.tokens, schedule.bucket.sequences
        rows: list[tuple[tuple[int, ...], Any]]
        if schedule.stage.first <= 1:
            rows = [((tokens,), jnp.int32)] * (2 + schedule.stage.first)
        else:
            rows = [((tokens, self.arch.hidden_size), self.arch.dtype)]
        shapes = [
            jax.ShapeDtypeStruct((self.device_count, *shape), dtype, sharding=self._batch_sharding)
            for shape, dtype in (*rows, ((sequences,), jnp.int32))
        ]
        return (*shapes, jax.ShapeDtypeStruct((), jnp.float32, sharding=self._whole))

    def run(self, schedule: Schedule, batches: Sequence[np.ndarray], threshold: float) -> dict[str, jax.Array]:
        """Start a program on one batch a device; the arrays come when they are read.

        A schedule not compiled yet is compiled first.

        Args:
          batches: rows and lengths, as `function` takes them.
        """
        stage, schedule = schedule.stage, self._of(schedule)
        if schedule not in self._compiled:
            self.compile([schedule])
        self.calls[schedule] += 1
        if threshold not in self._thresholds:
            self._thresholds = {threshold: jax.device_put(np.float32(threshold), self._whole)}
        return self._compiled[schedule](self._leaves_of(stage), *batches, self._thresholds[threshold])


def _later(keys: tuple[str | int, ...], by: int) -> tuple[str | int, ...]:
    """The `path_keys` of what has these, `by` layers later."""
    match keys:
        case ("encoder", "layers" | "predictors" as part, int(number), *rest):
            return ("encoder", part, number + by, *rest)
    return keys
