"""Which layers of a dense model its student can do without.

Layers are left out one after the other, each time the one without which the model, untrained, still answers most as the whole one does
(Men et al., 2024, leave layers of language models out by what they change). No labels are read. The first layers of a classifier are a good
start without a choice; of an embedder they are not, as its last layers make the vectors (docs/ablations.md).
"""

import functools
import logging
import os

from etils import epath
from flax import nnx

from transkimmer_jax.checkpoints import files
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.config import Config
from transkimmer_jax.data import batches, pipeline
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.distributed import processes
from transkimmer_jax.errors import ConfigError, TrainingError
from transkimmer_jax.evaluation import masked
from transkimmer_jax.evaluation.agreement import compute_agreement
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.progress import tqdm
from transkimmer_jax.training import inputs
from transkimmer_jax.training.models import load_task, teacher_options
from transkimmer_jax.training.workdir import read_config

logger = logging.getLogger("transkimmer_jax")

TEXTS = 128  # held-out ones that are answered
BATCH_SIZE = 16  # few texts fall into many lengths, and the last batch of each length is filled up


def choose_for_run(config: Config, count: int, workdir: str | os.PathLike) -> tuple[int, ...]:
    """The layers that the run in `workdir` began with, or where none has begun, `choose`.

    Raises:
      ConfigError: as `choose`. TrainingError: the run began with another number of layers, or its `config.json` is damaged.
    """
    _require_unnamed(config, count)
    folder = epath.Path(workdir)
    with files.explained(folder):
        began = read_config(folder)
    if began is None:
        return choose(config, count)
    layers = began.get("model", {}).get("layers")
    if not isinstance(layers, list) or len(layers) != count:
        named = ",".join(map(str, layers)) if isinstance(layers, list) else layers
        raise TrainingError(f"the run in {workdir} began with model.layers={named}, and not with {count} layers: choose another folder")
    return tuple(layers)


def choose(config: Config, count: int) -> tuple[int, ...]:
    """The numbers of the `count` layers of `model.pretrained` to keep, rising.

    Raises:
      ConfigError: layers that the config names already, or more than there are. DataError, CheckpointError: as a run of the config.
    """
    _require_unnamed(config, count)
    task = load_task(config)
    model_class, options = HEADS[task.head], teacher_options(config, task)
    whole = model_class.from_pretrained(config.model.pretrained, complete=True, **options)
    there = whole.arch.num_hidden_layers
    if not 1 <= count <= there:
        raise ConfigError(f"{count} layers of {config.model.pretrained}, which has {there}: take 1 to {there}")
    tokenizer = pipeline.load_tokenizer(resolve(config.model.pretrained), whole.arch.vocab_size)
    tokens = inputs.held_out(config, task, tokenizer, TEXTS)
    planned = batches.evaluation_batches(tokens, BATCH_SIZE, config.data.length_buckets, task.max_length, tokenizer.pad_token_id)
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


def _require_unnamed(config: Config, count: int) -> None:
    if config.model.layer_count is not None:
        raise ConfigError(f"which layers to take is said twice: choose {count} of them, or set model.layers")


def _likeness(task: Task, answers: Predictions, wanted: Predictions) -> float:
    """More is better: of vectors the cosine, of values their correlation, of labels and places the negative divergence."""
    measures = compute_agreement(task, answers, wanted)
    return -measures["divergence"] if "divergence" in measures else next(iter(measures.values()))
