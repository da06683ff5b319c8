"""Which part of its teacher a student is where nobody says: fewer layers and neurons, so that more of a budget goes into tokens.

Which loses least was measured with MiniLM's six layers (docs/ablations.md). A classifier has the first ones; an embedder those that its
teacher can spare least, since its last layers make the vectors. Of long texts a classifier can spare more tokens, so it keeps its neurons.
"""

import dataclasses
import logging
import math
import os

import numpy as np
from etils import epath

from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import Config
from transkimmer_jax.models import flops
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.training import inputs
from transkimmer_jax.training.layer_choice import TEXTS, choose_for_run
from transkimmer_jax.training.models import load_task, load_tokenizer, student_shapes
from transkimmer_jax.training.workdir import read_config

logger = logging.getLogger("transkimmer_jax")

_LONG_TEXT = 128.0  # tokens, on average; students of texts of 25, 49 and 208 were measured
_PART_FIELDS = ("layers", "intermediate_size")
_ROOM = 1.03  # between what a part costs with all tokens and the largest budget: texts differ, and predictors cost a little


@dataclasses.dataclass(frozen=True)
class Part:
    """layers, neurons: shares of the teacher's. first: the first layers; else they are to be chosen. predictors: how many decide; None:
    one before each layer."""

    layers: float
    neurons: float
    first: bool = False
    predictors: int | None = None

    def of(self, arch: Architecture) -> Architecture:
        """What of a whole model is left."""
        return dataclasses.replace(
            arch,
            num_hidden_layers=math.ceil(self.layers * arch.num_hidden_layers),
            intermediate_size=round(self.neurons * arch.intermediate_size),
        )


_OF_HEADS = {
    "sequence_classification": (
        Part(2 / 3, 1 / 3, first=True, predictors=1),
        Part(2 / 3, 2 / 3, first=True),
        Part(2 / 3, 1, first=True),
    ),
    "sentence_embedding": (Part(5 / 6, 1 / 2, predictors=2),),
}
_OF_LONG_TEXTS = _OF_HEADS | {"sequence_classification": (Part(2 / 3, 1, first=True, predictors=1),)}


def suitable(arch: Architecture, largest: float, length: float) -> Part | None:
    """The smallest part of a model that costs more than the largest budget, a share of the FLOPs; None: all of it.

    length: tokens of a text, on average.
    """
    lengths = np.array([length])
    whole = flops.dense(arch, lengths)[0]
    for part in (_OF_LONG_TEXTS if length >= _LONG_TEXT else _OF_HEADS).get(arch.head, ()):
        if flops.dense(part.of(arch), lengths)[0] >= _ROOM * largest * whole:
            return part
    return None


def with_part(config: Config, workdir: str | os.PathLike) -> Config:
    """`config` with the part of the teacher that its student has by default, or has had since the run in `workdir` began.

    As it is where it names a part, where the student starts from another model, where no share of FLOPs is stated, and where the run
    began with the whole.

    Raises: as `layer_choice.choose_for_run`. CheckpointError: the teacher's tokenizer cannot be used.
    """
    folder = epath.Path(workdir)
    with files.explained(folder):
        began = read_config(folder)
    if began is not None and not any(began.get("model", {}).get(name) for name in _PART_FIELDS):
        return config
    skim, model = config.skim, config.model
    if model.part is not None or model.pretrained != config.distill.teacher or not skim.has_budget:
        return config
    task = load_task(config)
    arch = student_shapes(config, task)
    if arch.head not in _OF_HEADS or arch.dense_layers or arch.dense_intermediate:
        return config
    length = inputs.held_out(config, task, load_tokenizer(config, task, arch), TEXTS).lengths.mean()
    part = suitable(arch, skim.targets[0], float(length))
    if part is None:
        return config
    count = part.of(arch).num_hidden_layers
    logger.info(
        "the student has %d of %d layers, with %.0f %% of their neurons; --whole gives it all of them", count, arch.num_hidden_layers,
        100 * part.neurons,
    )  # fmt: skip
    if part.neurons < 1:
        config = dataclasses.replace(config, model=dataclasses.replace(model, intermediate_size=part.neurons))
    if part.predictors is not None and skim.layers is None:
        deciding = tuple(sorted({count * number // part.predictors for number in range(part.predictors)}))
        config = dataclasses.replace(config, skim=dataclasses.replace(skim, layers=deciding))
    if count == arch.num_hidden_layers:
        return config
    layers = count if part.first else choose_for_run(config, count, workdir)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, layers=layers))
