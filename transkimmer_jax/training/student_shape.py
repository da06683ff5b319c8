"""The shape of a distilled student: its share of the teacher's layers and neurons, and its number of predictors.

A smaller student spends more of a budget on tokens. By default it has the smallest measured shape that costs more than the largest budget:
a classifier the first two thirds of the layers, with a third or two thirds of the neurons, or all of them where texts are long; an embedder
five sixths of the layers, chosen, with half of the neurons. Other heads keep everything. The shapes were measured with MiniLM's six layers
(docs/ablations.md).

Chosen layers are left out one by one: each time the one without which the untrained model still answers most as the whole one does (Men et
al., 2024). No labels are read. The last layers of an embedder make its vectors, so its first layers would be a bad start.
"""

import dataclasses
import functools
import logging
import math
import os

import numpy as np
from etils import epath
from flax import nnx

from transkimmer_jax.checkpoints import files
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.config import Config, with_fields
from transkimmer_jax.data import batches, pipeline
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.distributed import processes
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.evaluation import masked
from transkimmer_jax.evaluation.agreement import compute_agreement
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.progress import tqdm
from transkimmer_jax.training import inputs
from transkimmer_jax.training.models import load_task, load_tokenizer, student_shapes, teacher_options
from transkimmer_jax.training.workdir import read_config

logger = logging.getLogger("transkimmer_jax")

_LONG_TEXT = 128.0  # tokens, on average; students of texts of 25, 49 and 208 were measured
_ROOM = 1.03  # least cost of a shape, in largest budgets: lengths differ, and predictors cost a little
_TEXTS = 128  # held-out texts that are answered to choose layers
_BATCH_SIZE = 16  # few texts fall into many lengths, and the last batch of each length is filled up


@dataclasses.dataclass(frozen=True)
class StudentShape:
    """Shares of the teacher's layers and neurons.

    first: the first layers are kept; else layers are chosen. predictors: their number; None: one before each layer.
    """

    layers: float
    neurons: float
    first: bool = False
    predictors: int | None = None

    def of(self, teacher: Architecture) -> Architecture:
        """The teacher's architecture in this shape."""
        return dataclasses.replace(
            teacher,
            num_hidden_layers=math.ceil(self.layers * teacher.num_hidden_layers),
            intermediate_size=round(self.neurons * teacher.intermediate_size),
        )


# Smallest first.
_BY_HEAD = {
    "sequence_classification": (
        StudentShape(2 / 3, 1 / 3, first=True, predictors=1),
        StudentShape(2 / 3, 2 / 3, first=True),
        StudentShape(2 / 3, 1, first=True),
    ),
    "sentence_embedding": (StudentShape(5 / 6, 1 / 2, predictors=2),),
}
# Long texts can spare more tokens, so a classifier keeps its neurons.
_OF_LONG_TEXTS = _BY_HEAD | {"sequence_classification": (StudentShape(2 / 3, 1, first=True, predictors=1),)}


def default_shape(teacher: Architecture, budget: float, length: float) -> StudentShape | None:
    """The smallest shape that costs more than the largest budget, a share of the teacher's FLOPs; None: all of the teacher.

    length: tokens of a text, on average.
    """
    lengths = np.array([length])
    whole = flops.dense(teacher, lengths)[0]
    shapes = (_OF_LONG_TEXTS if length >= _LONG_TEXT else _BY_HEAD).get(teacher.head, ())
    return next((shape for shape in shapes if flops.dense(shape.of(teacher), lengths)[0] >= _ROOM * budget * whole), None)


def with_student_shape(config: Config, workdir: str | os.PathLike, layers: int | None = None) -> Config:
    """`config` with the fields that give its student a shape.

    A run that began in `workdir` keeps its shape. A shape that `config` names stays, and so does a student that starts from another model
    than its teacher, or has no budget.

    Args:
      config: of a distillation run.
      workdir: folder of the run.
      layers: number of layers to choose; all neurons are kept then. None: the default shape.

    Raises:
      ConfigError: `config` names layers too, or the teacher has fewer. CheckpointError: the teacher or its tokenizer cannot be used.
      DataError: the texts cannot be read. TrainingError: `config.json` in `workdir` is damaged.
    """
    if layers is not None and config.model.layers is not None:
        raise ConfigError(f"--layers {layers} and model.layers both name the student's layers: leave one out")
    folder = epath.Path(workdir)
    with files.explained(folder):
        began = read_config(folder)
    if began is not None:
        return _with_shape_of(config, began, layers)
    if layers is not None:
        with_fields(config, {"model.layers": layers})  # refuses what does not fit before the choice, which takes minutes
        return with_fields(config, {"model.layers": choose_layers(config, layers)})
    skim, model = config.skim, config.model
    if model.part is not None or model.pretrained != config.distill.teacher or not skim.has_budget:
        return config
    task = load_task(config)
    teacher = student_shapes(config, task)
    if teacher.head not in _BY_HEAD or teacher.dense_layers or teacher.dense_intermediate:
        return config
    length = inputs.held_out(config, task, load_tokenizer(config, task, teacher), _TEXTS).lengths.mean()
    shape = default_shape(teacher, skim.targets[0], float(length))
    if shape is None:
        return config
    count, there = shape.of(teacher).num_hidden_layers, teacher.num_hidden_layers
    logger.info("the student has %d of %d layers and %.0f %% of their neurons; --whole keeps all", count, there, 100 * shape.neurons)
    fields: dict[str, object] = {}
    if shape.neurons < 1:
        fields["model.intermediate_size"] = shape.neurons
    if shape.predictors is not None and skim.layers is None:
        fields["skim.layers"] = sorted({count * number // shape.predictors for number in range(shape.predictors)})
    if count < there:
        fields["model.layers"] = count if shape.first else choose_layers(config, count)
    return with_fields(config, fields)


def _with_shape_of(config: Config, began: dict, layers: int | None) -> Config:
    """`config` with the shape that the run of the config `began` has. The run itself refuses a `config` that differs otherwise."""
    recorded = began.get("model", {}).get("layers")
    if layers is not None:
        return with_fields(config, {"model.layers": recorded if isinstance(recorded, list) and len(recorded) == layers else layers})
    if config.model.part is not None:
        return config
    fields = {"model.layers": recorded, "model.intermediate_size": began.get("model", {}).get("intermediate_size")}
    if config.skim.layers is None:
        fields["skim.layers"] = began.get("skim", {}).get("layers")
    return with_fields(config, fields)


def choose_layers(config: Config, count: int) -> tuple[int, ...]:
    """The numbers of the `count` layers of `model.pretrained` to keep, rising.

    Raises:
      ConfigError: more layers than there are. DataError, CheckpointError: as a run of the config.
    """
    task = load_task(config)
    whole = HEADS[task.head].from_pretrained(config.model.pretrained, complete=True, **teacher_options(config, task))
    there = whole.arch.num_hidden_layers
    if not 1 <= count <= there:
        raise ConfigError(f"{count} layers of {config.model.pretrained}, which has {there}: take 1 to {there}")
    tokenizer = pipeline.load_tokenizer(resolve(config.model.pretrained), whole.arch.vocab_size)
    tokens = inputs.held_out(config, task, tokenizer, _TEXTS)
    planned = batches.evaluation_batches(tokens, _BATCH_SIZE, config.data.length_buckets, task.max_length, tokenizer.pad_token_id)
    # A program for each number of layers; of ModernBERT, whose layers are of two kinds, for each order of kinds.
    step = functools.cache(masked.evaluation_step)
    layers = tuple(whole.encoder.layers)

    def answers(kept: tuple[int, ...]) -> Predictions:
        whole.encoder.layers = nnx.List([layers[number] for number in kept])
        graph, params = nnx.split(whole)
        return masked.predict(step(graph), params, planned, len(tokens), 0.0)

    kept = tuple(range(there))
    wanted = answers(kept)
    # The first layer of a pre-norm encoder is of another kind than the others.
    fixed = 1 if whole.arch.kind.pre_norm else 0
    trials = sum(size - fixed for size in range(count + 1, there + 1))
    with tqdm(total=trials, desc="choosing layers", disable=not processes.is_first(), leave=False) as shown:
        while len(kept) > count:
            likeness = {}
            for layer in kept[fixed:]:
                rest = tuple(other for other in kept if other != layer)
                likeness[rest] = _likeness(task, answers(rest), wanted)
                shown.update()
            kept = max(likeness, key=likeness.__getitem__)
    left_out = [layer for layer in range(there) if layer not in kept]
    logger.info("%s: of its %d layers, %s are left out", config.model.pretrained, there, ", ".join(map(str, left_out)) or "none")
    return kept


def _likeness(task: Task, answers: Predictions, wanted: Predictions) -> float:
    """More is better: of vectors the cosine, of values their correlation, of labels and places the negative divergence."""
    measures = compute_agreement(task, answers, wanted)
    return -measures["divergence"] if "divergence" in measures else next(iter(measures.values()))
